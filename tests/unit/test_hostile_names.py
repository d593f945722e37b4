"""Whatever a name, a site or a reason holds, a page has the same elements as with a plain one, and a card the same."""

import ast
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt

from components.ingest.report import write_report
from components.register import card_text
from components.register.card import load
from components.register.card_facts import make_card
from components.scans.viewer.page import Mask, Viewer, Volumes
from components.scans.volumes import write
from components.split.split_page import write_page
from pipelines.experiments.compare import LeftOut, compare
from pipelines.experiments.comparison_page import page as experiments_page
from pipelines.experiments.run_results import RunResult
from pipelines.predict.results import Row, page
from tests.support import measured
from tests.support.artifacts import make_case, make_cases, make_split

ROOT = Path(__file__).parents[2]
HOSTILE = [
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "' onmouseover='alert(1)", "<!-- a", "-->",
    "</td></tr></table>", "{{ 7 * 7 }}{% raw %}", "a\nb\r\n\r\n# c", "[x](javascript:alert(1))", "![x](//evil.example)",
    "a ` b ` c", "```\na", "~~~", "a|b|c", "# heading", "- item", "+ item", "1. item", "2) item", "> quote", "---",
    "***", "===", "__a__ *b* ~~c~~", "&lt;b&gt;", "<https://evil.example>", "https://evil.example", "HTTP://evil.example",
    "www.evil.example", "\x1b[31mred", "\u202eder", "\udcff", "$\\frac{", "x" * 4000,
]  # fmt: skip


class Elements(HTMLParser):
    """The elements of a page and the names of their attributes, in order."""

    def __init__(self, text: str):
        super().__init__()
        self.seen = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, [name for name, _ in attributes]))

    def handle_endtag(self, tag):
        self.seen.append(tag)

    def handle_comment(self, data):
        self.seen.append("comment")


def data_report(name: str, folder: Path) -> str:
    write(folder / "dwi.nii.gz", np.arange(32 * 32 * 3, dtype=np.float32).reshape(32, 32, 3), np.eye(4))
    case = make_case("a", shape=(32, 32, 3), voxel_mm=None, lesion_voxels=0, files={"dwi": "dwi.nii.gz"})
    names = ("case", "patient", "site", "scanner", "orientation_found", "adc_unit_found")
    case = case.model_copy(update=dict.fromkeys(names, name) | {"repairs": [name]})  # unchecked: any text
    texts = {"refused": {name: name}, "notes": [name], "layout": name, "data_uri": name, "ignored": [name]}
    write_report(make_cases([case]).model_copy(update=texts), folder, folder / "page.html")
    return (folder / "page.html").read_text()


def split_page(name: str, folder: Path) -> str:
    made = make_split({"train": ["a"], "val": ["b"], "test": ["c"]})
    texts = {"linked": [[name, name]], "alike": [(name, name, 0.99)], "patients": made.patients | {"train": [name]}}
    write_page(made.model_copy(update=texts), False, folder / "page.html")
    return (folder / "page.html").read_text()


def predictions(name: str, folder: Path) -> str:
    rows = [Row(name, name, reasons=name, words=name, needs_review="yes"), Row(name, name, refused=name)]
    text = page(rows, [[("1 of 3", "data:image/jpeg;base64,")]], Path(name.replace("\0", "")), name, False)
    with Viewer() as viewer:
        volumes = Volumes(np.arange(48.0).reshape(4, 4, 3), [Mask(name, np.ones((4, 4, 3)), "#f97316")])
        viewer.add(name, name, None, lambda: volumes)
        return b"".join(viewer.parts(text)).decode()


def experiments(name: str, folder: Path) -> str:
    scan = {"case": name, "patient": name, "dice": 0.5, "lesion_f1": 0.5, "absolute_volume_difference_ml": 1.0}
    facts = {
        "mlflow_run_id": name, "data_version": "d", "split_digest": "s",
        "patients": {"train": [], "val": [], "test": [name]},
        "cases": [scan], "synthetic": False, "precision": "float32", "training_seconds": 1.0, "run_seconds": 2.0,
    }  # fmt: skip
    return experiments_page(compare([RunResult("baseline", 1, **facts)], 10)[0], [LeftOut("adc", 1, name)], "demo")


PAGES = [data_report, split_page, predictions, experiments]


@pytest.mark.parametrize("draw", PAGES, ids=lambda draw: draw.__name__)
def test_a_page_shows_a_name_and_does_nothing_else_with_it(draw, tmp_path):
    plain = Elements(draw("plain", tmp_path)).seen
    for name in HOSTILE if draw is not experiments else HOSTILE[:2]:
        assert Elements(draw(name, tmp_path)).seen == plain, name


@pytest.fixture
def card(tmp_path):
    """card(name): the card of an evaluation in which everything is called so."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.json").write_text(
        json.dumps({"image_size": 96, "normalization": "slice", "base_channels": 16, **measured.trained()})
    )
    (folder / "history.json").write_text(json.dumps(measured.HISTORY))
    (folder / "best_model.pth").write_bytes(b"weights")

    def make(name: str):
        scans = [measured.case(n, case=name, needs_review=[name]) for n in range(12)]
        strata = {"site": {name: measured.STRATUM}, "lesion volume": measured.FOUND["strata"]["lesion volume"]}
        listed = measured.listed(refused={name: name}, data_uri=name, layout=name)
        listed["cases"] = [case | {"site": name, "scanner": name} for case in listed["cases"]]
        evaluation = measured.write_evaluation(
            tmp_path / "evaluation", measured.metrics(cases=scans, strata=strata), listed, reason=name
        )
        return make_card(load(), folder, evaluation, {"torch": "1"})

    return make


def tokens(text: str) -> list[str]:
    """What markdown makes of it: headings, tables, links, emphasis, code, in order."""
    found = []
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text):
        found += [
            t.type for t in (token, *(token.children or [])) if t.type not in ("text", "text_special", "softbreak")
        ]
    return found


def test_a_card_shows_a_name_and_does_nothing_else_with_it(card):
    plain = tokens(card_text.markdown(card("plain"), "First."))
    for name in set(HOSTILE) - {"\udcff"}:  # what comes from a bucket is text
        made = card(name)
        whole, short = card_text.markdown(made, "First."), card_text.description(made, "First.", "there")
        assert tokens(whole) == plain, name
        for text in (whole, short):
            assert "<script" not in text and "https://" not in text and "www.e" not in text and "HTTP://" not in text, (
                name
            )


def test_no_page_is_made_past_the_one_place_that_escapes():
    """Jinja2 is used by core/page.py, which escapes all, and by the card's text, which is markdown; nobody lifts it."""
    makers = {"components/core/html_page.py", "components/register/card_text.py"}
    for path in [*ROOT.glob("components/**/*.py"), *ROOT.glob("pipelines/**/*.py")]:
        text, name = path.read_text(), path.relative_to(ROOT).as_posix()
        names = {n.id for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Name)}
        assert ("import jinja2" in text) == (name in makers), name
        assert "Markup" not in names and "|safe" not in text.replace(" ", ""), name
