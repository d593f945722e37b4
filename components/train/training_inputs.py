"""The files that the train step reads and writes, and the artifacts in them."""

from dataclasses import astuple, dataclass
from pathlib import Path

from components.artifacts.cases import Cases
from components.artifacts.slices import Slices
from components.artifacts.split_file import Split
from components.train.data import GridCase, grid_cases


@dataclass(frozen=True)
class TrainingPaths:
    """Inputs and outputs of the train step."""

    cases: Path
    """Folder of ingest: canonical volumes and `cases.json`."""
    slices: Path
    """Folder of preprocess: arrays and `index.json`."""
    split: Path
    """File of split."""
    data_report: Path
    """Page of ingest about the data."""
    model: Path
    """Output folder: weights, `model.json`, history and curve."""
    curves: Path
    """Output page: the training curve."""

    def as_list(self) -> list[str]:
        """Return the paths as text, for the command line of another process."""
        return [str(path) for path in astuple(self)]

    @staticmethod
    def from_list(paths: list[str]) -> "TrainingPaths":
        """Return the paths that `as_list` wrote."""
        return TrainingPaths(*map(Path, paths))


@dataclass(frozen=True)
class TrainingInputs:
    """The artifacts of the earlier steps, and where their files are."""

    paths: TrainingPaths
    cases: Cases
    slices: Slices
    split: Split

    @classmethod
    def read(cls, paths: TrainingPaths) -> "TrainingInputs":
        """Read the artifacts.

        Raises:
            StepError: one of them is missing or invalid, or a case is in another subset than its patient.
        """
        cases, split = Cases.read(paths.cases), Split.read(paths.split)
        split.require_own_cases(cases.patient_of)
        return cls(paths, cases, Slices.read(paths.slices), split)

    def grid_cases(self, subset: str) -> list[GridCase]:
        """Return the cases of a subset ("train", "val") on the model grid."""
        return grid_cases(self.paths.slices, self.slices, self.split.cases[subset])


def write_split_of_fold(split: Path, fold: int, folder: Path) -> Path:
    """Write the split of the network that holds out this fold (see `Split.of_fold`) into `folder`; return its path.

    Raises:
        StepError: the split into folds is missing or invalid.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / Split.FILE
    Split.read(split).of_fold(fold).write(path)
    return path
