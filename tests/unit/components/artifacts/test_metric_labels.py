"""The names of the metrics: one table, complete, and short enough for the terminal."""

import pytest

from components.artifacts.metric_labels import METRIC_LABELS
from components.register.policy import MEASURES
from pipelines.experiments.compare import METRICS
from pipelines.summary import PRINTED


@pytest.mark.parametrize("metric", [*PRINTED, *METRICS, *MEASURES])
def test_every_metric_that_people_read_has_a_label(metric):
    assert metric in METRIC_LABELS


@pytest.mark.parametrize("metric", MEASURES)
def test_the_promotion_policy_and_the_labels_agree_on_unit_and_direction(metric):
    _, unit, better = MEASURES[metric]
    assert (METRIC_LABELS[metric].unit, METRIC_LABELS[metric].better) == (unit.strip(), better)


@pytest.mark.parametrize("metric", PRINTED)
def test_what_is_printed_in_a_column_fits_it(metric):
    assert len(METRIC_LABELS[metric].short) <= 18
