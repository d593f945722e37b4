"""The names of the metrics: one table, complete, and short enough for the terminal."""

from typing import get_args

import pytest

from components.artifacts.metric_labels import METRIC_LABELS
from components.register.policy import Metric
from pipelines.experiments.compare import METRICS
from pipelines.summary import PRINTED


@pytest.mark.parametrize("metric", [*PRINTED, *METRICS, *get_args(Metric)])
def test_every_metric_that_people_read_has_a_label(metric):
    assert metric in METRIC_LABELS


@pytest.mark.parametrize("metric", PRINTED)
def test_what_is_printed_in_a_column_fits_it(metric):
    assert len(METRIC_LABELS[metric].short) <= 18
