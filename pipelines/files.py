"""Small files that are there whole or not at all."""

import json
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Any) -> None:
    """Replace `path` in one step."""
    write_bytes(path, json.dumps(content, indent=1).encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` in one step."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.rename(path)
