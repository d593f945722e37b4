from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Model, Output


@dsl.component(base_image="dwi-stroke-python", install_kfp_package=False)
def train(
    cases: Input[Dataset],
    slices: Input[Dataset],
    split: Input[Artifact],
    parent: str,
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
    start_rate: float,
    model: Output[Model],
    curves: Output[HTML],
    fold: int = 0,
):
    """Train the 2.5D Attention U-Net; a killed training goes on from its last epoch.

    Args:
        cases: From ingest.
        slices: From preprocess.
        split: From split.
        parent: Address of the model to start from and the digest of its weights, from fingerprint; empty for random
            weights.
        base_channels: Width of the first encoder level: 64 gives 31.4 M parameters, 32 gives 7.9 M.
        epochs: Largest number of passes over the training slices.
        batch_size: Slices per optimiser step.
        learning_rate: Adam's learning rate, before the schedule lowers it.
        schedule: Halve the learning rate when the validation loss stops falling; or warm up, then lower it over all
            epochs.
        weight_decay: Adam's L2 penalty.
        loss: Dice over the batch, alone or with cross-entropy (bce); Dice of each slice with it; or focal Tversky.
        prior_bias: Start the network with the share of lesion in the training slices as its output, not with one half.
        norm: Normalise the network's features over the batch, or over each slice alone.
        ema_decay: Keep the moving average of the weights, with this decay per step; 0 keeps the weights themselves.
        early_stop_patience: Epochs without a better validation score before training stops.
        selection: Choose weights and threshold by the best Dice, or by what is stable over patients and epochs.
        lesion_free_ratio: Slices without lesion per slice with lesion in a training epoch; drawn again in each epoch.
        sampling: Each slice with lesion once per epoch; or the same number of slices from each patient.
        augmentation: Flip, rotation, brightness; or also scale, shift, gamma, contrast, blur, noise, resolution, bias
            field.
        aug_hflip_prob: Probability of a left-right flip.
        aug_rotate_prob: Probability of a rotation by up to 10 degrees; used by augmentation light.
        aug_brightness_prob: Probability of a brightness shift by up to 0.1 standard deviations; used by augmentation
            light.
        random_seed: Seed of the weights, the sampling, the augmentation, and the split of patients who have no subset
            yet.
        tta: Predict the mean of the scan and its mirror image (test-time augmentation).
        cca: Drop predicted components that are smaller than a size that the validation patients choose.
        deep_supervision: Train two coarser decoder levels too, with weights 1/2 and 1/4; the kept model stays the same.
        precision: Number format of the forward pass; auto takes the fastest on this machine.
        memory_format: Layout of the tensors; auto takes the fastest on this machine.
        start_rate: Share of learning_rate that a training from `start` uses; a training from random weights ignores it.
        model: Best weights (state_dict), threshold, settings, history.
        curves: Loss, Dice and learning rate over the epochs as a page.
        fold: Fold of a cross-validation that this network is tested on, from 1; 0 without folds.
    """
    from pathlib import Path

    from components.artifacts.cases import REPORT
    from components.core.settings import settings_among
    from components.core.step import step
    from components.train.launch import launch
    from components.train.training_inputs import TrainingPaths, write_split_of_fold

    with step(f"train-fold-{fold}" if fold else "train"):
        settings = settings_among(locals())
        if parent:
            settings = settings.model_copy(update={"start": parent})
        paths = TrainingPaths(
            cases=Path(cases.path),
            slices=Path(slices.path),
            split=write_split_of_fold(Path(split.path), fold, Path(model.path)) if fold else Path(split.path),
            data_report=Path(cases.path) / REPORT,
            model=Path(model.path),
            curves=Path(curves.path),
        )
        launch(paths, settings)
