"""Compare each network of an ensemble with what was registered: weights, training, the fold that it held out."""

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any

from components.artifacts.split_file import Split
from components.artifacts.trained_model import WEIGHTS, digest_of
from components.core.storage import file_sha256
from components.registry.tracking import FOLD, PARENT
from pipelines.models.link_report import LinkReport, NotReached
from pipelines.models.version_files import VersionFiles


def check_networks(report: LinkReport, client: Any, networks: list[dict], files: VersionFiles) -> None:
    """Report on each network; `networks` are those of the registered `model.json`."""
    from components.model.inference import unpack_files  # imports torch, which is slow to load

    unpacked: list[bytes] = []

    def packed(fold: int) -> str:
        if not unpacked:
            unpacked.extend(unpack_files(WEIGHTS, files.model_file(WEIGHTS).read_bytes(), len(networks)))
        return hashlib.sha256(unpacked[fold - 1]).hexdigest()

    for fold, network in enumerate(networks, start=1):
        report.section(f"network of fold {fold}")
        report.fact("threshold", network["threshold"])
        report.compare("its weights", network["weights_sha256"], partial(packed, fold))
        report.compare("training_digest", network["training_digest"], partial(digest_of, network["decides"]))
        report.compare("without its fold", network["decides"]["split"], partial(_split_without, files, fold))
        report.compare("weights in its run", network["weights_sha256"], _weights_of_run(client, network, fold, files))


def _split_without(files: VersionFiles, fold: int) -> str:
    """Return the digest of the split of the network that holds out this fold, from the registered split."""
    return Split.read(files.of_run(Split.FILE)).of_fold(fold).digest


def _weights_of_run(client: Any, network: dict, fold: int, files: VersionFiles) -> Callable[[], str]:
    """Return a function that hashes the weights in the MLflow run in which the network was trained.

    This is the run below that of the version. A version whose networks came from cache has none: then it is any run of
    the same training with the same weights.
    """

    def find() -> str:
        experiments = [client.get_run(files.version.run_id).info.experiment_id]
        condition = f"tags.training_digest = '{network['training_digest']}' and tags.{FOLD} = '{fold}'"
        found = client.search_runs(experiments, condition)
        runs = [run for run in found if run.data.tags.get(PARENT) == files.version.run_id] or found
        digests, reasons = [], [NotReached("the MLflow run in which it was trained is gone")]
        for run in runs:
            try:
                digests.append(file_sha256(files.of_other_run(run.info.run_id, WEIGHTS)))
            except NotReached as why:
                reasons.append(why)
            else:
                if digests[-1] == network["weights_sha256"]:
                    break
        if not digests:
            raise reasons[-1]
        return digests[-1]

    return find
