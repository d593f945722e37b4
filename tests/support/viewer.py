"""Read the viewer of a page."""

import base64
import gzip
import json
import re

import nibabel as nib

CASE = re.compile(r'<script type="application/json" class="viewer-case" data-name="([^"]*)">(.*?)</script>')


def viewed(page: str) -> dict[str, dict]:
    """Return what the viewer knows of each scan, by its name as it is written on the page, in order."""
    return {name: json.loads(case) for name, case in CASE.findall(page)}


def volume(layer: dict) -> nib.Nifti1Image:
    """Return the volume of a layer of a scan."""
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(layer["nifti"])))


def without_viewer(page: str) -> str:
    """Return the page without the code and the volumes of its viewer."""
    return re.sub(r"<script .*?</script>", "", page, flags=re.DOTALL)
