"""How far a model's prediction of a scan moves when the scan changes in a way that should not matter.

for row in measure(Path("folder of best_model.pth and model.json"), scan):
    print(row.relation, row.change_percent, row.dice, row.holds)
"""

import gzip
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd

from components.model.calibration import calibrated
from components.model.inference import predict_volume
from components.model.lesions import lesion_mask
from components.model.mlflow_model import LesionSegmenter, Refused
from components.scans.volumes import BadVolume, file_bytes, read
from tests.relations.changes import Changed, Relation, Scan, relations, stored

MOST_CHANGE, LEAST_DICE = {True: 0.02, False: 0.15}, {True: 0.98, False: 0.9}
"""Of an exact relation, and of a loose one."""
ALWAYS_ALLOWED_ML = 0.1


@dataclass(frozen=True)
class Row:
    """One relation on one scan; volumes in mL of the prediction before the change, and after it, brought home.

    refused: why the model took the scan before but not the changed one; "" where it took both.
    """

    scan: str
    relation: str
    exact: bool
    before_ml: float
    after_ml: float
    dice: float
    refused: str = ""

    @property
    def change_percent(self) -> float:
        """Of the volume before; infinite where there was none."""
        change = self.after_ml - self.before_ml
        return 100 * change / self.before_ml if self.before_ml else float("inf") if change else 0.0

    @property
    def holds(self) -> bool:
        allowed = max(MOST_CHANGE[self.exact] * self.before_ml, ALWAYS_ALLOWED_ML)
        near = abs(self.after_ml - self.before_ml) <= allowed and self.dice >= LEAST_DICE[self.exact]
        return near and not self.refused


class Model:
    """A weights folder behind the product's own door: the content of a NIfTI file in, a mask out.

    A `.npy` goes the way of the evaluation, for the registered model takes NIfTI alone.
    """

    def __init__(self, weights: Path):
        self.weights, self.segmenter = weights, LesionSegmenter()
        self.segmenter.load_context(SimpleNamespace(artifacts={"weights": str(weights)}))
        self.network, self.trained = self.segmenter.network, self.segmenter.trained
        self.before = cache(self._before)

    def predict(self, file: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
        """Lesion mask and calibrated probability, as the file's voxels are stored.

        Raises:
            BadVolume, Refused: the model does not take it.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / file
            path.write_bytes(content)
            if path.suffix.lower() == ".npy":
                return self._predict_npy(path)
            scans = pd.DataFrame({"scan": [file_bytes(path)]})
        row = self.segmenter.predict(None, scans, params={"probability": True}).iloc[0]
        files = (gzip.decompress(row[name]) for name in ("mask", "probability"))
        mask, probability = (np.asarray(nib.Nifti1Image.from_bytes(file).dataobj) for file in files)
        return mask > 0, probability

    def _predict_npy(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        volume, geometry = read(path)
        probability = predict_volume(self.network, self.trained, volume)
        mask = lesion_mask(probability, self.trained, None)
        return geometry.native(mask), geometry.native(calibrated(probability, self.trained))

    def mask_of(self, probability: np.ndarray, scan: Scan) -> np.ndarray:
        """What the model makes of calibrated probabilities on the scan's grid."""
        threshold = float(calibrated(np.array([self.trained.threshold], np.float32), self.trained)[0])
        voxel_mm = None if scan.affine is None else scan.voxel_mm
        return lesion_mask(probability, self.trained.model_copy(update={"threshold": threshold}), voxel_mm)

    def _before(self, scan: Scan) -> np.ndarray:
        return self.predict(*stored(scan, scan.voxels))[0]

    def _after(self, scan: Scan, changed: Changed) -> np.ndarray:
        mask, probability = self.predict(changed.file, changed.content)
        return self.mask_of(changed.home(probability), scan) if changed.of_probability else changed.home(mask)

    def row(self, relation: Relation, scan: Scan) -> Row:
        """The relation on one scan; the prediction before the change is made once for all of a scan's relations."""
        before, refused = self.before(scan), ""
        try:
            after = self._after(scan, relation.change(scan))
        except (BadVolume, Refused) as reason:
            after, refused = np.zeros_like(before), str(reason)
        volumes = (float(mask.sum()) * scan.voxel_ml for mask in (before, after))
        return Row(scan.name, relation.name, relation.exact, *volumes, dice(before, after), refused)


def measure(model: Model | Path, scan: Scan) -> list[Row]:
    """Every relation on one scan, for a model or the folder of its weights."""
    model = model if isinstance(model, Model) else Model(model)
    return [model.row(relation, scan) for relation in relations(npy=scan.affine is None)]


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """2 |A and B| / (|A| + |B|); 1 where both are empty."""
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0
