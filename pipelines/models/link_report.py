"""Print the links of a version's lineage, and count how many are as they were registered."""

from collections import Counter
from collections.abc import Callable

from components.artifacts.artifact import InvalidArtifact
from components.core.errors import StepError
from pipelines.models.registry_check import UNREADABLE

OK, CHANGED, NOT_REACHED = "OK", "CHANGED", "NOT REACHED"
NOT_REGISTERED = "the version was registered without it: nothing to compare with"


class NotReached(Exception):
    """Raised with the reason if something cannot be read and compared."""


class LinkReport:
    """Prints each link with its status, and counts the statuses."""

    def __init__(self) -> None:
        self.found: dict[str, list[str]] = {OK: [], CHANGED: [], NOT_REACHED: []}

    def section(self, title: str) -> None:
        """Print the title of a section."""
        print(f"\n{title}")

    def fact(self, name: str, value: object) -> None:
        """Print a fact that is not compared with anything."""
        print(f"  {'':<12} {name:<19} {value}")

    def link(self, status: str, what: str, text: str) -> None:
        """Print a link and count its status."""
        self.found[status].append(what)
        print(f"  {status:<12} {what:<19} {text}")

    def compare(self, what: str, expected: str | None, find: Callable[[], str]) -> None:
        """Print whether `find` gives what is `expected`; `find` raises NotReached or StepError if it cannot."""
        if not expected:
            return self.link(NOT_REACHED, what, NOT_REGISTERED)
        try:
            found = find()
        except (NotReached, StepError, OSError) as why:
            if isinstance(why, InvalidArtifact):
                return self.link(CHANGED, what, f"cannot be read now ({why!r}), was {expected}")
            return self.link(NOT_REACHED, what, f"{expected}: {why}")
        except UNREADABLE as error:
            return self.link(CHANGED, what, f"cannot be read now ({error!r}), was {expected}")
        if found == expected:
            return self.link(OK, what, found)
        self.link(CHANGED, what, f"is {found}, was {expected}")

    def end(self) -> int:
        """Print the summary, and return the exit code: 1 if anything changed."""
        counts = {status: len(names) for status, names in self.found.items()}
        print(f"\n{sum(counts.values())} links: " + ", ".join(f"{count} {status}" for status, count in counts.items()))
        if changed := self.found[CHANGED]:
            print(f"CHANGED since registration: {_few(changed)}")
        if missed := self.found[NOT_REACHED]:
            print(f"Not verified, for the reasons above: {_few(missed)}")
        elif not changed:
            print("Every link is as it was when this version was registered.")
        return 1 if changed else 0


def _few(names: list[str], shown: int = 10) -> str:
    """Return the first names, and how many more there are."""
    counted = [f"{name} ({count} files)" if count > 1 else name for name, count in Counter(names).items()]
    return ", ".join(counted[:shown]) + (f" and {len(counted) - shown} more" if len(counted) > shown else "")
