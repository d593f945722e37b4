"""Build the pipeline: a fingerprint of the data, then six steps, the same on a laptop and on a cluster."""

import copy
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from kfp import compiler, dsl
from kfp.dsl import PipelineTask
from kfp.dsl.base_component import BaseComponent
from kfp.dsl.graph_component import GraphComponent

from components.artifacts.split_file import FEWEST_FOLDS, MOST_FOLDS
from components.core.errors import StepError
from components.core.settings import Settings, parameters_of
from components.ensemble.component import ensemble as ensemble_step
from components.evaluate.component import evaluate as evaluate_step
from components.fingerprint.component import fingerprint as fingerprint_step
from components.ingest.component import ingest as ingest_step
from components.preprocess.component import preprocess as preprocess_step
from components.register import card, policy
from components.register.component import register as register_step
from components.split.component import split as split_step
from components.train.component import train as train_step

NAME = "dwi-stroke-segmentation"
STEPS = ("fingerprint", "ingest", "preprocess", "split", "train", "evaluate", "register")
TRAIN_FOLDS = tuple(f"train-fold-{fold}" for fold in range(1, MOST_FOLDS + 1))
EVERY_STEP = (*STEPS[:5], *TRAIN_FOLDS, "ensemble", *STEPS[5:])
"""The steps of any pipeline: of one split, or of folds."""
STEP_HEADING = "==="
"""Begins the line before a step's log."""
DESCRIPTION = "Ischemic stroke lesions on diffusion MRI: scans in, a registered model out. Research use only."
READ_ON = "How to run it and what it promises: README.md of its code, 'On Kubernetes'."
DEPENDS_ON: dict[str, tuple[str, ...]] = {
    "fingerprint": (),
    "ingest": (),
    "preprocess": ("ingest",),
    "split": ("ingest",),
}
"""The steps whose settings change what an early step gives; every later step depends on all settings."""
POSITIONAL = inspect.Parameter.POSITIONAL_OR_KEYWORD


def steps_with(folds: int) -> tuple[str, ...]:
    """Return the steps of the pipeline with this number of folds, in their order."""
    return STEPS if folds == 1 else (*STEPS[:4], *TRAIN_FOLDS[:folds], "ensemble", *STEPS[5:])


def base_step(step: str) -> str:
    """Return the step whose code a step runs: "train" for "train-fold-2"."""
    return "train" if step in TRAIN_FOLDS else step


def folds_asked() -> int:
    """Return the number of folds in FOLDS; 1 where it is not set.

    Raises:
        StepError: the number is impossible.
    """
    asked = os.environ.get("FOLDS") or "1"
    if asked == "1":
        return 1
    if not asked.isdecimal() or not FEWEST_FOLDS <= int(asked) <= MOST_FOLDS:
        raise StepError(
            f"FOLDS={asked} is impossible: give {FEWEST_FOLDS} to {MOST_FOLDS} folds (one is held out, one validates, "
            "the others train), or leave it out for one split."
        )
    return int(asked)


def build(
    images: dict[str, str],
    prepare_task: Callable[[str, PipelineTask], None] = lambda step, task: None,
    run_name: str = "",
    folds: int = 1,
) -> GraphComponent:
    """Return the pipeline.

    Args:
        images: Step to the image that it runs in.
        prepare_task: Adds what the target needs to the task of a step, such as secrets and a GPU.
        run_name: The name of the run there, or its placeholder; empty if the id of the run is its name.
        folds: Folds of a cross-validation, each with a train step of its own; 1 for one split and one train step.
    """
    dealt = {} if folds == 1 else {"folds": folds}

    def dwi_stroke_segmentation(data_uri, *values):
        settings = dict(zip(Settings.model_fields, values, strict=True))

        def parameters(step: str) -> dict:
            return {name: settings[name] for name in parameters_of(step)}

        looked = fingerprint_step(data_uri=data_uri, run_name=run_name, **dealt, **parameters("fingerprint"))
        looked.set_caching_options(False)
        parent = looked.outputs["parent"]
        ingested = ingest_step(
            data_uri=data_uri, data_version=looked.outputs["data_version"], parent=parent, **parameters("ingest")
        )
        cases = ingested.outputs["cases"]
        sliced = preprocess_step(cases=cases, **parameters("preprocess"))
        divided = split_step(cases=cases, lineage=looked.outputs["lineage"], **dealt, **parameters("split"))
        split = divided.outputs["split"]
        inputs = {"cases": cases, "slices": sliced.outputs["slices"], "split": split, "parent": parent}
        inputs |= parameters("train")
        if folds == 1:
            trained = [train_step(**inputs)]
        else:  # one task for each fold: KFP drops the retries of tasks in its loops
            networks = [
                _named(train_step, name)(fold=fold, **inputs) for fold, name in enumerate(TRAIN_FOLDS[:folds], start=1)
            ]
            models = {f"model_{n}": network.outputs["model"] for n, network in enumerate(networks, start=1)}
            trained = [*networks, ensemble_step(split=split, **models)]
        model = trained[-1].outputs["model"]
        evaluated = evaluate_step(cases=cases, split=split, model=model, **parameters("evaluate"))
        registered = register_step(model=model, evaluation=evaluated.outputs["evaluation"], **parameters("register"))
        tasks = (looked, ingested, sliced, divided, *trained, evaluated, registered)
        for name, task in zip(steps_with(folds), tasks, strict=True):
            task.set_container_image(images[name])
            prepare_task(name, task)

    # KFP reads the parameters of the pipeline from the signature of this function, and their texts from its docstring.
    dwi_stroke_segmentation.__signature__ = _signature()  # type: ignore[attr-defined]
    dwi_stroke_segmentation.__doc__ = _docstring()
    pipeline = dsl.pipeline(name=NAME, description=f"{DESCRIPTION} {READ_ON}")(dwi_stroke_segmentation)
    form = pipeline.pipeline_spec.root.input_definitions.parameters
    for name, field in Settings.model_fields.items():
        for choice in get_args(field.annotation):  # Kubeflow's form shows them as a list; the SDK cannot set them
            form[name].literals.add(string_value=choice)
    return pipeline


def _named(component: BaseComponent, name: str) -> BaseComponent:
    """Return the component under another name, which its task, cache entry and executor get."""
    named = copy.copy(component)
    named.component_spec = copy.deepcopy(component.component_spec)
    named.name = named.component_spec.name = name
    return named


def settings_that_decide(step: str) -> set[str]:
    """Return the settings that decide the outputs of a step: its own, and those of the steps that it depends on.

    `start` decides the outputs of all steps: ingest reads the test scans of that model too.
    """
    if step not in DEPENDS_ON:
        return set(Settings.model_fields)
    return {"start", *(name for taker in (step, *DEPENDS_ON[step]) for name in parameters_of(taker))}


def _signature() -> inspect.Signature:
    """Return the parameters of the pipeline: the data, then every setting with its type and default."""
    parameters = [inspect.Parameter("data_uri", POSITIONAL, annotation=str)]
    for name, default in Settings():
        parameters.append(inspect.Parameter(name, POSITIONAL, default=default, annotation=type(default)))
    return inspect.Signature(parameters)


def _docstring() -> str:
    """Return the texts that Kubeflow's form shows beside each parameter."""
    lines = [DESCRIPTION, "", "Args:", "    data_uri: Where the scans are stored: s3://bucket/prefix."]
    for name, field in Settings.model_fields.items():
        choices = ", ".join(get_args(field.annotation))
        lines.append(f"    {name}: {field.description}{choices and f' One of: {choices}.'}")
    return "\n".join(lines)


def compile_to(
    path: Path,
    images: dict[str, str],
    prepare_task: Callable[[str, PipelineTask], None] = lambda step, task: None,
    run_name: str = "",
    folds: int = 1,
) -> None:
    """Write the pipeline's IR YAML to `path`; the other arguments are those of `build`.

    Raises:
        StepError: the promotion policy or the text of the model card is invalid. So a run stops before its training.
    """
    policy.load()
    card.load()
    compiler.Compiler().compile(build(images, prepare_task, run_name, folds), str(path))
