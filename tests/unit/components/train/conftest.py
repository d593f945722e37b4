from pathlib import Path

import numpy as np
import pytest
import torch

from components.artifacts.cases import Case
from components.artifacts.slices import CaseSlices, GridPlacement
from components.artifacts.slices import Slices as SlicesArtifact
from components.model.grid import neighbours
from components.model.network import AttentionUNet
from components.model.placement import Placement
from components.scans.volumes import write
from components.train.data import GridCase, grid_cases


class Slices:
    """Slices and scans of a few cases."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.entries: list[CaseSlices] = []
        self.cases: dict[str, Case] = {}

    def add(
        self, name: str, image: np.ndarray, lesion: np.ndarray, numbers=None, voxel_mm=(1, 1, 1), patient=""
    ) -> None:
        """One case of z-scores and lesion (S, H, W), its model grid being its native one."""
        np.save(self.folder / f"{name}.image.npy", image.astype(np.float16))
        np.save(self.folder / f"{name}.mask.npy", lesion.astype(np.uint8))
        write(self.folder / f"{name}_mask.nii.gz", to_native(lesion).astype(np.uint8), np.eye(4))
        write(self.folder / f"{name}_dwi.nii.gz", to_native(image).astype(np.float32), np.eye(4))
        self.entries.append(
            CaseSlices(
                case=name,
                patient=patient or name,
                image=f"{name}.image.npy",
                mask=f"{name}.mask.npy",
                placement=GridPlacement(
                    **Placement(to_native(lesion).shape, lesion.shape[1], stop=len(lesion)).as_dict()
                ),
                voxel_ml=float(np.prod(voxel_mm)) / 1000 if voxel_mm else 0.016,
                neighbours=neighbours(numbers, len(image)).tolist(),
                lesion_pixels=lesion.sum((1, 2)).tolist(),
            )
        )
        files = {kind: f"{name}_{kind}.nii.gz" for kind in ("dwi", "mask")}
        self.cases[name] = Case.model_construct(
            case=name, patient=patient or name, labelled=True, files=files, voxel_mm=voxel_mm
        )

    def artifact(self) -> SlicesArtifact:
        return SlicesArtifact(
            image_size=32,
            normalization="slice",
            n4_bias_correction=False,
            inputs="dwi",
            pixel_mm=0.0,
            cases=self.entries,
        )

    def read(self, *names: str) -> list[GridCase]:
        return grid_cases(self.folder, self.artifact(), list(names or (entry.case for entry in self.entries)))


def to_native(slices: np.ndarray) -> np.ndarray:
    """(S, H, W), rows being Y, to the scan's (X, Y, S)."""
    return slices.transpose(2, 1, 0)


@pytest.fixture
def slices(tmp_path):
    return Slices(tmp_path)


@pytest.fixture
def ramp_network():
    """Makes an Attention U-Net, its weights set by hand, whose logits are `slope * max(current slice, 0) + bias`.

    Only the skip connection of the highest level lets anything through: every convolution on it takes the value
    as it is, batch normalisation in its initial state changes nothing, the gate is wide open.
    """

    @torch.no_grad()
    def make(slope: float = 1.0, bias: float = 0.0) -> AttentionUNet:
        network = AttentionUNet(4)
        for name, parameter in network.named_parameters():
            is_norm = parameter.ndim == 1 and name.endswith("weight")
            parameter.fill_(1.0 if is_norm else 0.0)
        first, last = network.encoder[0], network.decoder[-1]
        first[0].weight[0, 1, 1, 1] = 1.0  # out of (previous, current, next), current
        for convolution in (first[3], last[0], last[3]):
            convolution.weight[0, 0, 1, 1] = 1.0
        network.gates[-1].psi.bias.fill_(100.0)
        network.head.weight[0, 0] = slope
        network.head.bias.fill_(bias)
        return network.eval()

    return make
