"""What the network is shown: which slices, in which order, how changed. All of it follows from seeds."""

import itertools
import math
import pickle
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from components.core.errors import StepError
from components.train.augment import light
from components.train.data import EpochBatches, StackDataset, loader
from tests.support.whole_plane import mask_to_model_grid, to_model_grid

HAS_LESION = np.isin(np.arange(50), (3, 10, 11, 12, 29, 30, 49))
"""Fifty slices, seven of them with a lesion."""
NOTHING = light(0, 0, 0)


def epoch_of(batches: EpochBatches, epoch: int) -> list[tuple[int, int]]:
    batches.epoch = epoch
    return list(itertools.chain(*batches))


def rows(items: list[tuple[int, int]]) -> list[int]:
    return [row for row, _ in items]


@pytest.mark.parametrize(("ratio", "lesion_free"), [(0, 0), (0.5, 4), (1, 7), (3, 21), (1000, 43)])
def test_an_epoch_holds_every_lesion_slice_once_and_the_asked_number_without(ratio, lesion_free):
    batches = EpochBatches(HAS_LESION, 4, ratio, seed=0)
    for epoch in range(5):
        drawn = rows(epoch_of(batches, epoch))
        assert len(drawn) == len(set(drawn)) == 7 + lesion_free
        assert sum(HAS_LESION[drawn]) == 7


def test_the_lesion_free_slices_are_drawn_anew_each_epoch_until_all_have_been_seen():
    batches = EpochBatches(HAS_LESION, 4, 1, seed=0)
    drawn = [frozenset(rows(epoch_of(batches, epoch))) for epoch in range(60)]
    assert len(set(drawn)) > 50
    assert frozenset.union(*drawn) == set(range(50))


def test_every_epoch_has_another_order_and_other_augmentation():
    batches = EpochBatches(HAS_LESION, 4, 0, seed=0)
    one, other = epoch_of(batches, 1), epoch_of(batches, 2)
    assert rows(one) != rows(other)
    assert not {seed for _, seed in one} & {seed for _, seed in other}


def test_seed_and_epoch_alone_decide_so_a_resumed_run_sees_what_the_killed_one_would_have():
    killed, resumed = (EpochBatches(HAS_LESION, 4, 1, seed=5) for _ in range(2))
    before = [epoch_of(killed, epoch) for epoch in range(8)]
    assert epoch_of(resumed, 7) == before[7]
    assert epoch_of(EpochBatches(HAS_LESION, 4, 1, seed=6), 7) != before[7]


@pytest.mark.parametrize("done", [0, 1, 3, 4])
def test_a_training_that_was_stopped_within_an_epoch_passes_over_the_batches_that_it_has_seen(done):
    whole, resumed = (EpochBatches(HAS_LESION, 4, 1, seed=5) for _ in range(2))
    whole.epoch = resumed.epoch = 3
    resumed.done = done
    assert list(resumed) == list(whole)[done:] and len(resumed) == len(whole) - done


@pytest.mark.parametrize(("free_kib", "workers"), [(8, 0), (2_000, 1), (4_500, 2), (1 << 30, 3)])
def test_a_gpus_loader_takes_no_more_processes_than_shared_memory_has_room_for(monkeypatch, caplog, free_kib, workers):
    dataset = SimpleNamespace(side=64, channels=3)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free_kib << 10))
    with caplog.at_level("WARNING"):
        data = loader(dataset, EpochBatches(HAS_LESION, 4, 1, seed=5), torch.device("cuda"), cpus=4)
    assert data.num_workers == workers
    if workers:
        assert data.multiprocessing_context.get_start_method() == "fork"
    assert bool(caplog.messages) == (workers < 3)


def test_seed_1_in_epoch_2_is_not_seed_2_in_epoch_1():
    assert epoch_of(EpochBatches(HAS_LESION, 4, 1, seed=1), 2) != epoch_of(EpochBatches(HAS_LESION, 4, 1, seed=2), 1)


@pytest.mark.parametrize("batch_size", [2, 3, 7, 14, 100])
def test_batches_are_full_but_for_the_last_and_as_many_as_promised(batch_size):
    batches = EpochBatches(HAS_LESION, batch_size, 1, seed=0)
    sizes = [len(batch) for batch in batches]
    assert len(sizes) == len(batches) == math.ceil(14 / batch_size)
    assert set(sizes[:-1]) <= {batch_size}
    assert sum(sizes) == 14


@pytest.mark.parametrize("ratio", [0, 1])
def test_where_every_slice_has_a_lesion_each_is_seen_once(ratio):
    assert sorted(rows(epoch_of(EpochBatches(np.ones(9, bool), 4, ratio, seed=0), 1))) == list(range(9))


OF_THIN, OF_THICK = 100, 40
THIN_AND_THICK = np.repeat(["thin", "thick"], (OF_THIN, OF_THICK))
"""The slices of one head at 2 mm and of another at 5 mm; the lesion is a tenth of each."""
THIN_AND_THICK_LESION = np.arange(OF_THIN + OF_THICK) % 10 == 0


def by_patient(ratio: float = 1, seed: int = 0) -> EpochBatches:
    return EpochBatches(THIN_AND_THICK_LESION, 4, ratio, seed, patients=THIN_AND_THICK)


@pytest.mark.parametrize(("ratio", "lesion_free"), [(0, 0), (1, 14), (3, 42), (1000, 126)])
def test_where_patients_are_drawn_before_slices_each_gives_as_many_whatever_its_slices(ratio, lesion_free):
    batches, plain = by_patient(ratio), EpochBatches(THIN_AND_THICK_LESION, 4, ratio, seed=0)
    assert (batches.slices, len(batches)) == (plain.slices, len(plain)) and batches.slices == 14 + lesion_free
    for epoch in range(5):
        drawn = np.array(rows(epoch_of(batches, epoch)))
        assert len(drawn) == batches.slices
        for lesion, count in ((True, 14), (False, lesion_free)):
            of = Counter(THIN_AND_THICK[drawn[THIN_AND_THICK_LESION[drawn] == lesion]])
            assert of == (Counter(thin=count // 2, thick=count // 2) if count else Counter())


def test_a_patients_slices_come_again_only_when_all_have_come():
    for epoch in range(5):
        drawn = Counter(rows(epoch_of(by_patient(0), epoch)))
        thin = [n for row, n in drawn.items() if row < OF_THIN]
        thick = [n for row, n in drawn.items() if row >= OF_THIN]
        assert thin == [1] * 7 and sorted(thick) == [1, 2, 2, 2]  # 7 of 10, and 7 from 4


def test_where_a_count_cannot_be_shared_evenly_another_patient_gives_one_more_in_another_epoch():
    batches = EpochBatches(np.ones(5, bool), 4, 0, seed=0, patients=np.array(["a", "b", "b", "b", "b"]))
    more = {Counter(batches.patients[rows(epoch_of(batches, epoch))]).most_common(1)[0] for epoch in range(20)}
    assert more == {("a", 3), ("b", 3)}


def test_patients_drawn_before_slices_follow_from_seed_and_epoch_and_are_shared_by_the_processes():
    whole, again = by_patient(seed=5), by_patient(seed=5)
    epoch_of(whole, 1)
    assert epoch_of(whole, 7) == epoch_of(again, 7) != epoch_of(by_patient(seed=6), 7)
    again.epoch, again.done = 7, 3
    assert list(again) == list(whole)[3:]
    shares = [EpochBatches(THIN_AND_THICK_LESION, 4, 1, 5, rank, 2, THIN_AND_THICK) for rank in (0, 1)]
    for share in shares:
        share.epoch = 7
    dealt = [sorted(one + other) for one, other in zip(*shares, strict=True)]
    assert dealt == [sorted(batch) for batch in whole]


def test_a_patient_without_lesion_gives_slices_without_alone():
    has_lesion = np.array([True, False, False, False])
    batches = EpochBatches(has_lesion, 2, 2, seed=0, patients=np.array(["a", "a", "b", "b"]))
    drawn = rows(epoch_of(batches, 1))
    assert drawn.count(0) == 1 and drawn.count(1) == 1 and sum(row >= 2 for row in drawn) == 1


def test_the_share_of_lesion_that_an_epoch_shows_worked_by_hand():
    """Two slices of 10 and 20 pixels and one of 60, beside as many of none, on 10 x 10 pixels."""
    pixels, patients = np.array([10, 20, 60, 0, 0, 0, 0]), np.array(["a", "a", "b", "a", "a", "b", "b"])
    slices = EpochBatches(pixels > 0, 2, 1, seed=0)
    assert slices.lesion_share(pixels, 10) == pytest.approx(90 / 600)
    by_patients = EpochBatches(pixels > 0, 2, 1, seed=0, patients=patients)
    assert by_patients.lesion_share(pixels, 10) == pytest.approx((15 + 60) / 2 * 3 / 600)


def test_the_share_of_lesion_is_what_epochs_show_in_the_mean():
    pixels = THIN_AND_THICK_LESION * np.where(THIN_AND_THICK == "thin", 5, 50) * (1 + np.arange(140) % 3)
    for patients in (None, THIN_AND_THICK):
        batches = EpochBatches(pixels > 0, 4, 1, seed=0, patients=patients)
        shown = np.mean([pixels[rows(epoch_of(batches, epoch))].mean() for epoch in range(300)]) / 32**2
        assert batches.lesion_share(pixels, 32) == pytest.approx(shown, rel=0.03)


def test_where_the_grid_lost_every_lesion_the_error_says_what_to_do():
    with pytest.raises(StepError, match=r"no training slice has a lesion on .* Raise image_size"):
        EpochBatches(np.zeros(9, bool), 4, 1, seed=0)


@pytest.fixture
def dataset(slices):
    """Two cases whose slices hold their own number; the second lacks the numbers between 2 and 7."""
    for name, offset, numbers in (("A", 0, None), ("B", 10, [1, 2, 7, 8])):
        count = 5 if numbers is None else len(numbers)
        image = np.broadcast_to(np.arange(count)[:, None, None] + offset, (count, 32, 32))
        lesion = np.zeros((count, 32, 32))
        lesion[2, 5:9, 3:20] = 1
        slices.add(name, image, lesion, numbers)
    return StackDataset(slices.read(), NOTHING)


def test_an_item_is_a_float_stack_and_its_mask(dataset):
    stack, lesion = dataset[(2, 0)]
    assert (stack.shape, stack.dtype, lesion.shape, lesion.dtype) == ((32, 32, 3), np.float32, (32, 32), np.uint8)
    assert lesion.sum() == 4 * 17


def test_a_stack_is_previous_current_and_next_and_the_edge_stands_in_at_the_ends_and_at_a_gap(dataset):
    stacks = [dataset[(row, 0)][0][0, 0].tolist() for row in range(len(dataset))]
    assert stacks == [
        [0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 4],
        [10, 10, 11], [10, 11, 11], [12, 12, 13], [12, 13, 13],
    ]  # fmt: skip


def test_the_slices_with_a_lesion_are_known(dataset):
    assert np.flatnonzero(dataset.has_lesion).tolist() == [2, 7]


def test_each_rows_patient_and_pixels_of_lesion_are_known(dataset):
    assert dataset.patients.tolist() == ["A"] * 5 + ["B"] * 4
    assert dataset.lesion_pixels.tolist() == [0, 0, 68, 0, 0, 0, 0, 68, 0]


def test_cases_come_in_the_order_in_which_they_are_named(dataset, slices):
    assert [case.case for case in slices.read("B", "A")] == ["B", "A"]


def test_the_dataset_holds_paths_and_not_the_images(slices):
    slices.add("A", np.zeros((16, 512, 512), np.float16), np.zeros((16, 512, 512), np.uint8))
    dataset = StackDataset(slices.read(), NOTHING)
    dataset[(3, 0)]
    assert len(pickle.dumps(dataset)) < 100_000  # the images are 8 MiB


def test_what_is_read_is_what_lies_on_disk_now(dataset, slices):
    before = dataset[(0, 0)][0][0, 0, 1]
    np.lib.format.open_memmap(slices.folder / "A.image.npy", mode="r+")[0] = 9
    assert (before, dataset[(0, 0)][0][0, 0, 1]) == (0, 9)


@pytest.fixture
def noise(slices):
    """One slice of z-scores, far beyond [0, 1], and a lesion that is where they are above 0.5."""
    image = np.random.default_rng(0).normal(0, 3, (1, 32, 32)).astype(np.float16)
    slices.add("noise", image, image > 0.5)
    return lambda augment: StackDataset(slices.read("noise"), augment)


def test_without_augmentation_the_stored_values_come_out(noise, slices):
    stack, lesion = noise(NOTHING)[(0, 123)]
    stored = np.load(slices.folder / "noise.image.npy")[0].astype(np.float32)
    assert all(np.array_equal(stack[..., channel], stored) for channel in range(3))
    assert np.array_equal(lesion, stored > 0.5)


def test_the_flip_swaps_left_and_right_of_scan_and_mask_alike(slices):
    """What comes out of a scan (X, Y, S) is what comes out of the same scan mirrored along X."""
    scan = np.random.default_rng(0).normal(0, 3, (32, 32, 3))
    for name, volume in (("scan", scan), ("mirrored", scan[::-1])):
        slices.add(name, to_model_grid(volume, 32, "volume"), mask_to_model_grid(volume > 4, 32))
    (flipped, flipped_lesion), (mirrored, mirrored_lesion) = (
        StackDataset(slices.read(name), light(p, 0, 0))[(1, 0)] for name, p in (("scan", 1), ("mirrored", 0))
    )
    assert flipped == pytest.approx(mirrored, abs=0.01)
    assert np.array_equal(flipped_lesion, mirrored_lesion)
    assert flipped_lesion.any()


def test_brightness_adds_one_number_to_the_whole_stack_and_does_not_clip(noise):
    stack, lesion = noise(NOTHING)[(0, 0)]
    shifts = []
    for seed in range(200):
        shifted, same = noise(light(0, 0, 1))[(0, seed)]
        difference = shifted - stack
        assert np.ptp(difference) < 1e-5
        assert np.array_equal(same, lesion)
        shifts.append(float(difference.mean()))
    assert stack.min() < -5
    assert stack.max() > 5
    assert -0.1 <= min(shifts) < -0.09
    assert 0.09 < max(shifts) <= 0.1


def test_rotation_is_by_up_to_ten_degrees_both_ways_about_the_middle(slices):
    """A small disc far from the middle: the angle to its centre of mass is the angle of the rotation."""
    y, x = np.mgrid[-32:33, -32:33]
    disc = np.exp(-((x - 24) ** 2 + y**2) / 8)
    slices.add("disc", disc[None], disc[None] > 0.5)
    dataset = StackDataset(slices.read(), light(0, 1, 0))
    angles = []
    for seed in range(200):
        stack, lesion = dataset[(0, seed)]
        of_image, of_mask = (
            math.degrees(math.atan2((y * weight).sum(), (x * weight).sum())) for weight in (stack[..., 1], lesion)
        )
        assert of_mask == pytest.approx(of_image, abs=1.5)  # the mask moves by whole pixels
        assert np.hypot((x * lesion).sum(), (y * lesion).sum()) / lesion.sum() == pytest.approx(24, abs=0.5)
        angles.append(of_image)
    assert -10.1 < min(angles) < -9
    assert 9 < max(angles) < 10.1


def test_rotation_leaves_no_black_corners_and_a_mask_of_zeros_and_ones(slices):
    slices.add("flat", np.full((1, 32, 32), 4.0), np.ones((1, 32, 32)))
    stack, lesion = StackDataset(slices.read(), light(0, 1, 0))[(0, 3)]
    assert stack == pytest.approx(4)
    assert (lesion == 1).all()


def test_the_same_item_is_augmented_the_same_way_again(noise):
    dataset, again = (noise(light(0.5, 0.5, 0.5)) for _ in range(2))
    for seed in range(20):
        first = dataset[(0, seed)]
        dataset[(0, 1000 + seed)]
        assert all(np.array_equal(a, b) for a, b in zip(first, again[(0, seed)], strict=True))


def test_worker_processes_augment_as_this_process_does(noise):
    dataset = noise(light(0.5, 0.5, 0.5))
    items = [(0, seed) for seed in range(12)]
    from_workers = DataLoader(dataset, batch_sampler=[[item] for item in items], num_workers=2)
    for (stacks, _), item in zip(from_workers, items, strict=True):
        assert np.array_equal(stacks[0], dataset[item][0])


def what_was_done(slices, probabilities: tuple[float, float, float], draws: int) -> Counter:
    """How often (flipped, rotated, brightened) was each combination, told from a slice made for it.

    Constant columns but for the right half, which is 8 higher, and a short line across: the flip turns the step,
    the rotation smears the line's rows, brightness moves the lowest value.
    """
    image = np.zeros((1, 33, 33))
    image[0, :, 17:] = 8
    image[0, 16, 4:12] = 4
    slices.add("probe", image, image > 5)
    dataset, done = StackDataset(slices.read("probe"), light(*probabilities)), Counter()
    for seed in np.random.default_rng(0).integers(2**31, size=draws).tolist():
        stack, lesion = dataset[(0, seed)]
        value = stack[..., 1] - stack.min()
        straight = set(np.round(np.unique(value), 3)) <= {0, 4, 8}
        done[(bool(lesion[16, 2]), not straight, bool(stack.min() != 0))] += 1
    return done


def test_each_augmentation_comes_as_often_as_asked_and_independently_of_the_others(slices):
    """The user's own probabilities; each combination within four standard deviations of its share."""
    draws, asked = 2000, (0.3, 0.25, 0.2)
    done = what_was_done(slices, asked, draws)
    for combination in itertools.product((True, False), repeat=3):
        share = math.prod(p if yes else 1 - p for p, yes in zip(asked, combination, strict=True))
        assert done[combination] / draws == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / draws))


def test_augmentation_of_probability_zero_never_comes(slices):
    assert what_was_done(slices, (0, 0, 0), 200) == {(False, False, False): 200}


def test_the_loader_gives_the_batches_in_their_order(dataset):
    batches = EpochBatches(dataset.has_lesion, 2, 1, seed=0)
    batches.epoch = 3
    loaded = list(loader(dataset, batches, torch.device("cpu"), cpus=2))
    for (images, lesions), items in zip(loaded, batches, strict=True):
        assert images.shape == (2, 32, 32, 3)
        assert lesions.shape == (2, 32, 32)
        assert images[:, 0, 0].tolist() == [dataset[item][0][0, 0].tolist() for item in items]


def test_six_channels_are_flipped_and_turned_together_and_only_the_dwi_changes_its_brightness():
    stack = np.random.default_rng(0).normal(size=(32, 32, 6)).astype(np.float32)
    turn, shift = light(1, 1, 0), light(0, 0, 1)
    for transform in (turn, shift):
        transform.set_random_seed(1)
    turned = turn(image=stack)["image"]
    for part in (slice(0, 3), slice(3, 6)):
        turn.set_random_seed(1)
        np.testing.assert_allclose(turned[..., part], turn(image=stack[..., part].copy())["image"], atol=1e-5)
    moved = shift(image=stack)["image"] - stack
    assert np.ptp(moved[..., :3]) < 1e-6 and abs(moved[0, 0, 0]) > 1e-4
    assert not moved[..., 3:].any()
