from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Model, Output


@dsl.component(base_image="dwi-stroke-python", install_kfp_package=False)
def train(
    cases: Input[Dataset],
    slices: Input[Dataset],
    split: Input[Artifact],
    base_channels: int,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    schedule: str,
    weight_decay: float,
    loss: str,
    prior_bias: bool,
    norm: str,
    ema_decay: float,
    early_stop_patience: int,
    selection: str,
    lesion_free_ratio: float,
    sampling: str,
    augmentation: str,
    aug_hflip_prob: float,
    aug_rotate_prob: float,
    aug_brightness_prob: float,
    random_seed: int,
    tta: bool,
    cca: bool,
    deep_supervision: bool,
    precision: str,
    memory_format: str,
    model: Output[Model],
    curves: Output[HTML],
):
    """Train the 2.5D Attention U-Net; a killed training goes on from its last epoch.

    Args:
        cases: From ingest.
        slices: From preprocess.
        split: From split.
        base_channels: Width of the first encoder level: 64 gives 31.4 M parameters, 32 gives 7.9 M.
        epochs: Most passes over the training slices.
        batch_size: Slices per optimiser step.
        learning_rate: Adam's learning rate, before the schedule lowers it.
        schedule: Halve the learning rate where the validation loss rests; or warm up, and let it fall over all epochs.
        weight_decay: Adam's L2 penalty.
        loss: Soft Dice over the batch, alone or with cross-entropy (bce); of each slice with it; or focal Tversky.
        prior_bias: Start with the share of lesion in the training slices as the answer everywhere, not with one half.
        norm: Normalise the network's features over the batch, or over each slice alone.
        ema_decay: Keep the moving average of the weights, with this decay per step; 0 keeps the weights themselves.
        early_stop_patience: Epochs without a better validation score before training stops.
        selection: What chooses weights and threshold: the best Dice, or what holds over patients and epochs.
        lesion_free_ratio: Slices without lesion per slice with lesion in a training epoch, drawn anew each epoch.
        sampling: Every slice with lesion once an epoch; or as many of every patient, however thin the slices.
        augmentation: Flip, rotation, brightness; or scale, shift, gamma, contrast, blur, noise, resolution, bias too.
        aug_hflip_prob: Probability of a left-right flip.
        aug_rotate_prob: Probability of a rotation by up to 10 degrees; of augmentation light.
        aug_brightness_prob: Probability of a brightness shift by up to 0.1 standard deviations; of augmentation light.
        random_seed: Seed of the weights, the sampling and the augmentation.
        tta: Predict the mean of the scan and its mirror image (test-time augmentation).
        cca: Drop what is smaller than the smallest lesion worth keeping, a size that the validation patients choose.
        deep_supervision: Learn at two coarser decoder levels too, with weights 1/2 and 1/4; the model stays the same.
        precision: Number format of the forward pass; auto takes the fastest here.
        memory_format: Layout of the tensors; auto takes the fastest here.
        model: Best weights (state_dict), threshold, settings, history.
        curves: Loss, Dice and learning rate over the epochs as a page.
    """
    from pathlib import Path

    from components.artifacts.cases import REPORT
    from components.core.settings import checked
    from components.core.step import step
    from components.train.launch import launch
    from components.train.training_inputs import TrainingPaths

    with step("train"):
        settings = checked(
            {
                "base_channels": base_channels,
                "epochs": epochs,
                "batch_size": batch_size,
                "learning_rate": learning_rate,
                "schedule": schedule,
                "weight_decay": weight_decay,
                "loss": loss,
                "prior_bias": prior_bias,
                "norm": norm,
                "ema_decay": ema_decay,
                "early_stop_patience": early_stop_patience,
                "selection": selection,
                "lesion_free_ratio": lesion_free_ratio,
                "sampling": sampling,
                "augmentation": augmentation,
                "aug_hflip_prob": aug_hflip_prob,
                "aug_rotate_prob": aug_rotate_prob,
                "aug_brightness_prob": aug_brightness_prob,
                "random_seed": random_seed,
                "tta": tta,
                "cca": cca,
                "deep_supervision": deep_supervision,
                "precision": precision,
                "memory_format": memory_format,
            }
        )
        paths = TrainingPaths(
            cases=Path(cases.path),
            slices=Path(slices.path),
            split=Path(split.path),
            data_report=Path(cases.path) / REPORT,
            model=Path(model.path),
            curves=Path(curves.path),
        )
        launch(paths, settings)
