"""One reader under atheris: python -m tests.torture.fuzzed DOOR COUNTS [what libFuzzer takes]; it ends by itself.

COUNTS, a JSON file, gets how often the reader gave which answer.
"""

import json
import sys
import time
from collections import Counter
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["components", "pipelines", "nibabel.nifti1", "nibabel.volumeutils", "yaml"]):
    from tests.corpus.doors import DOORS

EVERY_S = 1.0


def main() -> None:
    door, counts, written = DOORS[sys.argv[1]], Counter(), 0.0
    target = Path(sys.argv[2])

    def once(content: bytes) -> None:
        nonlocal written
        counts[door(content)] += 1
        if time.monotonic() - written > EVERY_S:
            target.write_text(json.dumps(counts))
            written = time.monotonic()

    atheris.Setup([sys.argv[0], *sys.argv[3:]], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
