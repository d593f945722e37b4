from typing import NamedTuple

from kfp import dsl
from kfp.dsl import Artifact, Input, Model


@dsl.component(base_image="dwi-stroke-python", install_kfp_package=False)
def register(model: Input[Model], evaluation: Input[Artifact]) -> NamedTuple(
    "Registered", [("name", str), ("version", str), ("aliases", str), ("run_id", str), ("decision", str)]
):
    """Give the model a version in MLflow's registry, alias challenger; champion where the policy lets it.

    Args:
        model: From train.
        evaluation: From evaluate.
    """
    from pathlib import Path

    from components.core.step import step
    from components.register.register import register as run

    with step("register"):
        registered = run(*(Path(a.path) for a in (model, evaluation)))
        return tuple(registered[name] for name in ("name", "version", "aliases", "run_id", "decision"))
