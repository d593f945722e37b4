"""make bench: speed and memory as ratios within one run, against references that do the same work plainly.

python -m tests.benchmarks [training] [preprocessing] [orchestration] [memory]
python -m tests.benchmarks worth [seconds=300] [seeds=3] ...: see tests/benchmarks/worth.py
"""

import json
import sys
from importlib import import_module

BENCHMARKS = ("training", "preprocessing", "orchestration", "memory")

if __name__ == "__main__":
    given = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    for name in [word for word in sys.argv[1:] if "=" not in word] or BENCHMARKS:
        for row in import_module(f"tests.benchmarks.{name}").measure(**given):
            print(json.dumps({"benchmark": name, **row}), flush=True)
