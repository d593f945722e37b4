"""One digest over all files of a registered model. The registry holds the digest, object storage the files."""

import hashlib
from pathlib import Path

from components.core.storage import file_sha256

ADDED_BY_MLFLOW = "registered_model_meta"
"""MLflow adds this file to a model that it downloads by the address of a version."""


def model_digest(model: Path) -> str:
    """Return the SHA-256 over the name and the content of every file in the folder of a registered model."""
    h = hashlib.sha256()
    for path in sorted(path for path in model.rglob("*") if path.is_file() and path != model / ADDED_BY_MLFLOW):
        h.update(f"{path.relative_to(model).as_posix()}\0{file_sha256(path)}\n".encode())
    return h.hexdigest()


def altered_file(model: Path, tags: dict[str, str]) -> str:
    """Return a sentence about the file of a downloaded model that differs from its version's tags; "" if all match."""
    weights = next(model.rglob("best_model.pth"), None)
    for name, tag, digest in (
        ("best_model.pth", "weights_sha256", lambda: weights and file_sha256(weights)),
        ("a file of the model", "model_sha256", lambda: model_digest(model)),
    ):
        if tag in tags and digest() != tags[tag]:
            return f"{name} is not what was registered (tag {tag})"
    return ""
