"""A viewer of volumes for a self-contained page: NiiVue, and the scans with their masks and probabilities.

The volumes of a page are 8-bit copies with voxel sizes and nothing else of a header. They are collected in a temporary
file and copied into the page in pieces, so memory is that of one scan.
"""

import base64
import gzip
import html
import json
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from components.scans.volumes import nifti_bytes

LIMIT = 40_000_000
"""Most bytes of the volumes in a page. MLflow shows no page above 50 MB."""
PLACE = f"viewer-{secrets.token_hex(16)}"
"""Where a template has its viewer. No text from data can contain it, since it is random."""
LIBRARY, CODE = (Path(__file__).with_name(name) for name in ("niivue.umd.js", "page.js"))
WHITE = 99.95
"""Percentile of a scan that is stored as 255."""
SAMPLED = 1_000_000
"""About how many voxels of a scan give its percentiles."""
SHOWN = 1, 99.5
"""Percentiles of a scan that are shown as black and white, as in the pictures."""

CONTROLS = """<section id="viewer"><style>
#viewer .screen{height:34rem}#viewer canvas{outline:none}
#viewer [data-part=controls]{background:#f3f6f9;padding:.5rem .8rem}#viewer [hidden]{display:none}
#viewer label{margin-right:1.2rem;white-space:nowrap}
#viewer i{display:inline-block;width:.9em;height:.9em;margin:0 .3em}
#viewer input[type=range]{vertical-align:middle;width:14rem}#viewer select{max-width:24rem}
#viewer i.probability{width:5em;background:linear-gradient(90deg,#0d0887,#7e03a8,#cc4778,#f89540,#f0f921)}
#viewer p{margin:.3rem 0}</style>
<p data-part="message">The viewer needs JavaScript and WebGL 2. The pictures need neither.</p>
<div data-part="controls" hidden>
<p><label>Scan <select data-part="case"></select></label><span data-part="text"></span></p>
<p><label>Slice <input type="range" data-part="slice" min="1" max="1"></label><span data-part="slice-text"></span></p>
<p><label>Darkest <input type="range" data-part="low" min="0" max="254"></label><label>Brightest
<input type="range" data-part="high" min="1" max="255"></label><button data-part="reset">Reset</button>
<span data-part="window-text"></span></p>
<p data-part="layers"></p>
<div class="screen"><canvas data-part="canvas" width="640" height="640"></canvas></div>
<p><small>Keys: <b>n</b> next scan, <b>b</b> scan before; <b>,</b> and <b>.</b> or the mouse wheel: slice down and up;
<b>o</b> masks on or off; <b>p</b> probability on or off (dark: low, bright: high); <b>r</b> window of the start. Drag
with the right mouse button to change the window. Axial slices, counted from below. L and R are the patient's sides.
The voxels are 8-bit copies, to look at and not to measure.</small></p></div></section>
"""


@dataclass(frozen=True)
class Mask:
    """A mask (X, Y, S) with its name on the page and its colour, such as "#22c55e"."""

    name: str
    voxels: np.ndarray
    colour: str


@dataclass(frozen=True)
class Volumes:
    """A scan (X, Y, S) in RAS+ with its masks and its probabilities (0 to 1), all of one shape."""

    scan: np.ndarray
    masks: Sequence[Mask] = ()
    probability: np.ndarray | None = None


@dataclass
class Viewer:
    """Collects the scans of a page, at most `limit` bytes of volumes. It is a context manager."""

    limit: int = LIMIT
    names: list[str] = field(default_factory=list)
    left_out: int = 0

    def __enter__(self) -> "Viewer":
        self._file = tempfile.TemporaryFile("w+b")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def is_full(self) -> bool:
        """Return whether a scan was too large for the room that was left: all later ones are left out."""
        return self.left_out > 0

    def add(
        self, name: str, text: str, voxel_mm: tuple[float, float, float] | None, load: Callable[[], Volumes]
    ) -> None:
        """Add a scan, or leave it out if the page is full.

        Args:
            name: What the scan is called on the page.
            text: One line about it.
            voxel_mm: Voxel size; None if it is unknown, and with it the directions.
            load: Reads its volumes. It is not called for a scan that is left out because the page is full.
        """
        if not self.is_full:
            block = _block(name, text, voxel_mm, load())
            if self._file.tell() + len(block) <= self.limit:
                self._file.write(block)
                self.names.append(name)
                return
        self.left_out += 1

    def parts(self, page: str) -> Iterator[bytes]:
        """Yield the page, which contains `PLACE`, with this viewer in that place."""
        before, _, after = page.partition(PLACE)
        yield before.encode()
        if self.names:
            yield CONTROLS.encode()
        if self.left_out:
            shown = f"The first {len(self.names)} scans are in the viewer" if self.names else "No scan is in the viewer"
            yield (
                f"<p>{shown}: a page holds at most {self.limit / 1e6:g} MB of volumes. "
                f"{self.left_out} {'is' if self.left_out == 1 else 'are'} left out.</p>\n"
            ).encode()
        if self.names:
            self._file.seek(0)
            yield from iter(lambda: self._file.read(1 << 20), b"")
            yield b'<script type="text/plain" id="viewer-library">' + _packed_library() + b"</script>\n"
            yield b'<script data-part="code">'
            yield CODE.read_bytes()
            yield b"</script>\n"
        yield after.encode()

    def write(self, page: str, path: Path) -> None:
        """Write the page, which contains `PLACE`, with this viewer in that place."""
        with path.open("wb") as file:
            file.writelines(self.parts(page))


def _block(name: str, text: str, voxel_mm: tuple[float, float, float] | None, volumes: Volumes) -> bytes:
    scan = volumes.scan
    sample = scan.ravel(order="K")[:: max(1, scan.size // SAMPLED)]
    low, high = float(scan.min()), float(np.percentile(sample, WHITE))
    scale = 255 / max(high - low, 1e-12)
    black, white = ((float(value) - low) * scale for value in np.percentile(sample, SHOWN))
    sizes = voxel_mm or (1.0, 1.0, 1.0)

    def layer(kind: str, called: str, voxels: np.ndarray, window: tuple[float, float], **more: Any) -> dict[str, Any]:
        packed = nifti_bytes(voxels, np.diag([*sizes, 1.0]))
        return {"kind": kind, "name": called, "window": window, "nifti": base64.b64encode(packed).decode(), **more}

    layers = [layer("scan", "scan", _shades(scan, low, scale), (round(black), max(round(white), round(black) + 1)))]
    for mask in volumes.masks:
        voxels = (mask.voxels > 0).astype(np.uint8)
        layers.append(layer("mask", mask.name, voxels, (0, 1), colour=mask.colour))
    if volumes.probability is not None:
        layers.append(layer("probability", "probability", _shades(volumes.probability, 0, 255), (5, 255)))
    content = {
        "text": text, "slice": _first_slice(volumes) + 1, "oriented": voxel_mm is not None, "range": (low, high),
        "layers": layers,
    }  # fmt: skip
    escaped = json.dumps(content).replace("<", "\\u003c")
    shown = html.escape(name.encode(errors="backslashreplace").decode())
    return f'<script type="application/json" class="viewer-case" data-name="{shown}">{escaped}</script>\n'.encode()


def _shades(volume: np.ndarray, low: float, scale: float) -> np.ndarray:
    """Return a volume (X, Y, S) in 256 shades, slice by slice: a copy in floating point is four times as large."""
    shades = np.empty(volume.shape, np.uint8)
    for s in range(volume.shape[2]):
        shades[:, :, s] = np.clip(np.rint((volume[:, :, s] - low) * scale), 0, 255)
    return shades


def _first_slice(volumes: Volumes) -> int:
    """Return the slice with most of the first mask that has a voxel; the middle one without such a mask."""
    areas = ((mask.voxels > 0).sum((0, 1)) for mask in volumes.masks)
    return next((int(area.argmax()) for area in areas if area.any()), volumes.scan.shape[2] // 2)


def _packed_library() -> bytes:
    return base64.b64encode(gzip.compress(LIBRARY.read_bytes(), 9, mtime=0))
