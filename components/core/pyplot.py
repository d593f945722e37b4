"""matplotlib's pyplot, which draws into files here: it needs no screen, and no backend of a notebook."""

import os

for name in ("MPLBACKEND", "MATPLOTLIBRC"):  # matplotlib reads them when it is imported
    os.environ.pop(name, None)

import matplotlib  # noqa: E402

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402, F401
