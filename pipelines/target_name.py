"""The values of TARGET: this machine, the kind cluster of this machine, or another cluster."""

from components.core.errors import StepError

LOCAL, KIND, CLUSTER = ALL = ("local", "kind", "cluster")


def require_usable(name: str, usable: tuple[str, ...] = ALL) -> None:
    """Raise StepError if the target does not exist, or the command cannot use it."""
    if name not in ALL:
        raise StepError(f"unknown TARGET={name}. Targets: {', '.join(usable)}.")
    if name not in usable:
        raise StepError(f"TARGET={name} does not work with this command. Use TARGET={' or '.join(usable)}.")


def as_argument(name: str) -> str:
    """Return what a printed command needs to use the same target: " TARGET=kind", or "" on this machine."""
    return "" if name == LOCAL else f" TARGET={name}"
