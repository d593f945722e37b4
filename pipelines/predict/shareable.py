"""Remove from what is packed what says whose scans a version learnt from: an image goes to other people."""

import json
import re
from pathlib import Path
from typing import Any

from components.register.card import Card
from components.register.card_text import markdown

LEFT_OUT = "left out"
REASON_LEFT_OUT = f"the reason is {LEFT_OUT}"
ADDRESS = re.compile(r"s3://\S+")
DATA_ADDRESS = "data_uri"
NOTE = (
    "Names of cases and files, and addresses of data, are left out here. The complete card is in the registry, with "
    "this version."
)


def write_model(source: Path, target: Path) -> None:
    """Copy `model.json` without the address of the scans, also for each network of an ensemble."""
    target.write_text(json.dumps(_without_addresses(json.loads(source.read_bytes())), indent=1), encoding="utf-8")


def card_markdown(card: Card, first: str) -> str:
    """Return the card as Markdown without names of cases, reasons that may name them, and addresses.

    Names of sites and scanners stay: they say for whom the numbers hold.
    """
    refused = {f"refused case {n}": LEFT_OUT for n, _ in enumerate(card.data.refused, 1)}
    changes: dict[str, Any] = {
        "data": card.data.model_copy(update={"data_source": LEFT_OUT, "refused": refused}),
        "failures": [
            failure.model_copy(update={"case": f"test scan {n}", "pictures": []})
            for n, failure in enumerate(card.failures, 1)
        ],
    }
    if card.comparison.champion and card.comparison.reason:
        changes["comparison"] = card.comparison.model_copy(update={"reason": REASON_LEFT_OUT})
    if card.parent and card.parent.reason:
        changes["parent"] = card.parent.model_copy(update={"reason": REASON_LEFT_OUT})
        changes["limits"] = [limit.replace(card.parent.reason, REASON_LEFT_OUT) for limit in card.limits]
    shared = Card.model_validate(_without_addresses(card.model_copy(update=changes).model_dump()))
    text = markdown(shared, f"{first} {NOTE}")
    return re.sub(rf"^ +- refused case \d+: {LEFT_OUT}\n", "", text, flags=re.MULTILINE)


def _without_addresses(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_addresses(item) for name, item in value.items() if name != DATA_ADDRESS}
    if isinstance(value, list | tuple):
        return [_without_addresses(item) for item in value]
    return ADDRESS.sub(LEFT_OUT, value) if isinstance(value, str) else value
