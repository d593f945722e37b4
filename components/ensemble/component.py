from kfp import dsl
from kfp.dsl import Artifact, Input, Model, Output


@dsl.component(base_image="dwi-stroke-python", install_kfp_package=False)
def ensemble(
    split: Input[Artifact],
    model: Output[Model],
    model_1: Input[Model],
    model_2: Input[Model],
    model_3: Input[Model],
    model_4: Input[Model] = None,  # type: ignore[assignment]
    model_5: Input[Model] = None,  # type: ignore[assignment]
    model_6: Input[Model] = None,  # type: ignore[assignment]
    model_7: Input[Model] = None,  # type: ignore[assignment]
    model_8: Input[Model] = None,  # type: ignore[assignment]
    model_9: Input[Model] = None,  # type: ignore[assignment]
    model_10: Input[Model] = None,  # type: ignore[assignment]
):
    """Put the networks of a cross-validation into one model, which predicts the mean of their probabilities.

    Args:
        split: From split.
        model: The weights of all networks, and what their ensemble needs to be used.
        model_1: From train-fold-1.
        model_2: From train-fold-2.
        model_3: From train-fold-3.
        model_4: From train-fold-4.
        model_5: From train-fold-5.
        model_6: From train-fold-6.
        model_7: From train-fold-7.
        model_8: From train-fold-8.
        model_9: From train-fold-9.
        model_10: From train-fold-10.
    """
    from pathlib import Path

    from components.core.step import step
    from components.ensemble.ensemble import ensemble as run

    with step("ensemble"):
        given = (model_1, model_2, model_3, model_4, model_5, model_6, model_7, model_8, model_9, model_10)
        run(Path(split.path), [Path(one.path) for one in given if one is not None], Path(model.path))
