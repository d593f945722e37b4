"""The program of the image dwi-stroke/segment: segment scans with the packed model, called as a BIDS App.

docker run --network none -v in:/in:ro -v out:/out dwi-stroke/segment:3 /in /out participant
"""

import argparse
import logging
import os
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from components.core.errors import StepError, disk_advice
from components.core.step import log_plainly
from components.core.text import shown
from components.ingest.found_files import Found
from components.model.gpu_advice import describe_device
from pipelines.predict import bids_derivative
from pipelines.predict.folder import Stopped, segment_folder
from pipelines.predict.open_input import is_zip
from pipelines.predict.packed_model import CARD, Package, PackedSegmenter

PACKAGE = Path(__file__).parents[2] / "package"
STOPPED = 130
"""Exit code after Ctrl-C or docker stop."""
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
        return STOPPED if isinstance(error, Stopped) else 1
    except Exception as error:
        print(f"\n{disk_advice(error) or traceback.format_exc()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped. Run the same command again.", file=sys.stderr)
        return STOPPED


def _parser(facts: Package, card: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=facts.image,
        description=f"Segment stroke lesions on diffusion MRI with {facts.uri}. {RESEARCH}",
        formatter_class=argparse.RawDescriptionHelpFormatter,  # it keeps the lines of the card
    )
    parser.add_argument("bids_dir", type=Path, help="a BIDS data set, another folder of NIfTI scans, one scan, or "
                        "a folder or a zip of DICOM files")  # fmt: skip
    parser.add_argument("output_dir", type=Path, help="a folder for the masks, the table and the page")
    parser.add_argument("analysis_level", choices=["participant"])
    parser.add_argument("--participant-label", "--participant_label", nargs="+", default=[], metavar="LABEL",
                        help="segment these participants only, with or without sub-")  # fmt: skip
    parser.add_argument("--series", default="", help="numbers or UIDs of the DICOM series to take, where several fit")
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
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        raise StepError("no folder for temporary files can be written. With --read-only, add --tmpfs /tmp") from None
    logging.info("%s segments on %s. %s", facts.uri, describe_device(), RESEARCH)
    call = Call(asked, facts, cache(partial(PackedSegmenter, package)))
    if not asked.participant_label:
        return call.segment()
    failed = []
    for label in asked.participant_label:
        try:
            call.segment(label if label.startswith("sub-") else f"sub-{label}")
        except Stopped:
            raise
        except StepError as error:
            failed.append(f"{label}: {error}")
    if failed:
        raise StepError("\n".join(failed))


class Call:
    """One call of the program. `load` loads the model, once."""

    def __init__(self, asked: argparse.Namespace, facts: Package, load: Callable[[], PackedSegmenter]):
        self.asked, self.facts, self.load = asked, facts, load
        self.scan = asked.bids_dir.name if asked.bids_dir.is_file() and not is_zip(asked.bids_dir) else ""
        self.folder = asked.bids_dir.parent if self.scan else asked.bids_dir
        self.is_bids = False

    def segment(self, participant: str = "") -> None:
        """Segment all scans, or those of one participant: calls for several may run at the same time.

        Raises:
            StepError: as `segment_folder` does, and if there is no such participant or scan.
        """
        target, asked = self.asked.output_dir, self.asked
        rows = segment_folder(
            self.folder, target / participant, self.load, asked.probability, asked.modality_check, asked.overwrite,
            asked.series, partial(self._choose, participant),
        )  # fmt: skip
        if self.is_bids:
            bids_derivative.describe(target, self.folder, self.facts.version, self.facts.image)
            bids_derivative.write_sidecars(target / participant, rows)

    def _choose(self, participant: str, found: Found) -> None:
        """Keep the scan that was named, or the participant, and give results of BIDS their names."""
        if self.scan:
            self._keep_scan(found)
        self.is_bids = found.layout == bids_derivative.LAYOUT
        if participant:
            self._keep_participant(found, participant)
        if self.is_bids:
            bids_derivative.require_own(self.asked.output_dir)
            for case in found.cases:
                start = bids_derivative.start_of_names(case)
                case.derivative = start if participant else f"{case.patient}/{start}"

    def _keep_scan(self, found: Found) -> None:
        found.cases = [case for case in found.cases if case.image == [self.scan]]
        found.refused = {name: why for name, why in found.refused.items() if name == self.scan}
        found.ignored = []
        if not found.cases and not found.refused:
            raise StepError(f"{self.asked.bids_dir} is not a DWI as .nii or .nii.gz. Give such a file, or a folder.")

    def _keep_participant(self, found: Found, participant: str) -> None:
        if not self.is_bids:
            raise StepError(f"{self.folder} is no data set of BIDS (sub-X/), so it has no participants. Name a scan.")
        there = sorted({case.patient for case in found.cases})
        found.cases = [case for case in found.cases if case.patient == participant]
        found.refused = {
            name: why for name, why in found.refused.items() if re.match(rf"{re.escape(participant)}(?:[_/]|$)", name)
        }
        if not found.cases and not found.refused:
            some = ", ".join(map(shown, there[:5])) or "none"
            raise StepError(f"there is no participant {shown(participant)}. There are: {some}. Name one of them.")


if __name__ == "__main__":
    sys.exit(main())
