"""The program of the image dwi-stroke/segment: segment scans with the packed model, called as a BIDS App.

docker run --network none -v in:/in:ro -v out:/out dwi-stroke/segment:3 /in /out participant
"""

import argparse
import logging
import os
import signal
import sys
import traceback
from functools import partial
from pathlib import Path

from components.core.errors import StepError, disk_advice
from components.core.step import log_plainly
from components.core.text import shown
from components.ingest.found_files import Found
from components.model.device import in_words
from pipelines.predict import bids_derivative
from pipelines.predict.folder import segment_folder
from pipelines.predict.packed_model import CARD, Package, PackedSegmenter

PACKAGE = Path(__file__).parents[2] / "package"
RESEARCH = "Research use only. Not a medical device."


def main(arguments: list[str] | None = None, package: Path = PACKAGE) -> int:
    """Segment as the command line says, print errors, and return the exit code."""
    log_plainly()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        facts = Package.read(package)
        asked = _parser(facts, (package / CARD).read_text(encoding="utf-8")).parse_args(arguments)
        _segment(asked, facts, package)
        return 0
    except StepError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except Exception as error:
        print(f"\n{disk_advice(error) or traceback.format_exc()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped. Run the same command again.", file=sys.stderr)
        return 130


def _parser(facts: Package, card: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=facts.image,
        description=f"Segment stroke lesions on diffusion MRI with {facts.uri}. {RESEARCH}",
        formatter_class=argparse.RawDescriptionHelpFormatter,  # it keeps the lines of the card
    )
    parser.add_argument("bids_dir", type=Path, help="a BIDS data set, another folder of NIfTI scans, or one scan")
    parser.add_argument("output_dir", type=Path, help="a folder for the masks, the table and the page")
    parser.add_argument("analysis_level", choices=["participant"])
    parser.add_argument("--participant-label", "--participant_label", nargs="+", default=[], metavar="LABEL",
                        help="segment these participants only, with or without sub-")  # fmt: skip
    parser.add_argument("--probability", action="store_true", help="also write the lesion probabilities")
    parser.add_argument("--overwrite", action="store_true", help="also replace masks that a person drew or changed")
    parser.add_argument("--no-modality-check", dest="modality_check", action="store_false",
                        help="also segment scans that look like an ADC map or a b0 image")  # fmt: skip
    parser.add_argument("--card", action="version", version=card, help="print the model card")
    parser.add_argument("--version", action="version", version=_version(facts), help="print what was packed")
    return parser


def _version(facts: Package) -> str:
    return "\n".join([
        f"{facts.image}: {facts.uri}", f"model_sha256 {facts.model_sha256}", f"code_sha256  {facts.code_sha256}",
        f"commit       {facts.commit or 'unknown'}", RESEARCH,
    ])  # fmt: skip


def _segment(asked: argparse.Namespace, facts: Package, package: Path) -> None:
    source, target = asked.bids_dir, asked.output_dir
    if not source.exists():
        raise StepError(f"{source} does not exist. Mount the folder of your scans there: -v /my/scans:{source}:ro")
    there = target if target.exists() else target.parent
    if not os.access(there, os.W_OK):
        raise StepError(
            f"{target} cannot be written. Mount a folder of yours there, and start the container as its owner: "
            f'-v /my/results:{target} --user "$(id -u):$(id -g)"'
        )
    scan = source.name if source.is_file() else ""
    folder = source.parent if scan else source
    choose = partial(_choose, folder=folder, scan=scan, labels=asked.participant_label, target=target)
    logging.info("%s segments on %s. %s", facts.uri, in_words(), RESEARCH)
    load = partial(PackedSegmenter, package)
    rows = segment_folder(folder, target, load, asked.probability, asked.modality_check, asked.overwrite, choose)
    if any(bids_derivative.is_output(row.mask) for row in rows):
        bids_derivative.describe(target, folder, facts.version, facts.image, rows)


def _choose(found: Found, folder: Path, scan: str, labels: list[str], target: Path) -> None:
    """Keep the scan that was named, or the participants, and give results of BIDS their names.

    Raises:
        StepError: there is no such scan or participant, or `target` is a data set of another program.
    """
    if scan:
        found.cases = [case for case in found.cases if case.image == [scan]]
        found.refused = {name: why for name, why in found.refused.items() if name == scan}
        found.ignored = []
        if not found.cases and not found.refused:
            raise StepError(f"{folder / scan} is not a scan: give a .nii or .nii.gz file of a DWI, or a folder.")
    if labels:
        _keep_participants(found, [label if label.startswith("sub-") else f"sub-{label}" for label in labels])
    if found.layout == bids_derivative.LAYOUT:
        bids_derivative.require_own(target)
        for case in found.cases:
            case.derivative = bids_derivative.start_of_names(case)


def _keep_participants(found: Found, wanted: list[str]) -> None:
    def belongs(name: str, participant: str) -> bool:
        return name == participant or name.startswith((f"{participant}_", f"{participant}/"))

    there = {case.patient for case in found.cases}
    for participant in wanted:
        if participant not in there and not any(belongs(name, participant) for name in found.refused):
            some = ", ".join(map(shown, sorted(there)[:5])) or "none"
            raise StepError(f"there is no participant {shown(participant)}. There are: {some}. Name one of them.")
    found.cases = [case for case in found.cases if case.patient in wanted]
    found.refused = {n: why for n, why in found.refused.items() if any(belongs(n, p) for p in wanted)}


if __name__ == "__main__":
    sys.exit(main())
