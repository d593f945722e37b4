"""make bench: speed and memory as ratios within one run, against references that do the same work plainly.

python -m tests.benchmarks [training] [preprocessing] [orchestration] [memory]
"""

import json
import sys
from importlib import import_module

BENCHMARKS = ("training", "preprocessing", "orchestration", "memory")

if __name__ == "__main__":
    for name in sys.argv[1:] or BENCHMARKS:
        for row in import_module(f"tests.benchmarks.{name}").measure():
            print(json.dumps({"benchmark": name, **row}), flush=True)
