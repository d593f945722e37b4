"""What `segment_folder` checks before it reads or converts a scan."""

import pytest

from components.core.errors import StepError
from pipelines.predict import folder


@pytest.mark.parametrize("inside", ["out", "."])
def test_results_inside_the_input_are_refused_before_anything_is_converted(tmp_path, monkeypatch, inside):
    monkeypatch.setattr(folder, "open_input", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(StepError, match="is inside the other"):
        folder.segment_folder(tmp_path, tmp_path / inside, lambda: pytest.fail("the model was loaded"), False)
