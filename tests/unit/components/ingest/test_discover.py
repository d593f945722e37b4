import pytest

from components.core.errors import StepError
from components.ingest.discover import discover


def flat(*names: str, masks: bool = True) -> list[str]:
    return [f"{kind}/{name}" for name in names for kind in (("images", "masks") if masks else ("images",))]


def bids(name: str, session: str | None = "ses-0001", kinds=("dwi", "adc"), mask: bool = True) -> list[str]:
    stem, below = (f"{name}_{session}", f"{name}/{session}") if session else (name, name)
    keys = [f"{below}/dwi/{stem}_{kind}.nii.gz" for kind in kinds]
    return [*keys, f"derivatives/{below}/{stem}_msk.nii.gz"] if mask else keys


def only_case(keys):
    found = discover(keys)
    assert found.refused == {}
    (case,) = found.cases
    return case


def only_refusal(keys):
    found = discover(keys)
    assert found.cases == []
    ((name, why),) = found.refused.items()
    return name, why


# images/ and masks/ of the same name


@pytest.mark.parametrize("ending", ["nii.gz", "nii", "npy"])
def test_an_image_and_the_mask_of_its_name_are_a_case(ending):
    case = only_case(flat(f"Patient_001.{ending}"))
    assert (case.name, case.patient, case.session) == ("Patient_001", "Patient_001", None)
    assert (case.image, case.mask) == ([f"images/Patient_001.{ending}"], [f"masks/Patient_001.{ending}"])
    assert case.adc is case.slice_numbers is None


def test_an_image_without_a_mask_is_an_unlabelled_case():
    assert only_case(flat("Patient_001.npy", masks=False)).mask == []


def test_sessions_in_the_name_belong_to_one_patient():
    found = discover(flat("Patient_001_ses-1.nii.gz", "Patient_001_ses-2.nii.gz"))
    assert [(c.patient, c.session) for c in found.cases] == [("Patient_001", "ses-1"), ("Patient_001", "ses-2")]


@pytest.mark.parametrize("word", ["ses", "SES", "Ses"])
def test_a_session_is_one_in_capitals_too(word):
    found = discover(flat(f"A_{word}-1.nii.gz", f"A_{word}-2.nii.gz"))
    assert [(c.patient, c.session) for c in found.cases] == [("A", "ses-1"), ("A", "ses-2")]


def test_folders_and_endings_are_read_in_capitals_too():
    case = only_case(["IMAGES/P.NII.GZ", "Masks/P.nii.gz"])
    assert (case.image, case.mask) == (["IMAGES/P.NII.GZ"], ["Masks/P.nii.gz"])


def test_two_codings_of_one_letter_are_one_name():
    one, other = "Ren\u00e9", "Rene\u0301"
    case = only_case([f"images/{one}.nii.gz", f"masks/{other}.nii.gz"])
    assert (case.name, case.mask) == (one, [f"masks/{other}.nii.gz"])
    found = discover(flat(f"{one}_ses-1.nii.gz", f"{other}_ses-2.nii.gz"))
    assert [(c.patient, c.session) for c in found.cases] == [(one, "ses-1"), (one, "ses-2")]
    found = discover(bids(f"sub-{one}", "ses-1") + bids(f"sub-{other}", "ses-2"))
    assert {c.patient for c in found.cases} == {f"sub-{one}"} and found.refused == {}


def test_slices_are_put_back_in_the_order_of_their_numbers():
    case = only_case(flat("P_1_Slice_10.npy", "P_1_Slice_9.npy", "P_1_Slice_011.npy"))
    assert (case.name, case.patient, case.slice_numbers) == ("P_1", "P_1", [9, 10, 11])
    assert case.image == ["images/P_1_Slice_9.npy", "images/P_1_Slice_10.npy", "images/P_1_Slice_011.npy"]
    assert case.mask == [key.replace("images", "masks") for key in case.image]


def test_gaps_in_the_numbers_of_slices_are_kept():
    assert only_case(flat("P_Slice_3.npy", "P_Slice_4.npy", "P_Slice_9.npy")).slice_numbers == [3, 4, 9]


def test_slices_of_two_patients_stay_apart():
    found = discover(flat("A_Slice_1.npy", "B_Slice_1.npy", "A_Slice_2.npy", "B_Slice_2.npy"))
    assert [(c.name, c.slice_numbers) for c in found.cases] == [("A", [1, 2]), ("B", [1, 2])]


def test_slices_without_any_mask_are_an_unlabelled_case():
    assert only_case(flat("P_Slice_1.npy", "P_Slice_2.npy", masks=False)).mask == []


def test_slices_of_which_only_some_have_a_mask_are_refused():
    keys = flat("P_Slice_1.npy", "P_Slice_2.npy") + flat("P_Slice_3.npy", masks=False)
    assert only_refusal(keys) == ("P", "1 of 3 slices have no mask (the first: P_Slice_3)")


def test_a_slice_number_given_twice_is_refused():
    name, why = only_refusal(flat("P_Slice_1.npy", "P_Slice_001.npy"))
    assert (name, why) == ("P", "slice number 1 is given twice")


def test_a_patient_given_as_a_volume_and_as_slices_is_refused():
    name, why = only_refusal(flat("P.npy", "P_Slice_1.npy", "P_Slice_2.npy"))
    assert name == "P" and "as one volume and as single slices" in why


def test_two_files_for_one_name_are_refused():
    name, why = only_refusal(["images/P.npy", "images/P.nii.gz", "masks/P.npy"])
    assert name == "P" and why == "two files in images/ for one name: images/P.nii.gz, images/P.npy"


def test_the_same_name_in_two_folders_is_refused():
    assert only_refusal(["a/images/P.npy", "b/images/P.npy"])[0] == "P"


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("2024/images/009.nii.gz", "2025/masks/009.nii.gz"),
        ("images/009.nii.gz", "old/masks/009.nii.gz"),
        ("a/images/009_Slice_1.npy", "b/masks/009_Slice_1.npy"),
    ],
)
def test_only_folders_beside_each_other_hold_pairs(image, mask):
    name, why = only_refusal([image, mask])
    assert name == "009" and f"its mask {mask} and its image {image} are in two data sets" in why


def test_slices_from_two_folders_are_not_one_volume():
    keys = ["2024/images/P_Slice_1.npy", "2025/images/P_Slice_2.npy"]
    name, why = only_refusal(keys)
    assert name == "P" and why.startswith(f"its slices are in several folders: {', '.join(keys)}")


def test_a_file_in_the_folder_of_another_patient_is_refused():
    keys = ["sub-05/images/sub-06.nii.gz", "sub-05/masks/sub-06.nii.gz"]
    name, why = only_refusal(keys)
    assert name == "sub-06" and "is in the folder of sub-05 and names another patient" in why


def test_a_mask_without_an_image_is_refused_and_the_others_are_kept():
    found = discover([*flat("A.npy"), "masks/B.npy"])
    assert [c.name for c in found.cases] == ["A"]
    assert found.refused == {"B": "mask without an image of the same name"}


def test_a_mask_without_its_slice_refuses_the_whole_scan():
    found = discover([*flat("P_Slice_1.npy", "P_Slice_2.npy"), "masks/P_Slice_3.npy"])
    assert found.cases == [] and "P_Slice_3 was refused: mask without" in found.refused["P"]


@pytest.mark.parametrize(
    "keys",
    [
        flat("Patient_1.npy", "patient_1.npy"),
        ["images/Patient_1.npy", "masks/patient_1.npy"],
        flat("Patient_1_Slice_1.npy", "patient_1_Slice_2.npy"),
        flat("Patient_1.npy", "patient_1_Slice_2.npy"),
        flat("Patient_1_ses-1.npy", "patient_1_ses-2.npy"),
        bids("sub-A") + bids("sub-a", "ses-0002"),
    ],
    ids=["volumes", "image and mask", "slices", "volume and slice", "sessions", "BIDS"],
)
def test_names_that_differ_only_in_case_are_refused(keys):
    other = flat("Other.npy") if "images" in keys[0] else bids("sub-other")
    found = discover([*keys, *other])
    assert found.cases == discover(other).cases
    assert len(found.refused) == 2
    assert all("differ only in case" in why for why in found.refused.values())


# BIDS, as ISLES'22 has it


def test_an_isles_session_is_a_case_with_its_adc_and_mask():
    case = only_case(bids("sub-1"))
    assert (case.name, case.patient, case.session) == ("sub-1_ses-0001", "sub-1", "ses-0001")
    assert case.image == ["sub-1/ses-0001/dwi/sub-1_ses-0001_dwi.nii.gz"]
    assert case.adc == "sub-1/ses-0001/dwi/sub-1_ses-0001_adc.nii.gz"
    assert case.mask == ["derivatives/sub-1/ses-0001/sub-1_ses-0001_msk.nii.gz"]
    assert case.keys == [*case.image, *case.mask, case.adc]


def test_bids_without_sessions_is_read_too():
    case = only_case(bids("sub-1", session=None))
    assert (case.name, case.session, len(case.mask)) == ("sub-1", None, 1)


def test_two_sessions_of_one_patient_are_two_cases():
    found = discover(bids("sub-1", "ses-1") + bids("sub-1", "ses-2"))
    assert [(c.name, c.patient) for c in found.cases] == [("sub-1_ses-1", "sub-1"), ("sub-1_ses-2", "sub-1")]


def test_a_scan_without_mask_or_adc_is_an_unlabelled_case():
    case = only_case(bids("sub-1", kinds=["dwi"], mask=False))
    assert case.mask == [] and case.adc is None


def test_a_folder_of_masks_among_the_derivatives_is_no_other_layout():
    keys = [*bids("sub-1", session=None, mask=False), "derivatives/sub-1/masks/sub-1_msk.nii.gz"]
    assert only_case(keys).mask == keys[-1:]


@pytest.mark.parametrize("below", ["derivatives/labels", "derivatives/manual_masks/v2"])
def test_masks_may_lie_deeper_in_derivatives(below):
    keys = [*bids("sub-1", mask=False), f"{below}/sub-1/ses-0001/anat/sub-1_ses-0001_lesion-mask.nii.gz"]
    assert len(only_case(keys).mask) == 1


def test_two_masks_are_refused():
    keys = [*bids("sub-1"), "derivatives/rater2/sub-1/ses-0001/sub-1_ses-0001_msk.nii.gz"]
    name, why = only_refusal(keys)
    assert name == "sub-1_ses-0001" and why.startswith("2 masks where one is expected")


@pytest.mark.parametrize(("kind", "words"), [("dwi", "2 DWI scans where one is expected"), ("adc", "two ADC maps")])
def test_two_scans_of_a_kind_are_refused(kind, words):
    name, why = only_refusal([*bids("sub-1"), f"sub-1/ses-0001/dwi/sub-1_ses-0001_run-2_{kind}.nii.gz"])
    assert name == "sub-1_ses-0001" and why.startswith(words)


def test_a_b0_is_taken_where_there_is_no_adc_map():
    b0 = "sub-1/ses-0001/dwi/sub-1_ses-0001_b0.nii.gz"
    assert only_case([*bids("sub-1", kinds=["dwi"]), b0]).keys[-1] == b0
    with_adc = only_case([*bids("sub-1", kinds=["dwi", "adc"]), b0])
    assert with_adc.b0 is None and b0 not in with_adc.keys


def test_the_b_value_of_a_dwi_with_a_b0_is_in_the_files_of_its_name():
    stem = "sub-1/ses-0001/dwi/sub-1_ses-0001"
    others = [f"{stem}_b0.bval", f"{stem}_dwi.bvec", "sub-2/ses-0001/dwi/sub-2_ses-0001_dwi.json"]
    beside = [f"{stem}_dwi.bval", f"{stem}_dwi.json"]
    found = discover([*bids("sub-1", kinds=["dwi", "b0"], mask=False), *beside, *others])
    (case,) = found.cases
    assert case.keys == [f"{stem}_dwi.nii.gz", f"{stem}_b0.nii.gz", *beside] and found.ignored == sorted(others)


def test_a_b_value_is_of_no_use_without_a_b0_or_beside_an_adc_map():
    bval = "sub-1/ses-0001/dwi/sub-1_ses-0001_dwi.bval"
    for kinds in (["dwi"], ["dwi", "adc"], ["dwi", "adc", "b0"]):
        found = discover([*bids("sub-1", kinds=kinds), bval])
        assert bval in found.ignored and bval not in found.cases[0].keys


def test_an_adc_map_without_its_scan_is_refused():
    assert only_refusal(bids("sub-1", kinds=["adc"], mask=False)) == ("sub-1_ses-0001", "ADC map without a DWI scan")


def test_a_mask_without_its_scan_is_refused_and_the_others_are_kept():
    found = discover([*bids("sub-1"), *bids("sub-2", kinds=[])])
    assert [c.name for c in found.cases] == ["sub-1_ses-0001"]
    assert found.refused == {"sub-2_ses-0001": "mask without a DWI scan"}


def test_a_derived_scan_is_not_a_second_scan():
    keys = [*bids("sub-1"), "derivatives/sub-1/ses-0001/dwi/sub-1_ses-0001_dwi.nii.gz"]
    assert len(only_case(keys).image) == 1


@pytest.mark.parametrize(
    ("image", "mask", "what"),
    [
        ("sub-05/ses-1/dwi/sub-06_ses-1_dwi", "sub-05/ses-1/sub-05_ses-1_msk", "patient"),
        ("sub-05/ses-1/dwi/sub-05_ses-2_dwi", "sub-05/ses-1/sub-05_ses-1_msk", "session"),
        ("sub-05/ses-1/dwi/sub-05_ses-1_dwi", "sub-05/ses-1/sub-06_ses-1_msk", "patient"),
        ("sub-05/ses-1/dwi/sub-05_ses-1_dwi", "sub-05/ses-1/sub-05_ses-2_msk", "session"),
        ("sub-05/ses-1/dwi/sub-05_ses-1_dwi", "sub-05/ses-1/SUB-050_ses-1_msk", "patient"),
        ("sub-05/ses-1/dwi/sub-05-2_ses-1_dwi", "sub-05/ses-1/sub-05_ses-1_msk", "patient"),
        ("sub-05/ses-2/dwi/sub-2_ses-2_dwi", "sub-05/ses-2/sub-05_ses-2_msk", "patient"),
    ],
)
def test_patient_and_session_agree_in_folder_and_name(image, mask, what):
    name, why = only_refusal([f"{image}.nii.gz", f"derivatives/{mask}.nii.gz"])
    assert name.startswith("sub-05_ses-") and f"names another {what}: move it, or rename one of them" in why


@pytest.mark.parametrize("kind", ["adc", "b0"])
def test_a_map_of_another_patient_is_refused(kind):
    name, why = only_refusal([*bids("sub-05", kinds=["dwi"]), f"sub-05/ses-0001/dwi/sub-06_ses-0001_{kind}.nii.gz"])
    assert name == "sub-05_ses-0001" and "names another patient" in why


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("sub-A_1/dwi/sub-A_1_dwi", "sub-A_1/sub-A_1-msk"),
        ("sub-A/ses-1/dwi/SUB-a_SES-1_dwi", "sub-A/ses-1/a-ses-1-msk"),
        ("sub-A/ses-1/A_20240131_dwi", "sub-A/ses-1/rater2_msk"),
        ("sub-A/dwi/sub-A_ses-1_dwi", "sub-A/sub-A_msk"),
    ],
)
def test_names_that_agree_or_have_no_owner_are_a_case(image, mask):
    assert only_case([f"{image}.nii.gz", f"derivatives/{mask}.nii.gz"]).mask == [f"derivatives/{mask}.nii.gz"]


def test_two_sessions_of_one_folder_are_not_a_pair():
    name, why = only_refusal(["sub-A/dwi/sub-A_ses-1_dwi.nii.gz", "derivatives/sub-A/sub-A_ses-2_msk.nii.gz"])
    assert name == "sub-A" and why.startswith("its files name several sessions: ")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a/sub-1/dwi/sub-1_dwi.nii.gz", "b/derivatives/sub-1/sub-1_msk.nii.gz"),
        ("a/sub-1/dwi/sub-1_dwi.nii.gz", "b/sub-1/dwi/sub-1_adc.nii.gz"),
        ("a/sub-1/dwi/sub-1_dwi.nii.gz", "b/sub-1/dwi/sub-1_b0.nii.gz"),
    ],
)
def test_files_of_two_data_sets_are_not_a_case(one, other):
    name, why = only_refusal([one, other])
    assert name == "sub-1" and "are in two data sets" in why and one in why and other in why


def test_the_derivatives_may_lie_beside_the_folder_of_the_patients():
    keys = ["rawdata/sub-1/dwi/sub-1_dwi.nii.gz", "Derivatives/v2/sub-1/sub-1_msk.nii.gz"]
    assert only_case(keys).mask == keys[1:]


@pytest.mark.parametrize("patient", ["sub-BRAIN04", "sub-brain", "sub-lesion1"])
def test_a_brain_mask_is_told_by_its_own_words_not_by_its_patient(patient):
    own = f"derivatives/{patient}/ses-0001"
    others = [f"{own}/{patient}_ses-0001_desc-brain_mask.nii.gz", f"{own}/{patient}_ses-0001_brain_mask.nii.gz"]
    assert only_case([*bids(patient, kinds=["dwi"]), *others]).mask == [f"{own}/{patient}_ses-0001_msk.nii.gz"]
    assert only_case([*bids(patient, kinds=["dwi"], mask=False), *others]).mask == []


@pytest.mark.parametrize("mask", ["derivatives/SUB-A/ses-0001/x_msk.nii.gz", "derivatives/sub-A/SES-0001/x_msk.nii.gz"])
def test_a_mask_whose_folder_differs_in_case_is_refused_with_its_scan(mask):
    found = discover([*bids("sub-A", mask=False), mask])
    assert found.cases == [] and len(found.refused) == 2
    assert all("differ only in case" in why for why in found.refused.values())


def test_folders_of_bids_are_read_in_capitals_too():
    keys = ["SUB-1/SES-1/DWI/SUB-1_SES-1_DWI.NII.GZ", "DERIVATIVES/SUB-1/SES-1/SUB-1_SES-1_MSK.NII.GZ"]
    case = only_case(keys)
    assert (case.patient, case.session, case.keys) == ("SUB-1", "SES-1", keys)


# Either


def test_copies_in_sourcedata_are_left_alone():
    for keys in (bids("sub-1"), flat("P.nii.gz")):
        copies = [f"{place}/{key}" for key in keys for place in ("sourcedata", "SourceData/v1")]
        found = discover([*keys, *copies])
        assert found.cases == discover(keys).cases and found.refused == {} and found.ignored == sorted(copies)


def test_if_all_files_are_in_sourcedata_the_error_tells_how_to_use_them():
    with pytest.raises(StepError, match=r"Files below sourcedata/ are ignored: to use them, give that folder itself"):
        discover(f"sourcedata/{key}" for key in bids("sub-1"))


def test_a_folder_whose_name_ends_in_derivatives_is_a_folder():
    assert only_case(f"my-derivatives/{key}" for key in flat("P.nii.gz")).name == "P"


@pytest.mark.parametrize("prefix", ["site-a", "2024/site-a", "masks-and-images"])
@pytest.mark.parametrize("layout", [flat("P.npy"), flat("P_Slice_1.npy", "P_Slice_2.npy"), bids("sub-1")])
def test_a_set_may_lie_below_other_folders(prefix, layout):
    inside = only_case(f"{prefix}/{key}" for key in layout)
    assert inside.name == only_case(layout).name
    assert inside.keys == [f"{prefix}/{key}" for key in only_case(layout).keys]


def test_other_files_are_left_alone_and_listed():
    others = ["README.md", "participants.tsv", "images/P.json", "sub-1/ses-0001/dwi/sub-1_ses-0001_b0.nii.gz"]
    assert discover([*flat("P.npy"), *others]).ignored == sorted(others)
    others[2:] = ["sub-1/ses-0001/dwi/sub-1_ses-0001_dwi.bval", "sub-2/ses-0001/dwi/sub-2_ses-0001_b0.nii.gz"]
    assert discover([*bids("sub-1"), *others]).ignored == sorted(others)


def test_the_layout_is_named():
    assert discover(flat("P.npy")).layout == "images/masks" and discover(bids("sub-1")).layout == "BIDS"


def test_the_order_of_the_listing_does_not_matter():
    keys = flat("A.npy", "B_Slice_2.npy", "B_Slice_1.npy", "C.nii.gz")
    assert discover(keys) == discover(reversed(keys))


def test_two_layouts_at_once_are_refused_with_what_to_do():
    with pytest.raises(StepError, match=r"two layouts at once: images/P\.npy and sub-1/.*Keep them in two folders"):
        discover(flat("P.npy") + bids("sub-1"))


@pytest.mark.parametrize("keys", [[], ["README.md"], ["scans/P.npy"], ["images/P.dcm"], ["masks-P.npy"]])
def test_if_no_scan_is_recognised_the_error_gives_the_layouts(keys):
    with pytest.raises(StepError, match=r"no scans recognised among \d files.*Expected either images/NAME\.nii\.gz"):
        discover(keys)
