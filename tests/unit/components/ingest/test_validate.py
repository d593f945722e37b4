"""Every reason for a refusal, and every trap that real scans set, on small scans of our own."""

import gzip
import hashlib

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from scipy.spatial.transform import Rotation

from components.ingest.discover import discover
from components.ingest.validate import case_slug, validate
from components.scans.adc import adc_unit
from components.scans.volumes import BadVolume, read

AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])


@pytest.fixture
def validated(tmp_path, keys_of):
    """validated(folder, b_value=0) -> the record of the only case in it, and its volumes by kind as written."""

    def run(folder, b_value=0):
        (case,) = discover(keys_of(folder)).cases
        target = tmp_path / "validated"
        target.mkdir(exist_ok=True)
        record = validate(case, folder, target, b_value)
        return record, {kind: nib.load(target / name) for kind, name in record.files.items()}

    return run


@pytest.fixture
def refusal(validated):
    def run(folder) -> str:
        with pytest.raises(BadVolume) as error:
            validated(folder)
        return str(error.value)

    return run


@pytest.fixture
def scan(make_scan):
    dwi, adc, mask = make_scan()
    return {"dwi": dwi, "adc": adc, "mask": mask}


def stored_as(axes: str, data, affine=AFFINE):
    """A RAS array and its affine as a scanner would store them along `axes`."""
    to_stored = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(axes))
    return apply_orientation(data, to_stored), affine @ inv_ornt_aff(to_stored, data.shape)


# What is kept of a good case


def test_a_good_case_is_kept_voxel_by_voxel(tmp_path, scan, write_case, validated):
    record, volumes = validated(write_case(tmp_path / "set", "sub-1", **scan))
    assert (record.case, record.patient, record.session) == ("sub-1_ses-0001", "sub-1", "ses-0001")
    assert record.labelled and record.shape == (32, 24, 5) and record.voxel_mm == (2, 2, 5)
    assert record.orientation_found == "RAS" and record.adc_unit_found == "1e-3 mm2/s" and record.repairs == []
    for kind, image in volumes.items():
        assert np.array_equal(image.dataobj, scan[kind]) and np.array_equal(image.affine, AFFINE)
    assert volumes["mask"].get_data_dtype() == np.uint8


def test_a_case_without_a_mask_is_unlabelled(tmp_path, scan, write_case, validated):
    record, volumes = validated(write_case(tmp_path / "set", "sub-1", dwi=scan["dwi"]))
    assert not record.labelled and record.lesion_voxels is record.lesion_ml is None
    assert set(volumes) == {"dwi"}


def test_a_mask_without_a_lesion_is_a_label_too(tmp_path, scan, write_case, validated):
    record, _ = validated(write_case(tmp_path / "set", "sub-1", dwi=scan["dwi"], mask=np.zeros((32, 24, 5), np.uint8)))
    assert record.labelled and record.lesion_voxels == 0 and record.lesion_ml == 0


@pytest.mark.parametrize("degrees", [(0, 0, 0), (20, -15, 30)])
def test_lesion_volume_is_voxels_times_their_size(tmp_path, scan, write_case, validated, degrees):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() @ np.diag([2, 2, 5])
    mask = np.zeros((32, 24, 5), np.uint8)
    mask[10:15, 12:14, 2] = 1  # 10 voxels of 20 mm3
    record, _ = validated(write_case(tmp_path / "set", "sub-1", dwi=scan["dwi"], mask=mask, affine=affine))
    assert record.lesion_voxels == 10 and record.lesion_ml == pytest.approx(0.2)


def test_npy_volumes_have_no_millimetres(tmp_path, scan, write_npy, validated):
    record, volumes = validated(write_npy(tmp_path / "set", "Patient_001", scan["dwi"], scan["mask"]))
    assert record.voxel_mm is record.orientation_found is record.lesion_ml is None
    assert record.lesion_voxels == scan["mask"].sum()
    assert np.array_equal(volumes["dwi"].dataobj, scan["dwi"]) and np.array_equal(volumes["mask"].dataobj, scan["mask"])


def test_single_slices_are_stacked_in_order_and_gaps_are_noted(tmp_path, scan, write_npy, validated):
    numbers = [8, 9, 10, 12, 20]
    for s, number in enumerate(numbers):
        write_npy(tmp_path / "set", f"P_1_Slice_{number}", scan["dwi"][:, :, s], scan["mask"][:, :, s])
    record, volumes = validated(tmp_path / "set")
    assert np.array_equal(volumes["dwi"].dataobj, scan["dwi"]) and np.array_equal(volumes["mask"].dataobj, scan["mask"])
    assert record.slice_numbers == numbers and record.repairs[0] == "2 gaps in the slice numbers 8-20"


@pytest.mark.parametrize(("axes", "named"), [((0, 1, 2), "second"), ((1, 0, 2), "first")])
def test_of_an_array_it_is_said_which_axis_is_left_right_and_what_sets_the_scale(
    tmp_path, scan, write_npy, validated, axes, named
):  # the head of 32 x 24 is longer front to back
    record, _ = validated(
        write_npy(tmp_path / "set", "P", scan["dwi"].transpose(axes))
    )  # 32 x 24, longer front to back
    assert record.repairs == [
        f"left-right is the {named} axis, found by symmetry", "no voxel size: the length of the head sets the scale",
    ]  # fmt: skip


def test_where_no_head_is_found_it_is_said_in_any_format(tmp_path, write_case, write_npy, validated):
    noise = np.random.default_rng(0).normal(50, 5, (32, 24, 5)).astype(np.float32)
    line = "no head found: the whole plane is used"
    assert validated(write_case(tmp_path / "nifti", "sub-1", dwi=noise))[0].repairs == [line]
    record, _ = validated(write_npy(tmp_path / "array", "P", noise))
    assert record.repairs == [line, "left-right is assumed to be the first axis"]


def test_every_source_file_is_named_with_its_digest(tmp_path, scan, write_case, validated):
    folder = write_case(tmp_path / "set", "sub-1", **scan)
    record, _ = validated(folder)
    assert len(record.sources) == 3
    for source in record.sources:
        assert hashlib.sha256((folder / source.key).read_bytes()).hexdigest() == source.sha256


def test_the_same_voxels_have_the_same_digest_however_they_are_stored(tmp_path, scan, write_case, write_npy, validated):
    lps, lps_affine = stored_as("LPS", scan["dwi"])
    one, _ = validated(write_case(tmp_path / "one", "sub-1", dwi=scan["dwi"]))
    same, _ = validated(write_case(tmp_path / "same", "sub-2", dwi=lps.astype(np.float64), affine=lps_affine))
    scan["dwi"][16, 12, 2] += 1
    other, _ = validated(write_case(tmp_path / "other", "sub-3", dwi=scan["dwi"]))
    assert one.voxel_sha256 == same.voxel_sha256 != other.voxel_sha256


def test_slices_have_digests_of_their_own_and_blank_ones_none(tmp_path, scan, write_case, validated):
    scan["dwi"][:, :, 4] = 0
    whole, _ = validated(write_case(tmp_path / "whole", "sub-1", dwi=scan["dwi"]))
    part, _ = validated(write_case(tmp_path / "part", "sub-2", dwi=scan["dwi"][:, :, 1:4]))
    assert len(whole.slice_sha256) == 4 and part.slice_sha256 == whole.slice_sha256[1:]


# What real scans do


@pytest.mark.parametrize(
    ("unit", "factor"), [("mm2/s", 1e-3), ("1e-3 mm2/s", 1), ("1e-6 mm2/s", 1e3)]
)  # fmt: skip
def test_an_adc_map_in_any_of_three_units_is_kept_in_one(tmp_path, scan, write_case, validated, unit, factor):
    wanted = scan["adc"].copy()
    scan["adc"] *= factor
    record, volumes = validated(write_case(tmp_path / "set", "sub-1", **scan))
    assert record.adc_unit_found == unit
    np.testing.assert_allclose(volumes["adc"].dataobj, wanted, rtol=1e-5)
    assert record.repairs == ([] if factor == 1 else [f"ADC converted from {unit} to 1e-3 mm2/s"])


def test_adc_is_computed_from_b0_where_only_that_is_given(tmp_path, scan, write_case, validated):
    adc = scan.pop("adc")
    record, volumes = validated(write_case(tmp_path / "set", "sub-1", **scan, b0=scan["dwi"] * np.exp(adc)))
    np.testing.assert_allclose(volumes["adc"].dataobj, adc, atol=1e-5)
    assert record.adc_unit_found is None
    assert record.repairs == ["ADC computed from b0, b-value unknown: 1000 s/mm² taken"]
    assert record.sources[-1].key.endswith("_b0.nii.gz")


@pytest.fixture
def of_b_800(tmp_path, scan, write_case):
    """of_b_800({".bval": "0 800"}) -> a folder with a DWI of b = 800 s/mm², its b0, and such files beside it."""

    def write(beside: dict[str, str]):
        b0 = scan["dwi"] * np.exp(0.8 * scan["adc"])
        folder = write_case(tmp_path / "set", "sub-1", dwi=scan["dwi"], b0=b0)
        for ending, content in beside.items():
            (folder / f"sub-1/ses-0001/dwi/sub-1_ses-0001_dwi{ending}").write_text(content)
        return folder

    return write


@pytest.mark.parametrize(
    ("beside", "setting", "lines"),
    [
        ({".bval": "0 800", ".json": '{"bval": 700}'}, 0, ["ADC computed from b0, b = 800 s/mm² as in the .bval file"]),
        ({".json": '{"DiffusionBValue": 800}'}, 900, ["ADC computed from b0, b = 800 s/mm² as in the JSON sidecar"]),
        ({}, 800, ["ADC computed from b0, b = 800 s/mm² as set by b_value"]),
        (
            {".bval": "b800", ".json": "{"}, 800,
            [
                "the .bval file was ignored: it holds no b-values (numbers)",
                "the JSON sidecar was ignored: it is not JSON",
                "ADC computed from b0, b = 800 s/mm² as set by b_value",
            ],
        ),
    ],
    ids=["bval", "sidecar", "setting", "files of no use"],
)  # fmt: skip
def test_adc_from_b0_takes_the_scans_own_b_value_and_notes_its_source(
    scan, of_b_800, validated, beside, setting, lines
):
    record, volumes = validated(of_b_800(beside), setting)
    np.testing.assert_allclose(volumes["adc"].dataobj, scan["adc"], atol=1e-5)
    assert record.repairs == lines
    assert [s.key.partition("_dwi")[2] for s in record.sources[2:]] == list(beside)


def test_an_unusual_b_value_is_said_also_where_no_adc_comes_of_it(of_b_800, validated):
    record, volumes = validated(of_b_800({".bval": "5"}))
    assert "adc" not in volumes and len(record.repairs) == 2
    assert record.repairs[0] == "b = 5 s/mm² is unusual for a DWI in stroke (300 to 5000)"
    assert record.repairs[1].startswith("ADC map left out: ")


def test_a_b0_of_no_use_is_left_out_and_the_case_kept(tmp_path, scan, write_case, validated):
    scan.pop("adc")
    record, volumes = validated(write_case(tmp_path / "set", "sub-1", **scan, b0=scan["dwi"] * 0))
    assert set(volumes) == {"dwi", "mask"} and record.repairs[0].startswith("ADC map left out: ")


def test_noise_below_zero_in_the_adc_map_does_not_hide_its_unit(tmp_path, scan, write_case, validated):
    scan["adc"] -= 0.3 * (np.random.default_rng(0).random(scan["adc"].shape) < 0.2)
    scan["adc"] *= 1e-3
    assert validated(write_case(tmp_path / "set", "sub-1", **scan))[0].adc_unit_found == "mm2/s"


@pytest.mark.parametrize(("image_axes", "mask_axes"), [("LAS", "RAS"), ("RAS", "LAS"), ("LAS", "LAS"), ("SAR", "LPI")])
def test_image_and_mask_may_be_stored_in_different_orientations(
    tmp_path, scan, write_case, validated, image_axes, mask_axes
):
    dwi, image_affine = stored_as(image_axes, scan["dwi"])
    mask, mask_affine = stored_as(mask_axes, scan["mask"])
    folder = write_case(
        tmp_path / "set", "sub-1", dwi=dwi, mask=mask, affine={"dwi": image_affine, "mask": mask_affine}
    )
    record, volumes = validated(folder)
    assert record.orientation_found == image_axes
    assert np.array_equal(volumes["dwi"].dataobj, scan["dwi"]) and np.array_equal(volumes["mask"].dataobj, scan["mask"])
    np.testing.assert_allclose(volumes["mask"].affine, AFFINE, atol=1e-5)


def test_an_adc_map_flipped_against_its_scan_is_right_once_both_are_canonical(tmp_path, scan, write_case, validated):
    adc, adc_affine = stored_as("LAS", scan["adc"])
    assert not np.array_equal(adc, scan["adc"])
    folder = write_case(tmp_path / "set", "sub-1", dwi=scan["dwi"], adc=adc, affine={"dwi": AFFINE, "adc": adc_affine})
    record, volumes = validated(folder)
    assert np.array_equal(volumes["adc"].dataobj, scan["adc"])
    assert record.repairs == ["ADC stored as LAS, the DWI as RAS: both made RAS"]


def test_a_scan_with_two_places_keeps_both_and_the_millimetres_between_them_are_noted(
    tmp_path, scan, write_case, validated
):
    folder = write_case(tmp_path / "set", "sub-1", dwi=scan["dwi"], mask=scan["mask"])
    moved = AFFINE.copy()
    moved[:3, 3] = 3, 0, 4
    for path in folder.rglob("*.nii.gz"):
        image = nib.Nifti1Image(np.asarray(nib.load(path).dataobj)[::-1], None)
        image.set_qform(AFFINE @ np.diag([-1, 1, 1, 1]), 1)
        image.set_sform(moved @ np.diag([-1, 1, 1, 1]), 4)
        nib.save(image, path)
    record, volumes = validated(folder)
    (note,) = record.repairs
    assert "two places for the scan, up to 5.0 mm apart" in note
    for volume in volumes.values():
        assert (volume.header["qform_code"], volume.header["sform_code"]) == (1, 4)
        assert np.linalg.norm((volume.get_sform() - volume.get_qform())[:3, 3]) == pytest.approx(5)


def test_a_trailing_axis_of_one_is_dropped_and_noted(tmp_path, scan, write_case, validated):
    record, volumes = validated(write_case(tmp_path / "set", "sub-1", dwi=scan["dwi"][..., None], mask=scan["mask"]))
    assert record.shape == volumes["dwi"].shape == (32, 24, 5)
    assert record.repairs == ["dropped a trailing axis of length one"]


def test_intensities_below_zero_are_kept(tmp_path, scan, write_case, validated):
    dwi = scan["dwi"].astype(np.float64) - 50
    _, volumes = validated(write_case(tmp_path / "set", "sub-1", dwi=dwi))
    np.testing.assert_allclose(volumes["dwi"].dataobj, dwi, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
def test_masks_come_in_many_types(tmp_path, scan, write_case, validated, dtype):
    folder = write_case(tmp_path / "set", "sub-1", dwi=scan["dwi"], mask=scan["mask"].astype(dtype))
    record, volumes = validated(folder)
    assert np.array_equal(volumes["mask"].dataobj, scan["mask"]) and record.repairs == []


@pytest.mark.parametrize(("one", "notes"), [(0.9999999997, []), (0.9995, ["mask values rounded to 0 and 1"])])
def test_masks_that_are_one_up_to_rounding_are_rounded(tmp_path, scan, write_case, validated, one, notes):
    folder = write_case(tmp_path / "set", "sub-1", dwi=scan["dwi"], mask=scan["mask"] * np.float64(one))
    record, volumes = validated(folder)
    assert np.array_equal(volumes["mask"].dataobj, scan["mask"]) and record.repairs == notes


def test_acquisition_times_in_the_header_are_left_behind(tmp_path, scan, write_case, validated):
    folder = write_case(tmp_path / "set", "sub-1", **scan)
    secret = b"TE=89;Time=180654.605;phase=1"
    for path in folder.rglob("*.nii.gz"):
        image = nib.load(path)
        data = np.asarray(image.dataobj)
        image.header["descrip"] = secret
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", secret))
        nib.save(nib.Nifti1Image(data, image.affine, image.header), path)
        assert gzip.decompress(path.read_bytes()).count(secret) == 2
    _, volumes = validated(folder)
    assert len(volumes) == 3
    for image in volumes.values():
        with gzip.open(image.get_filename()) as file:
            assert b"180654" not in file.read()


# What is refused


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_image_with_nan_or_infinity_is_refused(tmp_path, scan, write_case, refusal, value):
    scan["dwi"][3, 4, :2] = value
    why = refusal(write_case(tmp_path / "set", "sub-1", **scan))
    assert why == "the image holds 2 voxels that are NaN or infinite"


@pytest.mark.filterwarnings("ignore:overflow")
def test_an_image_beyond_single_precision_is_refused(tmp_path, scan, write_case, refusal):
    assert "infinite" in refusal(write_case(tmp_path / "set", "sub-1", dwi=scan["dwi"].astype(np.float64) * 1e300))


def test_an_adc_map_in_a_scans_place_is_refused_unless_the_user_insists(
    tmp_path, make_head, write_case, refusal, keys_of
):
    folder = write_case(tmp_path / "set", "sub-1", dwi=make_head(fluid=3.0, tissue=0.8))
    reason = refusal(folder)
    assert "looks like an ADC map" in reason and 'SET="modality_check=false"' in reason
    (case,) = discover(keys_of(folder)).cases
    assert validate(case, folder, tmp_path / "validated", modality_check=False).case == "sub-1_ses-0001"


def test_fewer_than_three_slices_are_refused(tmp_path, scan, write_case, refusal):
    assert refusal(write_case(tmp_path / "set", "sub-1", dwi=scan["dwi"][:, :, :2])).startswith("2 slices, at least 3")


def test_a_tiny_plane_is_refused(tmp_path, scan, write_case, refusal):
    why = refusal(write_case(tmp_path / "set", "sub-1", dwi=scan["dwi"][:15]))
    assert why == "in-plane size (15, 24) is below 16 pixels"


def test_a_constant_image_is_refused(tmp_path, write_case, refusal):
    why = refusal(write_case(tmp_path / "set", "sub-1", dwi=np.full((32, 24, 5), 7, np.float32)))
    assert why == "the image is constant (7 everywhere)"


def test_a_broken_file_is_refused_by_its_name(tmp_path, scan, write_case, refusal):
    folder = write_case(tmp_path / "set", "sub-1", **scan)
    (path,) = folder.rglob("*_dwi.nii.gz")
    path.write_bytes(path.read_bytes()[:2000])
    assert refusal(folder).startswith("sub-1/ses-0001/dwi/sub-1_ses-0001_dwi.nii.gz: cut short")


def test_a_mask_of_another_shape_is_refused(tmp_path, scan, write_case, refusal):
    why = refusal(write_case(tmp_path / "set", "sub-1", dwi=scan["dwi"], mask=scan["mask"][:, :, 1:]))
    assert why == "the mask's grid (32, 24, 4) is not the image's (32, 24, 5)"


@pytest.mark.parametrize(
    "change",
    [np.array([0, 0, 5, 0]), np.array([0.6, 0, 0, 0])],
    ids=["a slice further up", "a third of a voxel aside"],
)
def test_a_mask_shifted_against_the_image_is_refused(tmp_path, scan, write_case, refusal, change):
    shifted = AFFINE.copy()
    shifted[:, 3] += change
    folder = write_case(
        tmp_path / "set", "sub-1", dwi=scan["dwi"], mask=scan["mask"], affine={"dwi": AFFINE, "mask": shifted}
    )
    assert refusal(folder) == f"the mask is up to {change.max():.1f} mm off the image (their affines differ)"


def test_a_mask_turned_or_scaled_against_the_image_is_refused(tmp_path, scan, write_case, refusal):
    turned = np.eye(4)
    turned[:3, :3] = Rotation.from_euler("z", 2, degrees=True).as_matrix()
    for name, other in (("turned", turned @ AFFINE), ("scaled", np.diag([2, 2, 5.2, 1]))):
        folder = write_case(
            tmp_path / name, "sub-1", dwi=scan["dwi"], mask=scan["mask"], affine={"dwi": AFFINE, "mask": other}
        )
        assert "off the image" in refusal(folder)


def test_a_mask_off_by_rounding_of_the_header_only_is_accepted(tmp_path, scan, write_case, validated):
    nudged = AFFINE + 1e-3 * np.array([[0, 0, 0, 1.0]] * 3 + [[0] * 4])
    record, _ = validated(
        write_case(tmp_path / "set", "sub-1", **scan, affine={k: AFFINE for k in scan} | {"mask": nudged})
    )
    assert record.labelled


@pytest.mark.parametrize(("image_ending", "mask_ending"), [("npy", "nii.gz"), ("nii.gz", "npy")])
def test_image_and_mask_of_different_formats_are_refused(tmp_path, scan, refusal, image_ending, mask_ending):
    for kind, ending, data in (("images", image_ending, scan["dwi"]), ("masks", mask_ending, scan["mask"])):
        path = tmp_path / "set" / kind / f"P.{ending}"
        path.parent.mkdir(parents=True)
        np.save(path, data) if ending == "npy" else nib.save(nib.Nifti1Image(data, AFFINE), path)
    assert "not of one format" in refusal(tmp_path / "set")


@pytest.mark.parametrize(
    ("values", "shown"), [((0, 1, 2), "0, 1, 2"), ((0, 255), "0, 255"), ((0, 0.3, 1), "0, 0.3, 1"), ((-1, 0), "-1, 0")]
)
def test_a_mask_that_is_not_binary_is_refused_with_its_values(tmp_path, scan, write_case, refusal, values, shown):
    mask = np.resize(np.array(values, np.float32), (32, 24, 5))
    why = refusal(write_case(tmp_path / "set", "sub-1", dwi=scan["dwi"], mask=mask))
    assert why == f"the mask is not binary: it holds {shown}; expected 0 and 1"


def test_a_mask_with_nan_is_refused(tmp_path, scan, write_case, refusal):
    mask = scan["mask"].astype(np.float32)
    mask[0, 0, 0] = np.nan
    assert "the mask holds values that are NaN" in refusal(
        write_case(tmp_path / "set", "sub-1", dwi=scan["dwi"], mask=mask)
    )


def test_a_mask_that_is_one_everywhere_is_refused(tmp_path, scan, write_case, refusal):
    ones = np.ones((32, 24, 5), np.uint8)
    assert "the mask is 1 everywhere" in refusal(write_case(tmp_path / "set", "sub-1", dwi=scan["dwi"], mask=ones))


def test_slices_of_different_shapes_are_refused(tmp_path, scan, write_npy, refusal):
    for number in (1, 2, 3):
        write_npy(tmp_path / "set", f"P_Slice_{number}", scan["dwi"][number % 2 :, :, number])
    assert refusal(tmp_path / "set") == "its slices differ in shape: (31, 24, 1), (32, 24, 1)"


@pytest.mark.parametrize("files", [1, 3])
def test_volumes_under_the_name_of_slices_are_refused(tmp_path, scan, write_npy, refusal, files):
    for number in range(files):
        write_npy(tmp_path / "set", f"P_Slice_{number}", scan["dwi"])
    assert refusal(tmp_path / "set") == (f"{files} files are named as single slices, but hold {5 * files} slices")


# An ADC map that is not usable is left out; the case is kept


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda adc: adc[:, :, 1:], "the ADC map's grid (32, 24, 4) is not the image's"),
        (lambda adc: np.where(adc > 0.8, np.nan, adc), "NaN or infinite"),
        (lambda adc: adc * 0, "no positive values in the brain"),
        (lambda adc: -adc, "no positive values in the brain"),
        (lambda adc: adc * 1e6, "fit none of mm2/s, 1e-3 mm2/s, 1e-6 mm2/s"),
        (lambda adc: adc[..., None].repeat(2, 3), "is not a 3-D volume"),
    ],
    ids=["another grid", "NaN", "empty", "negative", "no unit", "4-D"],
)
def test_a_bad_adc_map_is_left_out_not_the_case(tmp_path, scan, write_case, validated, spoil, words):
    scan["adc"] = spoil(scan["adc"])
    record, volumes = validated(write_case(tmp_path / "set", "sub-1", **scan))
    assert set(volumes) == {"dwi", "mask"} and record.adc_unit_found is None
    assert len(record.repairs) == 1 and record.repairs[0].startswith("ADC map left out: ")
    assert words in record.repairs[0]


def test_an_adc_unit_is_the_one_that_makes_tissue_of_it():
    dwi = np.tile([0.0, 1.0], 500).reshape(10, 10, 10)
    for unit, value in (("mm2/s", 3e-3), ("mm2/s", 3e-4), ("1e-3 mm2/s", 3.0), ("1e-6 mm2/s", 300.0)):
        assert adc_unit(np.full((10, 10, 10), value), dwi) == unit


# Names of files


@pytest.mark.parametrize("name", ["sub-1_ses-0001", "Patient_001", "a.b"])
def test_a_plain_name_is_its_own_file_name(name):
    assert case_slug(name) == name


@pytest.mark.parametrize("name", ["Müller", "a b", "-rf", ".hidden", "x" * 200, "a\udcff", "<b>", "a'b", "ผู้ป่วย"])
def test_any_other_name_becomes_a_plain_one_that_tells_apart(name):
    slug = case_slug(name)
    assert slug.isascii() and slug.replace("-", "").isalnum() and len(slug) < 30
    assert slug == case_slug(name) != case_slug(name + "x")


def test_a_case_with_any_name_is_kept_under_its_own(tmp_path, scan, write_npy, validated):
    record, _ = validated(write_npy(tmp_path / "set", "ผู้ป่วย <1>", scan["dwi"], scan["mask"]))
    assert record.case == record.patient == "ผู้ป่วย <1>"
    assert all((tmp_path / "validated" / name).is_file() and name.isascii() for name in record.files.values())


def test_what_is_written_is_read_back_as_it_was_checked(tmp_path, scan, write_case, validated):
    dwi, affine = stored_as("PIL", scan["dwi"])
    record, _ = validated(write_case(tmp_path / "set", "sub-1", dwi=dwi, affine=affine))
    data, geometry = read(tmp_path / "validated" / record.files["dwi"])
    assert geometry.orientation == "RAS" and np.array_equal(data, scan["dwi"])
    assert data.shape == record.shape and geometry.voxel_mm == pytest.approx(record.voxel_mm)
