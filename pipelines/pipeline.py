"""The pipeline: six steps behind a fingerprint of the data, the same on a laptop and on a cluster."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

from kfp import compiler, dsl
from kfp.dsl import PipelineTask

from components.core.settings import Settings
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
STEP_HEADING = "==="
"""Begins the line before a step's log."""
DEFAULT = Settings()
DESCRIPTION = "Ischemic stroke lesions on diffusion MRI: scans in, a registered model out. Research use only."
READ_ON = "How to run it and what it promises: README.md of its code, 'On Kubernetes'."


def build(
    images: dict[str, str],
    equip: Callable[[str, PipelineTask], None] = lambda step, task: None,
    run_name: str = "",
):
    """The pipeline with each step's image, `images[step]`; `equip` gives a step's task what its place to run needs.

    `run_name` is what the place calls a run, or its placeholder; empty where a run's id is its name.
    """

    def dwi_stroke_segmentation(
        data_uri: str,
        image_size: int = DEFAULT.image_size,
        pixel_mm: float = DEFAULT.pixel_mm,
        normalization: str = DEFAULT.normalization,
        train_ratio: float = DEFAULT.train_ratio,
        val_ratio: float = DEFAULT.val_ratio,
        test_ratio: float = DEFAULT.test_ratio,
        base_channels: int = DEFAULT.base_channels,
        epochs: int = DEFAULT.epochs,
        batch_size: int = DEFAULT.batch_size,
        learning_rate: float = DEFAULT.learning_rate,
        schedule: str = DEFAULT.schedule,
        weight_decay: float = DEFAULT.weight_decay,
        loss: str = DEFAULT.loss,
        prior_bias: bool = DEFAULT.prior_bias,
        norm: str = DEFAULT.norm,
        ema_decay: float = DEFAULT.ema_decay,
        early_stop_patience: int = DEFAULT.early_stop_patience,
        selection: str = DEFAULT.selection,
        lesion_free_ratio: float = DEFAULT.lesion_free_ratio,
        sampling: str = DEFAULT.sampling,
        augmentation: str = DEFAULT.augmentation,
        aug_hflip_prob: float = DEFAULT.aug_hflip_prob,
        aug_rotate_prob: float = DEFAULT.aug_rotate_prob,
        aug_brightness_prob: float = DEFAULT.aug_brightness_prob,
        random_seed: int = DEFAULT.random_seed,
        tta: bool = DEFAULT.tta,
        cca: bool = DEFAULT.cca,
        deep_supervision: bool = DEFAULT.deep_supervision,
        n4_bias_correction: bool = DEFAULT.n4_bias_correction,
        inputs: str = DEFAULT.inputs,
        b_value: float = DEFAULT.b_value,
        modality_check: bool = DEFAULT.modality_check,
        carry_split: bool = DEFAULT.carry_split,
        precision: str = DEFAULT.precision,
        memory_format: str = DEFAULT.memory_format,
    ):
        looked = fingerprint_step(
            data_uri=data_uri,
            train_ratio=train_ratio,
            val_ratio=val_ratio,
            test_ratio=test_ratio,
            random_seed=random_seed,
            inputs=inputs,
            carry_split=carry_split,
            run_name=run_name,
        )
        looked.set_caching_options(False)
        ingested = ingest_step(
            data_uri=data_uri,
            data_version=looked.outputs["data_version"],
            b_value=b_value,
            modality_check=modality_check,
        )
        cases = ingested.outputs["cases"]
        sliced = preprocess_step(
            cases=cases,
            image_size=image_size,
            normalization=normalization,
            n4_bias_correction=n4_bias_correction,
            inputs=inputs,
            pixel_mm=pixel_mm,
        )
        parts = split_step(
            cases=cases,
            train_ratio=train_ratio,
            val_ratio=val_ratio,
            test_ratio=test_ratio,
            random_seed=random_seed,
            inputs=inputs,
            carry_split=carry_split,
            lineage=looked.outputs["lineage"],
        )
        split = parts.outputs["split"]
        trained = train_step(
            cases=cases,
            slices=sliced.outputs["slices"],
            split=split,
            base_channels=base_channels,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            schedule=schedule,
            weight_decay=weight_decay,
            loss=loss,
            prior_bias=prior_bias,
            norm=norm,
            ema_decay=ema_decay,
            early_stop_patience=early_stop_patience,
            selection=selection,
            lesion_free_ratio=lesion_free_ratio,
            sampling=sampling,
            augmentation=augmentation,
            aug_hflip_prob=aug_hflip_prob,
            aug_rotate_prob=aug_rotate_prob,
            aug_brightness_prob=aug_brightness_prob,
            random_seed=random_seed,
            tta=tta,
            cca=cca,
            deep_supervision=deep_supervision,
            precision=precision,
            memory_format=memory_format,
        )
        model = trained.outputs["model"]
        evaluated = evaluate_step(cases=cases, split=split, model=model)
        registered = register_step(model=model, evaluation=evaluated.outputs["evaluation"])
        tasks = (looked, ingested, sliced, parts, trained, evaluated, registered)
        for name, task in zip(STEPS, tasks, strict=True):
            task.set_container_image(images[name])
            equip(name, task)

    dwi_stroke_segmentation.__doc__ = _inputs_form()
    pipeline = dsl.pipeline(name=NAME, description=f"{DESCRIPTION} {READ_ON}")(dwi_stroke_segmentation)
    asked = pipeline.pipeline_spec.root.input_definitions.parameters
    for name, field in Settings.model_fields.items():
        for choice in get_args(field.annotation):  # a list in Kubeflow's form, which the SDK has no word for
            asked[name].literals.add(string_value=choice)
    return pipeline


def settings_of(step: str) -> set[str]:
    """The settings that decide what a step comes to: its own and those of the steps before it."""
    early = {"fingerprint": fingerprint_step, "ingest": ingest_step, "preprocess": preprocess_step, "split": split_step}
    every = set(Settings.model_fields)
    return every & set(early[step].component_spec.inputs) if step in early else every


def _inputs_form() -> str:
    """What Kubeflow's form says beside each input, as KFP reads it from a docstring."""
    lines = [DESCRIPTION, "", "Args:", "    data_uri: Where the scans lie: s3://bucket/prefix."]
    for name, field in Settings.model_fields.items():
        choices = ", ".join(get_args(field.annotation))
        lines.append(f"    {name}: {field.description}{choices and f' One of: {choices}.'}")
    return "\n".join(lines)


def compile_to(path: Path, *how) -> None:
    """Write the pipeline's IR YAML; `how` as for `build`.

    Raises:
        StepError: the promotion policy is none, or the model card's text: better known now than after the training.
    """
    policy.load()
    card.load()
    compiler.Compiler().compile(build(*how), str(path))
