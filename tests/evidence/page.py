"""docs/evidence.md: sections between markers, each made alone."""

import datetime
import re
from importlib.metadata import version
from pathlib import Path

import torch

from components.core.machine import cpus

PAGE = Path(__file__).parents[2] / "docs" / "evidence.md"
HEAD = """# Evidence

What was measured, when, and on what. `make evidence` makes all tables again, `make evidence ONLY=NAME` one section.
"""


def updated(page: str, name: str, body: str) -> str:
    """Return the page with this section replaced, or added at the end."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    said = f"Measured on {datetime.date.today():%d %B %Y} on {machine()}: `make evidence ONLY={name}`."
    section = f"{begin}\n## {name.capitalize().replace('-', ' ')}\n\n{said}\n\n{body.strip()}\n{end}"
    found = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
    if found.search(page):
        return found.sub(lambda _: section, page)
    return f"{(page or HEAD).rstrip()}\n\n{section}\n"


def machine() -> str:
    """Return the class of machine, without its name: "2 CPU cores, PyTorch 2.13.0"."""
    count = cpus()
    gpu = f", {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else ""
    return f"{count} CPU core{'s' * (count != 1)}{gpu}, PyTorch {version('torch').split('+')[0]}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a markdown table, all but its first column aligned right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
