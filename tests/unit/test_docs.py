"""The documentation: links lead somewhere, commands and settings exist, tables agree with the code and each other."""

import functools
import itertools
import os
import re
import subprocess
import unicodedata
from pathlib import Path
from typing import get_args
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from components.artifacts.metric_labels import METRIC_LABELS
from components.core.settings import Settings, checked
from pipelines import presets

ROOT = Path(__file__).parents[2]
README, THAI = ROOT / "README.md", ROOT / "README.th.md"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("manifests/*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
GROUPS = ["use", "data", "models", "cluster", "develop"]
MOST_WORDS = 1500
MOST_COLUMNS = 100
OURS = ("components", "pipelines", "images", "manifests", "tests", "docs", ".ci", ".github")
MARKDOWN = MarkdownIt("commonmark").enable("table")
each_page = pytest.mark.parametrize("page", PAGES, ids=NAMES)


def tokens(page: Path) -> list[Token]:
    """Return the page's tokens, those within a line among them."""
    return [inner for token in MARKDOWN.parse(page.read_text()) for inner in (token, *(token.children or ()))]


def code(page: Path) -> list[str]:
    """Return the lines of code blocks and the spans of code."""
    kinds = ("fence", "code_block", "code_inline")
    return [line for token in tokens(page) if token.type in kinds for line in token.content.splitlines()]


def links(page: Path) -> list[str]:
    found = [token.attrGet("href") or token.attrGet("src") for token in tokens(page)]
    return [link for link in found if isinstance(link, str)]


def anchors(page: Path) -> set[str]:
    """Return the anchors of the page's headings as GitHub makes them."""
    pairs = itertools.pairwise(MARKDOWN.parse(page.read_text()))
    return {anchor(text.content) for opening, text in pairs if opening.type == "heading_open"}


def anchor(title: str) -> str:
    kept = (c for c in title.lower() if c in " -_" or unicodedata.category(c)[0] in "LMN")
    return "".join(kept).replace(" ", "-")


def tables(page: Path) -> list[list[list[str]]]:
    """Return the page's tables: rows of cells as they are written."""
    found: list[list[list[str]]] = []
    for opening, text in itertools.pairwise(MARKDOWN.parse(page.read_text())):
        if opening.type == "table_open":
            found.append([])
        elif opening.type == "tr_open":
            found[-1].append([])
        elif opening.type in ("th_open", "td_open"):
            found[-1][-1].append(text.content)
    return found


@functools.cache
def make_help() -> str:
    return subprocess.run(["make", "--silent", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def listed() -> dict[str, list[str]]:
    """Return the commands that `make help` lists, by group."""
    groups = [group.splitlines() for group in make_help().split("\n\n")]
    return {name: [line.split()[1] for line in lines] for name, *lines in groups}


@each_page
def test_every_link_leads_somewhere(page):
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists() and target.is_relative_to(ROOT), link
        assert not fragment or unquote(fragment) in anchors(target), link


@each_page
def test_every_command_is_one_of_make_help(page):
    commands = {name for names in listed().values() for name in names}
    used = {name for line in code(page) for name in re.findall(r"(?<![\w./-])make ([a-z][a-z-]*)(?!\S)", line)}
    assert used - commands == set()


@each_page
def test_every_setting_and_preset_in_a_command_exists(page):
    for line in code(page):
        for assigned in re.findall(r'\bSET="([^"]*)"', line):
            checked(dict(pair.split("=") for pair in assigned.split() if not pair.startswith("...")))
        for named in re.findall(r'\bPRESETS?="?([a-z0-9+ -]+?)(?:"|\s|$|\])', line):
            for preset in named.split():
                presets.load(preset)


@each_page
def test_every_variable_is_one_that_the_code_reads(page):
    named = {name for line in code(page) for name in re.findall(r"(?<![\w$])([A-Z][A-Z0-9_]{3,})=", line)}
    own = {token.content for token in tokens(page) if token.type == "code_inline"}
    named |= {name for name in own if re.fullmatch(r"[A-Z][A-Z0-9]+(_[A-Z0-9]+)+", name)}
    assert {name for name in named if not re.search(rf"(?<![A-Z_]){name}(?![A-Z_])", sources())} - FOREIGN == set()


FOREIGN = {"PIP_CERT", "PIP_NO_INDEX", "PIP_FIND_LINKS", "ACCEPT"}
"""What pip reads, and the tests."""


@functools.cache
def sources() -> str:
    """Return the text of all files that read variables."""
    kinds = ("*.py", "*.env", "*.sh", "build", "make-venv", "*.yaml", "Makefile", "*.Dockerfile")
    files = [
        f
        for name in ("pipelines", "components", "images", "manifests")
        for kind in kinds
        for f in (ROOT / name).rglob(kind)
    ]
    return "\n".join(file.read_text() for file in [*files, ROOT / "Makefile", ROOT / "tests/relations/champion.py"])


@each_page
def test_every_file_of_ours_that_a_page_names_exists(page):
    if page.name == "CHANGELOG.md":
        return  # it names what moved
    below = ROOT / "tests" if page.name == "guarantees.md" else ROOT
    for token in tokens(page):
        path = token.content
        if token.type != "code_inline" or re.search(r"[<>*{ ]|::|NAME", path):
            continue
        if path.startswith(OURS) and "/" in path:
            assert (ROOT / path).exists(), path
        elif below != ROOT and re.match(r"(unit|integration|e2e|torture|corpus|relations|cluster)/", path):
            assert (below / path).exists(), path


def test_the_messages_of_troubleshooting_are_those_of_the_code():
    """A message is compared without what the code fills in."""
    (messages, *_) = tables(ROOT / "docs" / "troubleshooting.md")
    shown = [message for row in messages for message in re.findall(r"^`([^`]+)`", row[0])]
    text = re.sub(r"[\"']\s*\n\s*f?[\"']", "", sources())
    parts = [
        part.strip() for message in shown for part in re.split(r"\.\.\.|[\d.]+|dwi-attention-unet|Not better", message)
    ]
    assert len(shown) > 5
    assert [part for part in parts if len(part) > 5 and part not in text] == []


@each_page
def test_every_test_that_a_page_names_exists(page):
    named = [found for line in code(page) for found in re.findall(r"(tests/[\w/]+\.py)::(\w+)", line)]
    missing = [name for path, name in named if f"def {name}(" not in (ROOT / path).read_text()]
    assert missing == []


def test_the_architecture_names_every_room():
    page = (ROOT / "docs" / "architecture.md").read_text()
    rooms = [path.parent.name for path in (ROOT / "components").glob("*/__init__.py")]
    assert [room for room in rooms if f"components/{room}/" not in page and f"**{room}**" not in page] == []


def test_the_readme_fits_on_two_pages():
    assert len(README.read_text().split()) <= MOST_WORDS


def test_make_help_is_grouped_and_fits_a_terminal():
    assert list(listed()) == GROUPS
    assert [line for line in make_help().splitlines() if len(line) > MOST_COLUMNS] == []
    targets = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[0].split()
    assert sorted(name for names in listed().values() for name in names) == sorted(targets)


def test_the_page_of_commands_lists_what_make_help_lists():
    page = ROOT / "docs" / "commands.md"
    sections = re.findall(r"^## (.*)$", page.read_text(), re.M)
    written = [[re.fullmatch(r"`make ([a-z-]+)`", row[0])[1] for row in table[1:]] for table in tables(page)]
    shown = {name: sorted(commands) for name, commands in listed().items()}
    assert {s.lower(): sorted(w) for s, w in zip(sections, written, strict=True)} == shown


def parameters() -> str:
    """Return the table of parameters as the settings and the presets have it."""
    rows = ["| parameter | best | baseline | demo | allowed | meaning |", "|---|---|---|---|---|---|"]
    columns = [presets.load(name) for name in ("best", "baseline", "demo")]
    for name, field in Settings.model_fields.items():
        values = [plain(getattr(settings, name)) for settings in columns]
        rows.append(f"| {' | '.join([f'`{name}`', *values, allowed(field), field.description])} |")
    return "\n".join(rows)


def plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def allowed(field) -> str:
    """Return the choices of a setting, or its least and greatest value."""
    if choices := get_args(field.annotation):
        return ", ".join(f"`{choice}`" for choice in choices)
    if field.annotation is bool:
        return "`true`, `false`"
    if field.annotation is str:
        return "an address, or empty"
    limits = {
        name: getattr(m, name)
        for m in field.metadata
        for name in ("ge", "gt", "le", "lt", "multiple_of")
        if hasattr(m, name)
    }
    least = f"above {limits['gt']:g}" if "gt" in limits else f"{limits['ge']:g}"
    greatest = f"below {limits['lt']:g}" if "lt" in limits else f"{limits['le']:,}"
    return f"{least} to {greatest}" + (f", multiples of {limits['multiple_of']}" if "multiple_of" in limits else "")


def test_the_table_of_parameters_is_that_of_the_settings():
    page = ROOT / "docs" / "settings.md"
    before, begin, rest = page.read_text().partition("<!-- begin parameters -->\n")
    table, end, after = rest.partition("<!-- end parameters -->")
    wanted = f"{parameters()}\n"
    if os.environ.get("ACCEPT"):
        page.write_text(before + begin + wanted + end + after)
    else:
        assert table == wanted, "ACCEPT=1 writes the table again"


def test_every_preset_is_named_on_the_page_of_settings():
    spans = {token.content for token in tokens(ROOT / "docs" / "settings.md") if token.type == "code_inline"}
    assert set(presets.names()) - spans == set()


@pytest.mark.parametrize("metric", METRIC_LABELS)
def test_every_metric_is_described(metric):
    page = (ROOT / "docs" / "evaluation.md").read_text()
    assert re.search(rf"`test_{metric}_(\*|mean)`", page)


def test_the_thai_readme_has_the_tables_commands_and_pictures_of_the_english_one():
    for english, thai in zip(tables(README), tables(THAI), strict=True):
        assert [len(row) for row in english] == [len(row) for row in thai]
        for ours, theirs in zip(english, thai, strict=True):
            assert spans(" ".join(ours)) == spans(" ".join(theirs))
    for found in (commands, pages_linked, pictures, levels):
        assert found(README) == found(THAI), found.__name__


def spans(text: str) -> list[str]:
    return sorted(re.findall(r"`[^`]+`|https?://\S+|\d+", text))


def commands(page: Path) -> list[str]:
    """Return the lines of the code blocks without what is a comment there."""
    blocks = [token.content for token in tokens(page) if token.type == "fence"]
    return [re.sub(r"\s+#\s.*", "", line) for block in blocks for line in block.splitlines()]


def pages_linked(page: Path) -> set[str]:
    return {link.partition("#")[0] for link in links(page) if not link.startswith("#")} - {README.name, THAI.name}


def pictures(page: Path) -> list[str]:
    return [str(token.attrGet("src")) for token in tokens(page) if token.type == "image"]


def levels(page: Path) -> list[str]:
    return [token.tag for token in tokens(page) if token.type == "heading_open"]


POINTER = re.compile(r"""\b((?:docs/[a-z]+|(?:manifests/)?README)\.md)(?: of its code)?(?:, ['"]([^'"]+)['"])?""")


def test_what_the_code_points_at_in_the_documentation_is_there():
    """A pointer is a page, or a page and one of its headings: docs/data.md, 'Layouts'."""
    files = [file for name in OURS[:4] for file in (ROOT / name).rglob("*.py")]
    pointers = [found for file in files for found in POINTER.findall(file.read_text())]
    assert ("docs/data.md", "Layouts") in pointers
    for page, heading in pointers:
        assert (ROOT / page).exists(), page
        assert not heading or anchor(heading) in anchors(ROOT / page), (page, heading)
