"""make evidence: measure, and write the tables of docs/evidence.md.

python -m tests.evidence [section ...]
"""

import sys
from collections.abc import Callable

from components.core.errors import StepError
from tests.evidence import fine_tuning, flags, policy, relations, resolution, seeds, statistics
from tests.evidence.page import PAGE, updated

SECTIONS: dict[str, Callable[[], str]] = {
    "seeds": seeds.section,
    "relations": relations.of_champion(relations.relations),
    "real-scans": relations.of_champion(relations.real_scans),
    "flags": relations.of_champion(flags.flags),
    "resolution": resolution.section,
    "statistics": statistics.section,
    "policy": policy.section,
    "fine-tuning": fine_tuning.section,
}
"""Name to what measures it and returns markdown, without a heading of the first two levels."""


def main(names: list[str]) -> int:
    """Make these sections of the page again, or all."""
    if unknown := [name for name in names if name not in SECTIONS]:
        print(f"There is no section {', '.join(unknown)}. Sections: {', '.join(SECTIONS)}.")
        return 1
    for name in names or SECTIONS:
        print(f"measuring {name}", flush=True)
        try:
            body = SECTIONS[name]()
        except StepError as reason:
            print(f"left {name} as it is: {reason}", flush=True)
            continue
        PAGE.write_text(updated(PAGE.read_text() if PAGE.exists() else "", name, body))
        print(f"wrote {name} to {PAGE}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
