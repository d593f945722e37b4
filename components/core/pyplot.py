"""matplotlib's pyplot for files: it needs neither a screen nor a notebook."""

import os

for name in ("MPLBACKEND", "MATPLOTLIBRC"):  # matplotlib reads them when it is imported
    os.environ.pop(name, None)

import matplotlib  # noqa: E402

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402, F401
