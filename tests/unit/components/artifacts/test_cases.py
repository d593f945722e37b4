"""Who can be learnt from: with ADC asked for, those who have it, and the others by name."""

import json
import logging

import pytest

from components.artifacts.cases import learnable
from components.core.step import StepError


@pytest.fixture
def cases(tmp_path):
    """cases(adc="AB", dwi="CD") writes `cases.json`: labelled patients with both, and with DWI alone."""

    def write(adc: str, dwi: str):
        listed = [
            {
                "case": name, "patient": name, "labelled": name.isupper(), "lesion_voxels": 9,
                "files": {"dwi": "d", **({"adc": "a"} if name in adc else {})},
            }
            for name in adc + dwi
        ]  # fmt: skip
        (tmp_path / "cases.json").write_text(json.dumps({"cases": listed}))
        return tmp_path

    return write


def names(found: list[dict]) -> list[str]:
    return [case["case"] for case in found]


def test_for_dwi_alone_every_labelled_case_will_do(cases):
    assert names(learnable(cases("Ax", "By"), "dwi")) == ["A", "B"]


def test_for_adc_those_without_are_refused_by_name_and_the_others_go_on(cases, caplog):
    caplog.set_level(logging.INFO)
    assert names(learnable(cases("ABCx", "Dy"), "dwi+adc")) == ["A", "B", "C"]
    assert caplog.messages == ["refused    D: no ADC map and no b0 to compute it from, and inputs=dwi+adc"]


def test_fewer_than_three_patients_with_adc_are_an_error_in_words(cases):
    with pytest.raises(StepError, match=r"inputs=dwi\+adc needs 3 .*, 2 found: 2 of 4 labelled scans have none"):
        learnable(cases("AB", "CD"), "dwi+adc")
