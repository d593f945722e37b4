from typing import NamedTuple

from kfp import dsl
from kfp.dsl import Artifact, Input, Model


@dsl.component(base_image="dwi-stroke-python", install_kfp_package=False)
def register(model: Input[Model], evaluation: Input[Artifact], promote: bool) -> NamedTuple(
    "Registered", [("name", str), ("version", str), ("aliases", str), ("run_id", str)]
):
    """Give the model a version in MLflow's registry, alias challenger; the first is champion too.

    Args:
        model: From train.
        evaluation: From evaluate.
        promote: Make this version champion.
    """
    from pathlib import Path

    from components.core.step import step
    from components.register.register import register as run

    with step("register"):
        registered = run(*(Path(a.path) for a in (model, evaluation)), promote)
        return (registered["name"], registered["version"], registered["aliases"], registered["run_id"])
