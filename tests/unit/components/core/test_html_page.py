import base64
import re

import cv2
import jinja2
import numpy as np
import pytest

from components.core.html_page import embedded, render, thumbnail


def decoded(uri: str) -> np.ndarray:
    """A picture (rows, columns, RGB) from its data URI."""
    content = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]


def test_what_came_from_data_is_escaped():
    page = render("<p>{{ name }}</p>", title="<b>", name="<script>alert(1)</script>")
    assert "<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>" in page
    assert "<title>&lt;b&gt;</title>" in page


def test_a_page_needs_nothing_from_elsewhere():
    page = render("{{ title }}", title="t")
    assert not re.search(r"(?i)(src|href)=|https?://|@import|url\(", page)


def test_a_page_says_that_it_is_for_research_only():
    assert "Not a medical device" in render("", title="t")


def test_a_value_that_was_forgotten_is_an_error_not_a_blank():
    with pytest.raises(jinja2.UndefinedError):
        render("{{ forgotten }}", title="t")


def test_anterior_is_up_and_the_patients_left_on_the_right():
    image = np.zeros((40, 60), np.float32)  # X to the right, Y to the front
    image[2:8, 50:58] = 1  # left, front
    picture = decoded(thumbnail(image, {}, side=80)).mean(2)
    assert picture.shape == (120, 80)
    rows, columns = np.nonzero(picture > 128)
    assert rows.max() < 30 and columns.min() > 60


def test_an_outline_lies_around_its_mask_in_its_colour():
    image, mask = np.random.default_rng(0).random((50, 50)).astype(np.float32) / 10, np.zeros((50, 50), bool)
    mask[30:40, 10:20] = True
    picture = decoded(thumbnail(image, {(255, 0, 0): mask}, side=100)).astype(int)
    rows, columns = np.nonzero(picture[:, :, 0] - picture[:, :, 2] > 90)
    assert (rows.min(), rows.max()) == pytest.approx((60, 79), abs=2)
    assert (columns.min(), columns.max()) == pytest.approx((20, 39), abs=2)
    assert not ((rows > 65) & (rows < 75) & (columns > 25) & (columns < 35)).any()


def test_a_constant_slice_has_a_picture_too():
    assert decoded(thumbnail(np.full((20, 20), 7, np.float32), {})).shape == (150, 150, 3)


def test_an_embedded_picture_is_the_picture():
    assert base64.b64decode(embedded(b"\x89PNG...").removeprefix("data:image/png;base64,")) == b"\x89PNG..."
