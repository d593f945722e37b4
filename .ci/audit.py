"""`make audit`: check that no pinned package has a known vulnerability, but those that audit-accepted.yaml explains.

pip-audit asks the package index. It calls a package that the index does not know "skipped", and still succeeds; here
that counts as not audited. Exit codes: 0, no vulnerability; 1, something must be done; 2, the audit was not possible.
"""

import json
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
IMAGES = ("mlflow", "torch", "segment")
PINS = ("requirements-dev.txt", *(f"images/requirements-{name}.txt" for name in IMAGES))
ACCEPTED = Path(__file__).with_name("audit-accepted.yaml")
OK, TO_DO, UNKNOWN = 0, 1, 2


def main() -> int:
    accepted = yaml.safe_load(ACCEPTED.read_text()) or {}
    pins = [word for name in PINS for word in ("--requirement", str(ROOT / name))]
    command = ["pip_audit", "--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json", *pins]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        reason = done.stderr.strip().splitlines()[-1:] or ["pip-audit printed nothing"]
        print(f"NOT AUDITED: {reason[0][:300]}")
        return UNKNOWN
    code, lines = judged(packages, accepted)
    print(*lines, sep="\n")
    return code


def judged(packages: list[dict], accepted: dict[str, str]) -> tuple[int, list[str]]:
    """Return the exit code and the lines for pip-audit's result; `accepted` gives reasons by vulnerability."""
    skipped = sorted({package["name"] for package in packages if "skip_reason" in package})
    found = {
        (vulnerability["id"], *vulnerability["aliases"]): (package, vulnerability["fix_versions"])
        for package in packages
        for vulnerability in package.get("vulns", [])
    }
    reported = {name for names in found for name in names}
    lines = []
    for names, (package, fixed) in found.items():
        reason = next((accepted[name] for name in names if name in accepted), None)
        what = f"{package['name']} {package['version']}: {', '.join(names)}"
        remedy = f"fixed in {', '.join(fixed)}" if fixed else "no version fixes it"
        lines.append(f"accepted   {what}: {reason}" if reason else f"VULNERABLE {what}; {remedy}")
    to_do = any(line.startswith("VULNERABLE") for line in lines)
    if skipped:
        lines.append(f"NOT AUDITED: the index does not know {len(skipped)} packages: {', '.join(skipped[:10])}")
    elif gone := sorted(accepted.keys() - reported):
        lines.append(f"no longer reported, remove it from {ACCEPTED.name}: {', '.join(gone)}")
        to_do = True
    else:
        lines.append(f"{len({package['name'] for package in packages})} packages audited")
    return (TO_DO if to_do else UNKNOWN if skipped else OK), lines


if __name__ == "__main__":
    sys.exit(main())
