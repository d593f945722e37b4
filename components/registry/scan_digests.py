"""List the scans that a model learnt from and was tested on: names and digests, without their headers."""

from collections.abc import Iterable

from components.artifacts.cases import Cases
from components.artifacts.evaluation import ScanDigest, ScanDigests, SizesSeen
from components.artifacts.split_file import Split


def scan_digests(cases: Cases, split: Split) -> ScanDigests:
    """Return the digests of all scans with their subsets, and the sizes of the training scans.

    With folds, some network learns from each of them.
    """
    subset_of = {case: subset for subset, names in split.cases.items() for case in names}
    learnt = {"train"} if split.folds == 1 else set(split.patients)
    training = [case for case in cases.cases if subset_of.get(case.case) in learnt]
    voxel_sizes = [case.voxel_mm for case in training if case.voxel_mm]
    return ScanDigests(
        data_uri=cases.data_uri,
        data_version=cases.data_version,
        layout=cases.layout,
        synthetic=cases.synthetic,
        refused=cases.refused,
        split_digest=split.digest,
        seen=SizesSeen(
            voxel_mm=_ranges(voxel_sizes) if len(voxel_sizes) == len(training) else None,
            shape=_ranges(case.shape for case in training),
        ),
        cases=[
            ScanDigest(
                **case.model_dump(include=ScanDigest.model_fields.keys() - {"subset"}), subset=subset_of.get(case.case)
            )
            for case in cases.cases
        ],
    )


def _ranges(sizes: Iterable[tuple]) -> list[tuple]:
    """Return the lowest and the highest size per axis."""
    return [(min(axis), max(axis)) for axis in zip(*sizes, strict=True)]
