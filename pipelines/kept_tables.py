"""Write what a copy of a data set keeps of the tables beside the scans: sites, scanners, whether it is synthetic."""

from pathlib import Path

from components.artifacts.synthetic import DESCRIPTION
from components.ingest import participants
from components.ingest.ingest import is_synthetic_set
from pipelines.atomic_write import write_bytes, write_json


def write_tables(folder: Path, copy: Path, patients: dict[str, str]) -> set[Path]:
    """Write the tables of `folder` into `copy`, and return the files. `patients`: names in the copy to names before."""
    written = set()
    if is_synthetic_set(folder):
        written.add(copy / DESCRIPTION)
        write_json(copy / DESCRIPTION, {"Name": "synthetic"})
    if (folder / participants.FILE).is_file():
        table = participants.read_participants(folder, [*patients.values(), *patients])
        rows = [("participant_id", "site", "scanner")]
        site, scanner = table.site, table.scanner
        for new, old in sorted(patients.items()):
            rows.append((new, site.get(old) or site.get(new, ""), scanner.get(old) or scanner.get(new, "")))
        written.add(copy / participants.FILE)
        write_bytes(copy / participants.FILE, "".join("\t".join(row) + "\n" for row in rows).encode())
    return written
