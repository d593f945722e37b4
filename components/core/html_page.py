"""Make self-contained HTML pages: text from data is escaped, pictures are embedded."""

import base64
from typing import Any

import cv2
import jinja2
import numpy as np

BASE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title><style>
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1c2430}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}table{border-collapse:collapse;margin:.5rem 0}
td,th{padding:.25rem .7rem;border-bottom:1px solid #dde3ea;text-align:left;vertical-align:top}
th{background:#f3f6f9}td.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.note{background:#fff6dd;border-left:4px solid #e0a800;padding:.5rem .8rem}.bad{color:#b3261e}
.tiles{display:flex;flex-wrap:wrap;gap:.6rem}.tiles figure{margin:0;width:150px}
.tiles img{width:150px;border-radius:4px}
.tiles.middle figure,.tiles.middle img{width:240px}
.tiles.wide figure,.tiles.wide img{width:100%;max-width:44rem}figcaption{font-size:.8rem;overflow-wrap:anywhere}
img.full{max-width:100%}</style></head><body><h1>{{ title }}</h1>
{% if synthetic %}<p class="note"><b>Synthetic demo scans.</b>
The data set is marked as synthetic: its numbers say nothing about patients.</p>{% endif %}
{% block body %}{% endblock %}<p><small>Research use only. Not a medical device.</small></p></body></html>"""


def render(body: str, synthetic: bool = False, **values: Any) -> str:
    """Return an HTML page from a Jinja2 template `body`; the values include `title`. A note marks synthetic scans.

    Bytes that are not text (a file's name may hold any) are shown as `\\udcff`.
    """
    loader = jinja2.DictLoader({"base": BASE, "page": '{% extends "base" %}{% block body %}' + body + "{% endblock %}"})
    page = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined).get_template("page")
    return page.render(synthetic=synthetic, **values).encode(errors="backslashreplace").decode()


def thumbnail(image: np.ndarray, outlines: dict[tuple[int, int, int], np.ndarray], side: int = 150) -> str:
    """Return a slice (X, Y) with the outlines of masks (X, Y) in RGB colours, as a data URI (JPEG).

    RAS+ slices are shown in the radiological view: anterior up, the patient's left on the right.
    """
    low, high = np.percentile(image, (1, 99.5))
    grey = np.clip((image - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    height = round(side * image.shape[1] / image.shape[0])
    resized = cv2.resize(np.ascontiguousarray(grey.T[::-1, ::-1]), (side, height), interpolation=cv2.INTER_AREA)
    view = cv2.cvtColor(resized, cv2.COLOR_GRAY2BGR)
    for (r, g, b), mask in outlines.items():
        turned = np.ascontiguousarray(mask.astype(np.uint8).T[::-1, ::-1])
        shown = cv2.resize(turned, (side, height), interpolation=cv2.INTER_NEAREST)
        contours, _ = cv2.findContours(shown, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(view, contours, -1, (b, g, r), 1)
    return "data:image/jpeg;base64," + base64.b64encode(cv2.imencode(".jpg", view)[1].tobytes()).decode()


def embedded(png: bytes) -> str:
    """Return a picture as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
