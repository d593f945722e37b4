"""The registered model as a user calls it: NIfTI bytes in, a mask in that scan's own space out."""

import gzip
import json
import threading
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from mlflow.pyfunc import PythonModel

from components.model import segment_scan
from components.model.calibration import calibrated
from components.model.inference import predict_volume
from components.model.mlflow_model import COLUMNS, LesionSegmenter, Refused
from components.model.uncertainty import Assessment
from components.register.mlflow_logging import input_example
from components.scans.adc import in_kept_unit
from components.scans.volumes import read_nifti_bytes

RAS = np.diag([2.0, 2.0, 5.0, 1.0])
"""Voxels of 20 mm³."""


def scan(shape=(40, 36, 5), affine=RAS, seed: int = 0, dtype=np.int16) -> nib.Nifti1Image:
    values = np.random.default_rng(seed).normal(500, 100, shape).astype(dtype)
    return nib.Nifti1Image(values, affine)


@pytest.fixture
def segmenter(model):
    def load(**facts) -> LesionSegmenter:
        loaded = LesionSegmenter()
        loaded.load_context(SimpleNamespace(artifacts={"weights": str(model(**facts))}))
        return loaded

    return load


def predict(segmenter: LesionSegmenter, *images: nib.Nifti1Image) -> pd.DataFrame:
    return segmenter.predict(None, pd.DataFrame({"scan": [image.to_bytes() for image in images]}))


def mask_of(blob: bytes) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(blob))


def test_it_is_a_pyfunc_model():
    assert issubclass(LesionSegmenter, PythonModel)


def test_the_mask_has_the_scans_shape_and_affine_and_holds_zeros_and_ones(segmenter):
    image = scan()
    (mask,) = map(mask_of, predict(segmenter(), image)["mask"])
    assert mask.shape == image.shape
    assert np.array_equal(mask.affine, image.affine)
    assert mask.get_data_dtype() == np.uint8
    assert set(np.unique(np.asarray(mask.dataobj))) <= {0, 1}


@pytest.mark.parametrize("codes", [(1, 4), (1, 0), (0, 1), (0, 0)])
def test_mask_and_probabilities_carry_the_scans_own_forms_and_codes(segmenter, codes):
    image = scan()
    moved = np.array([[1, 0, 0, 3], [0, 0.96, -0.28, 8], [0, 0.28, 0.96, -6], [0, 0, 0, 1]]) @ RAS
    image.set_qform(RAS, codes[0])
    image.set_sform(moved, codes[1])
    out = segmenter().predict(None, pd.DataFrame({"scan": [image.to_bytes()]}), params={"probability": True})
    scans = nib.Nifti1Image.from_bytes(image.to_bytes()).header
    for file in (out["mask"][0], out["probability"][0]):
        header = mask_of(file).header
        assert (header["qform_code"], header["sform_code"]) == codes
        for form in ("get_qform", "get_sform"):
            placed, own = (getattr(h, form)(coded=True)[0] for h in (header, scans))
            assert (placed is None) == (own is None) and (own is None or np.array_equal(placed, own))


@pytest.mark.parametrize(("bias", "ml"), [(100.0, 40 * 36 * 5 * 20 / 1000), (-100.0, 0.0)])
def test_the_volume_is_that_of_the_masks_voxels_in_millilitres(segmenter, bias, ml):
    assert predict(segmenter(bias=bias), scan())["lesion_ml"][0] == pytest.approx(ml)


def test_the_threshold_is_the_models_own(segmenter):
    generous, strict = (predict(segmenter(threshold=t), scan())["lesion_ml"][0] for t in (0.0, 1.0))
    assert (generous, strict) == (pytest.approx(40 * 36 * 5 * 20 / 1000), 0.0)


def test_a_lesion_too_small_for_the_model_stays_where_it_is_the_only_one(segmenter):
    """All 7200 voxels of 20 mm³ are one lesion of 144 mL: the largest, which always stays."""
    volumes = [
        predict(segmenter(bias=100.0, smallest_lesion_ml=smallest), scan())["lesion_ml"][0] for smallest in (143, 145)
    ]
    assert volumes == [pytest.approx(144), pytest.approx(144)]


def test_how_a_scan_is_stored_does_not_change_which_brain_voxels_are_lesion(segmenter):
    """The same head stored as LPS, with its axes in another order: the mask lies in the same place in space."""
    straight = scan()
    turned = straight.as_reoriented(nib.orientations.axcodes2ornt("PLS"))
    assert turned.shape == (36, 40, 5)
    loaded = segmenter()
    probability = predict_volume(loaded.network, loaded.trained, straight.get_fdata(dtype=np.float32))
    loaded.trained = loaded.trained.model_copy(
        update={"threshold": float(np.median(probability))}
    )  # about half of the voxels are lesion
    masks = [mask_of(blob) for blob in predict(loaded, straight, turned)["mask"]]
    assert nib.aff2axcodes(masks[1].affine) == ("P", "L", "S")
    again = nib.as_closest_canonical(masks[1])
    assert np.asarray(masks[0].dataobj).mean() == pytest.approx(0.5, abs=0.01)
    assert np.array_equal(np.asarray(again.dataobj), np.asarray(masks[0].dataobj))


def test_any_number_of_scans_of_any_size_come_back_row_by_row(segmenter):
    images = [scan((40, 36, 5)), scan((20, 50, 19), seed=1), scan((64, 64, 3), seed=2)]
    loaded = segmenter()
    together = predict(loaded, *images)
    alone = pd.concat([predict(loaded, image) for image in images], ignore_index=True)
    pd.testing.assert_frame_equal(together, alone)
    assert [mask_of(blob).shape for blob in together["mask"]] == [image.shape for image in images]


def test_no_scans_give_an_empty_table(segmenter):
    assert predict(segmenter()).columns.tolist() == COLUMNS


def test_a_model_without_facts_about_intervals_leaves_them_open(segmenter):
    (row,) = predict(segmenter(), scan()).to_dict("records")
    assert (row["lesion_ml_low"], row["lesion_ml_high"], row["interval_level"]) == (None, None, None)
    assert row["needs_review"] is None


def test_what_is_found_beside_the_mask_is_told_with_it_and_is_json(segmenter, monkeypatch):
    found = Assessment(1.5, 1.0, 2.5, 0.9, ["brighter than any scan seen", "uncertain"])
    monkeypatch.setattr(segment_scan, "assess", lambda *_: found)
    (row,) = predict(segmenter(seen={}), scan()).drop(columns="mask").to_dict("records")
    assert json.loads(json.dumps(row, allow_nan=False)) == {
        "lesion_ml": 1.5, "lesion_ml_low": 1.0, "lesion_ml_high": 2.5, "interval_level": 0.9,
        "needs_review": "brighter than any scan seen; uncertain",
    }  # fmt: skip


def test_probabilities_are_given_on_request_calibrated_and_in_the_scans_own_space(segmenter):
    loaded, image = segmenter(temperature=2.0), scan()
    out = loaded.predict(None, pd.DataFrame({"scan": [image.to_bytes()]}), params={"probability": True})
    stored = mask_of(out["probability"][0])
    plain = predict_volume(loaded.network, loaded.trained, image.get_fdata(dtype=np.float32))
    assert stored.get_data_dtype() == np.float32 and np.array_equal(stored.affine, image.affine)
    np.testing.assert_allclose(stored.get_fdata(), calibrated(plain, loaded.trained), atol=1e-6)


def test_one_scan_is_in_work_at_a_time_however_many_ask(segmenter, monkeypatch):
    loaded, at_work, most = segmenter(), [], []
    segment = segment_scan.segment_scan

    def counted(*arguments, **options):
        at_work.append(1)
        most.append(len(at_work))
        out = segment(*arguments, **options)
        at_work.pop()
        return out

    monkeypatch.setattr(segment_scan, "segment_scan", counted)
    threads = [threading.Thread(target=predict, args=(loaded, scan())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 4


def test_packed_and_plain_nifti_are_read_alike(segmenter):
    plain = scan().to_bytes()
    out = segmenter().predict(None, pd.DataFrame({"scan": [plain, gzip.compress(plain)]}))
    assert out["mask"][0] == out["mask"][1]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (nib.Nifti1Image(np.full((32, 32, 4), 7, np.int16), RAS), "constant"),
        (nib.Nifti1Image(np.full((32, 32, 4), np.nan, np.float32), RAS), "NaN"),
        (scan((32, 32, 2)), "2 slices, at least 3"),
        (scan((8, 32, 4)), "in-plane size"),
        (scan((32, 32, 4, 2)), "not a 3-D volume"),
    ],
    ids=["constant", "not a number", "two slices", "a strip", "four axes"],
)
def test_what_cannot_be_segmented_is_refused_with_the_reason(segmenter, bad, why):
    with pytest.raises(Refused, match=why):
        predict(segmenter(), bad)


def test_among_several_scans_the_refused_one_is_named(segmenter):
    with pytest.raises(Refused, match=r"^scan 2 of 2: 2 slices, at least 3"):
        predict(segmenter(), scan(), scan((32, 32, 2)))


def test_over_http_a_refusal_is_a_status_400_with_the_reason_alone(segmenter):
    """MLflow's server puts what it was sent before the message of an exception, and here that is a scan."""
    with pytest.raises(Refused) as refusal:
        predict(segmenter(), scan((32, 32, 2)))
    refusal.value.message = f"Failed to predict data 'b...'. {refusal.value.message}"
    answer = json.loads(refusal.value.serialize_as_json())
    assert refusal.value.get_http_status_code() == 400
    assert answer["message"].startswith("2 slices, at least 3")
    assert answer.keys() == {"error_code", "message"}


def test_the_example_that_is_stored_with_the_model_is_a_readable_scan_of_few_voxels():
    (blob,) = input_example()["scan"]
    image = mask_of(blob)
    assert image.shape == (32, 32, 4)
    assert image.header.get_zooms() == (6.0, 6.0, 5.0)
    assert len(blob) < 20_000


def test_the_model_segments_its_own_example(segmenter):
    out = segmenter().predict(None, input_example())
    assert mask_of(out["mask"][0]).shape == (32, 32, 4)


def test_a_model_that_sees_adc_takes_it_beside_the_scan_in_any_unit(segmenter):
    loaded = segmenter(inputs="dwi+adc")
    example = input_example("dwi+adc")
    as_mm2_s = nib.Nifti1Image.from_bytes(gzip.decompress(example["adc"][0]))
    as_mm2_s = nib.Nifti1Image(as_mm2_s.get_fdata(dtype=np.float32) * 1e-3, as_mm2_s.affine).to_bytes()
    volume, geometry = read_nifti_bytes(example["scan"][0])
    adc = in_kept_unit(*read_nifti_bytes(example["adc"][0]), volume, geometry)[0]
    probability = predict_volume(loaded.network, loaded.trained, volume, adc=adc)
    loaded.trained = loaded.trained.model_copy(update={"threshold": float(np.median(probability))})
    masks = [loaded.predict(None, example.assign(adc=[adc]))["mask"][0] for adc in (example["adc"][0], as_mm2_s)]
    assert 0 < np.asarray(mask_of(masks[0]).dataobj).mean() < 1
    assert (np.asarray(mask_of(masks[0]).dataobj) != np.asarray(mask_of(masks[1]).dataobj)).mean() < 0.01


def test_without_adc_it_says_what_is_missing(segmenter):
    with pytest.raises(Refused, match="needs an ADC map too"):
        predict(segmenter(inputs="dwi+adc"), scan())
