"""Which series of a study are taken, by header alone, and which studies are refused, with what to do."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from components.core.errors import StepError
from components.scans.geometry import BadVolume
from pipelines.dicom.choose import choose, names_series
from pipelines.dicom.headers import read_series
from pipelines.dicom.studies import find_studies, own_folder
from tests.support.dicom_studies import SeriesOptions, Study, write_enhanced, write_series

AFFINE = np.array([[-2.0, 0, 0, 15], [0, -2.0, 0, 15], [0, 0, 5.0, -9], [0, 0, 0, 1]])
TURNED = np.array([[0, 0, 5.0, -9], [-2.0, 0, 0, 15], [0, -2.0, 0, 15], [0, 0, 0, 1]])
VOXELS = np.arange(16 * 16 * 5, dtype=np.uint16).reshape(16, 16, 5)


@pytest.fixture
def study():
    return Study()


@pytest.fixture
def put(tmp_path, study):
    """put("folder", kind="adc", ...) writes a series of the study there."""

    def write(folder: str, voxels=VOXELS, affine=AFFINE, of: Study | None = None, **options) -> list[Path]:
        return write_series(tmp_path / folder, voxels, affine, of or study, **options)

    return write


@pytest.fixture
def chosen(tmp_path):
    """chosen(series="") -> what is taken of the one study there."""

    def take(series: str = ""):
        found, broken, _ = read_series(path for path in sorted(tmp_path.rglob("*")) if path.is_file())
        assert not broken
        return choose(found, names_series(series))

    return take


def refusal(chosen, series: str = "") -> str:
    with pytest.raises(BadVolume) as refused:
        chosen(series)
    return str(refused.value)


class TestTaken:
    @pytest.mark.parametrize(
        ("there", "taken"), [((500, 1000, 2000), 1000), ((800, 1200), 1200), ((0, 900), 900), ((400, 3000), 400)]
    )
    def test_the_b_value_nearest_to_1000_and_of_two_the_higher(self, put, chosen, there, taken):
        for number, b_value in enumerate(there):
            put(f"S{number}", number=number, b_value=b_value, kind="trace" if b_value else "b0")
        assert chosen().dwi.b_value == taken

    @pytest.mark.parametrize("vendor", ["standard", "siemens", "ge", "philips"])
    def test_the_b_value_stands_where_each_vendor_puts_it(self, put, chosen, vendor):
        put("a", number=1, kind="b0", vendor=vendor)
        put("b", number=2, b_value=1000, vendor=vendor)
        assert chosen().dwi.b_value == 1000 and chosen().b0.series.number == "1"

    def test_names_of_files_and_folders_count_for_nothing(self, put, chosen):
        put("ADC_map", number=1)
        put("DWI_b1000_trace", number=2, kind="adc")
        assert chosen().dwi.series.number == "1" and chosen().adc.series.number == "2"

    @pytest.mark.parametrize(
        "options",
        [
            {"types": ("DERIVED", "PRIMARY", "ADC", "NONE")},
            {"types": ("DERIVED", "SECONDARY"), "description": "Apparent Diffusion Coefficient (mm2/s)"},
        ],
    )
    def test_an_adc_map_is_known_by_its_image_type_or_as_ge_describes_it(self, put, chosen, options):
        put("a", number=1)
        put("b", number=2, kind="adc", **options)
        assert chosen().adc.series.number == "2"

    @pytest.mark.parametrize(
        "options",
        [
            {"types": ("DERIVED", "PRIMARY", "FA")},
            {"types": ("DERIVED", "SECONDARY"), "description": "Exponential ADC"},
        ],
    )
    def test_other_maps_are_not_taken(self, put, chosen, options):
        put("a", number=1)
        put("b", number=2, kind="adc", **options)
        assert chosen().adc is None

    def test_series_of_directions_stay_beside_their_trace(self, put, chosen):
        put("a", number=1)
        put("b", number=2, kind="direction")
        assert chosen().dwi.series.number == "1"

    def test_philips_tells_a_direction_from_a_trace_in_an_element_of_its_own(self, put, chosen):
        types = ("ORIGINAL", "PRIMARY", "M", "SE")
        put("a", number=1, kind="direction", vendor="philips", types=types)
        assert "single directions of diffusion and no trace" in refusal(chosen)
        put("b", number=2, vendor="philips", types=types)
        assert chosen().dwi.series.number == "2" and chosen().dwi.sure

    def test_a_dwi_without_a_word_on_its_direction_is_taken_and_noted(self, put, chosen):
        put("a", number=1, says_direction=False)
        assert any("does not say whether the DWI is a trace" in note for note in chosen().notes)

    def test_an_adc_map_on_another_grid_is_left_out_and_noted(self, put, chosen):
        put("a", number=1)
        put("b", number=2, kind="adc", affine=AFFINE + np.diag([0, 0, 1.0, 0]))
        assert chosen().adc is None and any("another grid" in note for note in chosen().notes)

    @pytest.mark.parametrize(
        "other",
        [
            AFFINE + np.diag([0, 0, -2.5, 0]),
            AFFINE + np.array([[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 2.5], [0, 0, 0, 0]]),
            TURNED,
        ],
        ids=["finer", "between", "turned"],
    )
    def test_a_larger_series_on_another_lattice_says_nothing_of_the_slices(self, put, chosen, other):
        put("a", number=1, without=(4,))
        put("b", number=2, kind="adc", voxels=np.zeros((16, 16, 10), np.uint16), affine=other)
        assert len(chosen().dwi.planes) == 4

    def test_the_b0_is_that_of_the_dwis_series(self, put, chosen):
        put("a", number=3, kind="b0")
        put("b", number=4, uid="1.2.3")
        put("c", number=4, uid="1.2.3", kind="b0")
        assert chosen().b0.series.number == "4"
        assert any(note.startswith("b0 image: series 4") for note in chosen().notes)
        assert not any("ANOTHER SERIES" in note for note in chosen().notes)
        assert chosen("3").b0.series.number == "3"

    def test_a_b0_of_another_series_is_noted(self, put, chosen):
        put("a", number=3, kind="b0")
        put("b", number=4)
        assert any(note.startswith("THE B0 IMAGE IS OF ANOTHER SERIES") for note in chosen().notes)

    def test_a_b0_that_is_not_taken_is_noted(self, put, chosen):
        put("a", number=3, kind="b0", affine=TURNED)
        put("b", number=4)
        assert chosen().b0 is None and any("b0 image was left out" in note for note in chosen().notes)

    def test_a_multi_frame_file_holds_all_of_them(self, tmp_path, study, chosen):
        kinds = ("b0", "direction", "trace", "adc")
        volumes = [(VOXELS, SeriesOptions(kind=kind, says_direction=kind != "adc")) for kind in kinds]
        write_enhanced(tmp_path / "file", volumes, AFFINE, study)
        taken = chosen()
        assert [plane.frame for plane in taken.dwi.planes] == list(range(10, 15))
        assert [plane.frame for plane in taken.adc.planes] == list(range(15, 20))


class TestRefused:
    def test_several_traces_until_one_is_named(self, put, chosen):
        put("a", number=4)
        put("b", number=7)
        assert "2 series could be the DWI. Choose one: SERIES=4 (or 7)" in refusal(chosen)
        assert chosen("7").dwi.series.number == "7"
        assert chosen(chosen("4").dwi.series.uid).dwi.series.number == "4"

    def test_an_adc_map_that_was_derived_twice_until_one_is_named(self, put, chosen):
        put("a", number=4)
        put("b", number=5, kind="adc")
        put("c", number=6, kind="adc")
        assert "2 series could be the ADC map. Choose one: SERIES=5 (or 6)" in refusal(chosen)
        assert chosen("4 6").adc.series.number == "6"

    def test_equal_series_numbers_are_told_apart_by_uid(self, put, chosen):
        put("a", number=4, uid="1.2.3")
        put("b", number=4, uid="1.2.4")
        assert "SERIES=1.2.3 (or 1.2.4)" in refusal(chosen)
        assert chosen("1.2.4").dwi.series.uid == "1.2.4"

    def test_a_named_series_that_is_neither_dwi_nor_adc_map(self, put, chosen):
        put("a", number=4)
        put("b", number=5, kind="direction")
        assert "SERIES names series 5 (ep2d_diff), which holds no trace" in refusal(chosen, "5")

    def test_directions_without_a_trace(self, put, chosen):
        put("a", number=1, kind="direction")
        assert "no trace. Export the trace" in refusal(chosen)

    def test_directions_of_which_the_header_says_nothing(self, put, chosen):
        for number in range(3):
            put(f"S{number}", number=4, uid="1.2.3", says_direction=False)
        assert "several images are at one place" in refusal(chosen)

    def test_no_dwi(self, put, chosen):
        put("a", number=1, kind="b0")
        put("b", number=2, b_value=50)
        said = refusal(chosen)
        assert "no trace DWI" in said and "series 2 (ep2d_diff): trace, b = 50 s/mm²" in said

    @pytest.mark.parametrize("missing", [1, 2, 3])
    def test_a_missing_slice(self, put, chosen, missing):
        put("a", number=1, without=(missing,))
        assert "slices are missing" in refusal(chosen) and "10.00 mm after slice" in refusal(chosen)

    def test_a_missing_last_slice_is_seen_by_the_other_volumes_of_the_series(self, put, chosen):
        put("a", number=1, uid="1.2.3", kind="b0")
        put("b", number=1, uid="1.2.3", without=(4,))
        assert "4 of the 5 places" in refusal(chosen)

    @pytest.mark.sampled(4)
    @pytest.mark.parametrize("missing", [(0,), (4,), (0, 4), (3, 4)])
    @pytest.mark.parametrize("kind", ["adc", "b0", "trace"])
    def test_missing_end_slices_are_seen_by_the_other_series(self, put, chosen, missing, kind):
        put("a", number=1, without=missing)
        put("b", number=2, kind=kind, b_value=2000)
        message = refusal(chosen)
        assert f"series 1 (ep2d_diff): slices are missing: {5 - len(missing)} of the 5 places of series 2" in message
        assert "Export the whole series again. Found: series 1" in message

    def test_more_b0_images_than_one_until_one_is_named(self, put, chosen):
        put("a", number=4)
        put("b", number=5, kind="b0")
        put("c", number=6, kind="b0")
        assert "2 series could be the b0 image. Choose one: SERIES=5 (or 6)" in refusal(chosen)
        assert chosen("6").b0.series.number == chosen("4,6").b0.series.number == "6"

    def test_mixed_orientations(self, put, chosen):
        put("a", number=1, uid="1.2.3")
        put("b", number=1, uid="1.2.3", affine=TURNED)
        assert "mixed orientations" in refusal(chosen)

    def test_an_image_that_is_there_twice(self, put, chosen):
        path = put("a", number=1)[2]
        path.with_name("copy").write_bytes(path.read_bytes())
        assert "the same image is there twice" in refusal(chosen)

    def test_a_header_without_a_place(self, put, chosen):
        for path in put("a", number=1):
            header = pydicom.dcmread(path)
            del header.ImagePositionPatient
            header.save_as(path)
        assert "lack a usable position" in refusal(chosen)

    @pytest.mark.parametrize(
        ("keyword", "value"),
        [
            ("ImagePositionPatient", ["nan", "0", "0"]),
            ("ImageOrientationPatient", ["1", "0", "0", "1", "0", "0"]),
            ("PixelSpacing", ["0", "2"]),
            ("PixelSpacing", ["-2", "2"]),
        ],
    )
    def test_a_header_with_an_impossible_place(self, put, chosen, keyword, value):
        for path in put("a", number=1):
            header = pydicom.dcmread(path)
            header[keyword].value = value
            header.save_as(path)
        assert "lack a usable position" in refusal(chosen)

    def test_a_mosaic(self, put, chosen):
        put("a", number=1, types=("ORIGINAL", "PRIMARY", "M", "MOSAIC"))
        assert "mosaics" in refusal(chosen) and "dcm2niix" in refusal(chosen)

    def test_two_patients_in_one_study(self, put, chosen, study):
        put("a", number=1)
        put("b", number=2, kind="adc", of=Study(study.uid, study.frame_of_reference, "Another^Name", "other"))
        said = refusal(chosen)
        assert "several patients" in said and "Another" not in said


class TestStudiesOfAFolder:
    @pytest.fixture
    def studies(self, tmp_path):
        def find(series: str = ""):
            keys = [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*")) if path.is_file()]
            return find_studies(tmp_path, keys, names_series(series))

        return find

    def test_two_studies_of_a_patient_have_their_folders_in_it(self, put, studies):
        put("p/first/S1", number=1)
        put("p/first/S2", number=2)
        put("p/second/S1", number=1, of=Study())
        homes = [study.home for study in studies()]
        assert homes == ["p/first", "p/second/S1"]
        assert [own_folder(home, [o for o in homes if o != home]) for home in homes] == ["p/first", "p/second"]
        assert own_folder("q/deep/er", homes) == "q"

    def test_each_in_its_folder(self, put, studies):
        put("p/S1", number=1)
        put("p/S2", number=2, kind="adc")
        put("q/deep/er", number=1, of=Study())
        assert [(study.home, study.problem) for study in studies()] == [("p", ""), ("q/deep/er", "")]

    @pytest.mark.parametrize("other", ["p", "p/inside", "."])
    def test_two_in_one_folder_are_refused_until_a_series_is_named(self, put, studies, other):
        uid = generate_uid()
        put("p", number=1, uid=uid)
        put(other, number=2, of=Study(patient_id="other"))
        both = studies()
        assert len(both) == 2
        for study in both:
            assert "2 studies of 2 patients are in one folder" in study.problem and f"UID {uid}" in study.problem
        (one,) = studies(uid)
        assert not one.problem and one.series[0].uid == uid

    def test_a_series_of_no_study(self, put, studies):
        put("p", number=1)
        with pytest.raises(StepError, match=r"SERIES=8 .* no series here. Found: series 1"):
            studies("8")

    @pytest.mark.parametrize("left", [350, 700, 1000])
    def test_a_file_that_is_cut_within_its_header(self, put, studies, left):
        path = put("p", number=1)[2]
        path.write_bytes(path.read_bytes()[:left])
        (study,) = studies()
        assert path.name in study.problem

    def test_a_file_without_the_header_of_a_file_is_named_with_what_to_do(self, put, studies):
        path = put("p", number=1)[2]
        path.write_bytes(path.read_bytes()[132:])
        (study,) = studies()
        assert f"{path.name} lacks the header of a DICOM file" in study.problem and "Part 10" in study.problem

    def test_reports_and_other_objects_are_passed_over(self, put, studies, tmp_path):
        report = pydicom.dcmread(put("p", number=1)[0])
        report.Modality, report.SeriesInstanceUID = "SR", generate_uid()
        report.save_as(tmp_path / "p" / "report")
        (study,) = studies()
        assert len(study.series) == 1 and len(study.series[0].planes) == 5

    def test_a_folder_of_other_images_is_named(self, put, studies):
        put("p", number=1)
        for path in put("q/CT", number=1, of=Study()):
            header = pydicom.dcmread(path)
            header.Modality = "CT"
            header.save_as(path)
        other = {study.home: study.problem for study in studies()}
        assert other["p"] == "" and "none of its DICOM files is an MR image" in other["q"]

    def test_no_images_at_all(self, tmp_path, studies, put):
        for path in put("p", number=1):
            path.unlink()
        with pytest.raises(StepError, match="no MR images"):
            studies()
