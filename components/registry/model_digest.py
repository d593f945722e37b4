"""One digest over every file of a registered model. It is kept in the registry, and the files are in the bucket."""

import hashlib
from pathlib import Path

from components.core.storage import file_sha256

ADDED = "registered_model_meta"
"""MLflow writes this file into what it downloads by a version's address."""


def model_digest(model: Path) -> str:
    """Return the SHA-256 over the name and the content of every file in the folder of a registered model."""
    h = hashlib.sha256()
    for path in sorted(path for path in model.rglob("*") if path.is_file() and path != model / ADDED):
        h.update(f"{path.relative_to(model).as_posix()}\0{file_sha256(path)}\n".encode())
    return h.hexdigest()


def altered_file(model: Path, tags: dict[str, str]) -> str:
    """Return which file of a downloaded model differs from what the tags of its version say, in words; "" if none."""
    weights = next(model.rglob("best_model.pth"), None)
    for what, tag, digest in (
        ("best_model.pth", "weights_sha256", lambda: weights and file_sha256(weights)),
        ("a file of it", "model_sha256", lambda: model_digest(model)),
    ):
        if tag in tags and digest() != tags[tag]:
            return f"{what} is not what was registered (tag {tag})"
    return ""
