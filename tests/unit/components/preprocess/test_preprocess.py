import numpy as np
import pytest

from components.artifacts.slices import Slices
from components.core.errors import StepError
from components.ingest.discover import discover
from components.ingest.ingest import check
from components.model.placement import Placement
from components.preprocess import preprocess as module
from components.preprocess.preprocess import preprocess
from components.scans.n4 import without_bias
from tests.support.whole_plane import adc_to_model_grid, to_model_grid, to_native_grid

SIZE = 48


@pytest.fixture(scope="module")
def scans(make_scan):
    """Three patients: a lesion, none, and an unlabelled one, each on a grid of its own."""
    return {
        "sub-a": make_scan(0, (32, 24, 5)),
        "sub-free": make_scan(1, (40, 40, 7)),
        "sub-unlabelled": make_scan(2, (20, 30, 4)),
    }


@pytest.fixture(scope="module")
def cases(tmp_path_factory, scans, write_case, keys_of):
    """The validated cases of these scans."""
    folder = tmp_path_factory.mktemp("ingested")
    for name, (dwi, adc, mask) in scans.items():
        masks = {"sub-a": {"mask": mask}, "sub-free": {"mask": mask * 0}, "sub-unlabelled": {}}
        write_case(folder / "set", name, dwi=dwi, adc=adc, **masks[name])
    check(discover(keys_of(folder / "set")), folder / "set", folder / "cases").write(folder / "cases")
    return folder / "cases"


@pytest.fixture(scope="module")
def slices(tmp_path_factory, cases):
    folder = tmp_path_factory.mktemp("preprocessed") / "slices"
    preprocess(cases, folder, SIZE, "slice")
    return folder


@pytest.fixture(scope="module")
def index(slices):
    return Slices.read(slices)


def arrays(folder, entry):
    return (np.load(folder / getattr(entry, kind), mmap_mode="r", allow_pickle=False) for kind in ("image", "mask"))


def test_every_labelled_case_is_listed_and_no_other(slices, index):
    assert [c.case for c in index.cases] == ["sub-a_ses-0001", "sub-free_ses-0001"]
    assert [c.patient for c in index.cases] == ["sub-a", "sub-free"]
    listed = {name for c in index.cases for name in (c.image, c.mask)}
    assert {p.name for p in slices.iterdir()} == {"index.json", *listed}


def test_the_index_has_the_settings(index):
    assert (index.image_size, index.normalization, index.n4_bias_correction) == (SIZE, "slice", False)


def test_arrays_are_square_slices_of_the_types_promised_and_can_be_memory_mapped(slices, index):
    for entry in index.cases:
        image, mask = arrays(slices, entry)
        shape = (entry.placement.shape[2], SIZE, SIZE)
        assert (image.shape, image.dtype, mask.shape, mask.dtype) == (shape, np.float16, shape, np.uint8)


def test_images_are_z_scores_of_each_slice(slices, index):
    for entry in index.cases:
        image, _ = arrays(slices, entry)
        by_slice = image.astype(np.float64).reshape(len(image), -1)
        np.testing.assert_allclose(by_slice.mean(1), 0, atol=0.05)  # resizing moves it a little
        np.testing.assert_allclose(by_slice.std(1), 1, atol=0.1)


def test_the_brain_is_where_it_was_rows_along_y(slices, index, scans):
    image, _ = arrays(slices, index.cases[0])
    back = to_native_grid(image.astype(np.float32), (32, 24, 5))
    assert np.corrcoef(back.ravel(), scans["sub-a"][0].ravel())[0, 1] > 0.95


def test_the_placement_is_the_way_back_to_the_very_mask(slices, index, scans):
    entry = index.cases[0]
    _, mask = arrays(slices, entry)
    assert np.array_equal(Placement(**entry.placement.model_dump()).home(mask) >= 0.5, scans["sub-a"][2])


def test_lesion_pixels_are_counted_per_slice(slices, index):
    for entry in index.cases:
        _, mask = arrays(slices, entry)
        assert entry.lesion_pixels == [int((m == 1).sum()) for m in mask]
    with_lesion, free = (entry.lesion_pixels for entry in index.cases)
    assert any(with_lesion) and not any(free)


def test_a_lesion_free_mask_is_zero(slices, index):
    _, mask = arrays(slices, index.cases[1])
    assert not mask.any()


def test_neighbours_are_listed_for_each_slice(index):
    assert index.cases[0].neighbours == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 4]]


def test_neighbours_stop_at_gaps_in_the_numbers_of_slices(tmp_path, make_scan, write_npy, keys_of):
    dwi, _, mask = make_scan()
    for s, number in enumerate((1, 2, 3, 7, 8)):
        write_npy(tmp_path / "set", f"P_Slice_{number}", dwi[:, :, s], mask[:, :, s])
    check(discover(keys_of(tmp_path / "set")), tmp_path / "set", tmp_path / "cases").write(tmp_path / "cases")
    preprocess(tmp_path / "cases", tmp_path / "slices", SIZE, "slice")
    (entry,) = Slices.read(tmp_path / "slices").cases
    assert entry.neighbours == [[0, 0, 1], [0, 1, 2], [1, 2, 2], [3, 3, 4], [3, 4, 4]]


def test_normalization_over_the_volume_keeps_the_slices_apart(tmp_path, cases):
    preprocess(cases, tmp_path / "slices", SIZE, "volume")
    index = Slices.read(tmp_path / "slices")
    image, _ = arrays(tmp_path / "slices", index.cases[0])
    means = image.astype(np.float64).mean((1, 2))
    assert index.normalization == "volume"
    assert abs(means.mean()) < 0.05 < np.ptp(means)


def test_with_n4_the_slices_are_those_of_the_corrected_scan(tmp_path, cases, scans):
    preprocess(cases, tmp_path / "slices", SIZE, "slice", n4_bias_correction=True)
    index = Slices.read(tmp_path / "slices")
    image, _ = arrays(tmp_path / "slices", index.cases[0])
    assert index.n4_bias_correction is True
    assert np.array_equal(image, to_model_grid(without_bias(scans["sub-a"][0]), SIZE, "slice"))


def test_the_result_does_not_depend_on_how_many_work_at_it(tmp_path, cases, slices, monkeypatch):
    for workers in (1, 4):
        monkeypatch.setattr(module, "cpus", lambda workers=workers: workers)
        preprocess(cases, tmp_path / str(workers), SIZE, "slice")
        for path in slices.iterdir():
            assert (tmp_path / str(workers) / path.name).read_bytes() == path.read_bytes()


def test_what_an_interrupted_run_left_behind_is_overwritten(tmp_path, cases, slices):
    (tmp_path / "slices").mkdir()
    for name in ("sub-a_ses-0001.image.npy", "sub-free_ses-0001.mask.npy", "index.json"):
        (tmp_path / "slices" / name).write_bytes(b"\xff" * 100_000)
    preprocess(cases, tmp_path / "slices", SIZE, "slice")
    for path in slices.iterdir():
        assert (tmp_path / "slices" / path.name).read_bytes() == path.read_bytes()


def test_with_adc_its_slices_come_after_those_of_the_dwi(tmp_path, make_scan, write_case, keys_of):
    for number in range(4):
        dwi, adc, mask = make_scan(number)
        volumes = {"dwi": dwi, "mask": mask} | ({"adc": adc} if number < 2 else {})
        if number == 2:
            volumes["b0"] = dwi * np.exp(adc)
        write_case(tmp_path / "set", f"sub-{number}", **volumes)
    check(discover(keys_of(tmp_path / "set")), tmp_path / "set", tmp_path / "cases").write(tmp_path / "cases")
    preprocess(tmp_path / "cases", tmp_path / "slices", SIZE, "slice", inputs="dwi+adc")
    index = Slices.read(tmp_path / "slices")
    assert index.inputs == "dwi+adc"
    assert [c.patient for c in index.cases] == ["sub-0", "sub-1", "sub-2"]
    for number, entry in enumerate(index.cases):
        dwi, adc, _ = make_scan(number)
        image, mask = arrays(tmp_path / "slices", entry)
        assert image.shape == (10, SIZE, SIZE) and mask.shape == (5, SIZE, SIZE)
        assert entry.neighbours[0] == [0, 0, 1, 5, 5, 6] and len(entry.neighbours) == 5
        assert np.array_equal(image[:5], to_model_grid(dwi, SIZE, "slice"))
        np.testing.assert_allclose(image[5:], adc_to_model_grid(adc, SIZE), atol=2e-3)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ((-5, "slice"), "image_size=-5 is impossible: the nearest valid value is 32"),
        ((SIZE, "slices"), "normalization=slices is impossible: the nearest valid value is 'slice'"),
    ],
)
def test_what_was_typed_into_kubeflows_form_is_checked_before_any_work(tmp_path, given, reason):
    with pytest.raises(StepError, match=reason):
        preprocess(tmp_path / "cases", tmp_path / "slices", *given)
    assert not (tmp_path / "slices").exists()


def test_a_grid_in_millimetres_holds_no_slice_without_head_so_none_is_learnt_from(
    tmp_path, make_head, write_case, keys_of
):
    head = make_head(20, 100, 200)
    air = np.zeros((*head.shape[:2], 3), np.float32)
    dwi = np.concatenate([air, head, air], axis=2)
    write_case(tmp_path / "set", "sub-a", dwi=dwi, mask=(dwi > 160).astype(np.uint8))
    check(discover(keys_of(tmp_path / "set")), tmp_path / "set", tmp_path / "cases").write(tmp_path / "cases")
    shown = {}
    for pixel_mm in (0, 2.0):
        folder = tmp_path / f"slices{pixel_mm}"
        preprocess(tmp_path / "cases", folder, 96, "head", pixel_mm=pixel_mm)
        (entry,) = Slices.read(folder).cases
        image, _ = arrays(folder, entry)
        shown[pixel_mm] = [bool(plane.any()) for plane in image]
    assert shown[0] == [False] * 3 + [True] * 9 + [False] * 3  # the whole plane of every slice, as the scan has them
    assert shown[2.0] == [True] * 9
