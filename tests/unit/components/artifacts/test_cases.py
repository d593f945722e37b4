"""Learnable cases: with ADC asked for, only those that have it; the others are refused by name."""

import logging

import pytest

from components.artifacts.cases import Case, Cases
from components.core.errors import StepError
from tests.support.artifacts import make_case, make_cases


def cases(adc: str, dwi: str) -> Cases:
    """cases("AB", "CD"): labelled patients with both images, and with the DWI alone; lower case is unlabelled."""
    return make_cases(
        [
            make_case(name, labelled=name.isupper(), files={"dwi": "d", **({"adc": "a"} if name in adc else {})})
            for name in adc + dwi
        ]
    )


def names(found: list[Case]) -> list[str]:
    return [case.case for case in found]


def test_for_dwi_alone_every_labelled_case_is_learnable():
    assert names(cases("Ax", "By").learnable("dwi")) == ["A", "B"]


def test_for_adc_cases_without_it_are_refused_by_name_and_the_others_are_kept(caplog):
    caplog.set_level(logging.INFO)
    assert names(cases("ABCx", "Dy").learnable("dwi+adc")) == ["A", "B", "C"]
    assert caplog.messages == ["refused    D: no ADC map and no b0 to compute it from, and inputs=dwi+adc"]


def test_fewer_than_three_patients_with_adc_are_an_error():
    with pytest.raises(StepError, match=r"inputs=dwi\+adc needs 3 .*, 2 found: 2 of 4 labelled scans have none"):
        cases("AB", "CD").learnable("dwi+adc")


def test_cases_are_found_by_name():
    assert cases("AB", "").by_name["B"].patient == "B"
