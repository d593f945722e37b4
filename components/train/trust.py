"""How far a model can be trusted, learnt once its weights, threshold and smallest lesion are chosen.

Volumes, temperature and doubt are learnt from the validation patients, who chose the threshold and the weights before:
all of it is optimistic by so much, and how it holds on the test patients is what evaluate reports.
"""

import json
import logging
from pathlib import Path

import numpy as np

from components.core.volumes import read
from components.train.data import CaseSlices
from components.unet.appearance import appearance
from components.unet.calibration import fitted_temperature, histogram
from components.unet.findings import uncertainty
from components.unet.inference import load_model, native_probability
from components.unet.lesions import lesion_mask

VOLUME_PERCENT, DOUBT_PERCENT = 90, 95
"""Of validation patients whose volume lies in its interval; of validation scans less unsure than a doubtful one."""


def learn_trust(model: Path, cases: Path, validation: list[CaseSlices], training: list[str]) -> dict:
    """What `findings` and `calibrated` need, for `model.json`; one scan at a time in memory.

    temperature. volume_interval: cube_root_ml (the most that cube roots of volumes are off), level, patients; left
    out where no voxel size is known. uncertainty: the most that is nothing unusual, of a `mask` and of an `empty`
    one, None where validation has none. seen: lowest and highest of `appearance`, training and validation scans.
    """
    network, facts = load_model(model)
    records = {c["case"]: c for c in json.loads((cases / "cases.json").read_text())["cases"]}
    errors: dict[str, float] = {}
    voxels, doubtful = [], []
    for case in validation:
        record, slices = records[case.case], np.load(case.image, mmap_mode="r")
        probability = native_probability(network, facts, slices, case.order, case.placement)
        truth = read(cases / record["files"]["mask"])[0] > 0
        mask = lesion_mask(probability, facts, record["voxel_mm"])
        if record["voxel_mm"]:
            found, true = (np.cbrt(m.sum() * np.prod(record["voxel_mm"]) / 1000) for m in (mask, truth))
            errors[case.patient] = max(errors.get(case.patient, 0.0), float(abs(found - true)))
        voxels.append([histogram(probability[truth == lesion]) for lesion in (False, True)])
        doubtful.append([histogram(probability[mask == inside]) for inside in (True, False)])
    temperature = fitted_temperature(*np.sum(voxels, axis=0))
    unsure = {"mask": [], "empty": []}
    for inside, outside in doubtful:
        unsure["mask" if inside.any() else "empty"].append(uncertainty(inside, outside, temperature))
    learnt = {
        "temperature": temperature,
        "uncertainty": {kind: attained(values, DOUBT_PERCENT)[0] for kind, values in unsure.items()},
        "seen": _seen(cases, [records[name] for name in (*training, *(case.case for case in validation))]),
    }
    if errors:
        off, level = attained(list(errors.values()), VOLUME_PERCENT)
        learnt["volume_interval"] = {"cube_root_ml": off, "level": level, "patients": len(errors)}
    logging.info("temperature %.2f%s", temperature, _interval_in_words(learnt))
    return learnt


def attained(values: list[float], percent: int) -> tuple[float | None, float | None]:
    """The value that a further one of their kind does not exceed with this probability, and the probability.

    Split conformal: of n values the k-th smallest, k = percent of n + 1 rounded up. Where n is too small for that the
    largest, which holds with n / (n + 1). Of none (None, None).
    """
    n = len(values)
    if not n:
        return None, None
    k = -(-percent * (n + 1) // 100)
    return sorted(values)[min(k, n) - 1], percent / 100 if k <= n else n / (n + 1)


def _seen(cases: Path, records: list[dict]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for record in records:
        for name, value in appearance(read(cases / record["files"]["dwi"])[0], record["voxel_mm"]).items():
            low, high = found.get(name, (value, value))
            found[name] = [min(low, value), max(high, value)]
    return found


def _interval_in_words(learnt: dict) -> str:
    if "volume_interval" not in learnt:
        return "; no voxel size is known, so no volume interval either"
    how = learnt["volume_interval"]
    return f"; cube roots of volumes within {how['cube_root_ml']:.2f} (mL) for {how['level']:.0%} of patients"
