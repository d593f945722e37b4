"""`make audit`: no pinned package has a known vulnerability, or audit-accepted.yaml says why it does not matter here.

pip-audit asks the package index for what is known. What the index does not know it calls "skipped", and ends well all
the same; here that is no audit. Ends with 0: all is well; 1: something is to be done; 2: it could not be found out.
"""

import json
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PINS = ("requirements-dev.txt", "images/requirements-mlflow.txt", "images/requirements-torch.txt")
ACCEPTED = Path(__file__).with_name("audit-accepted.yaml")
FINE, TO_DO, UNKNOWN = 0, 1, 2


def main() -> int:
    accepted = yaml.safe_load(ACCEPTED.read_text()) or {}
    pins = [word for name in PINS for word in ("--requirement", str(ROOT / name))]
    command = ["pip_audit", "--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json", *pins]
    asked = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
    try:
        packages = json.loads(asked.stdout)["dependencies"]
    except ValueError:
        reason = asked.stderr.strip().splitlines()[-1:] or ["pip-audit said nothing"]
        print(f"NOT AUDITED: {reason[0][:300]}")
        return UNKNOWN
    code, lines = judged(packages, accepted)
    print(*lines, sep="\n")
    return code


def judged(packages: list[dict], accepted: dict[str, str]) -> tuple[int, list[str]]:
    """What to make of pip-audit's findings, and of the reasons by vulnerability for which some are accepted."""
    skipped = sorted({package["name"] for package in packages if "skip_reason" in package})
    found = {
        (vulnerability["id"], *vulnerability["aliases"]): (package, vulnerability["fix_versions"])
        for package in packages
        for vulnerability in package.get("vulns", [])
    }
    known = {name for names in found for name in names}
    lines = []
    for names, (package, fixed) in found.items():
        reason = next((accepted[name] for name in names if name in accepted), None)
        what = f"{package['name']} {package['version']}: {', '.join(names)}"
        cure = f"fixed in {', '.join(fixed)}" if fixed else "no version is without it"
        lines.append(f"accepted   {what}: {reason}" if reason else f"VULNERABLE {what}; {cure}")
    to_do = any(line.startswith("VULNERABLE") for line in lines)
    if skipped:
        lines.append(f"NOT AUDITED: the index knows nothing of {len(skipped)} packages: {', '.join(skipped[:10])}")
    elif gone := sorted(accepted.keys() - known):
        lines.append(f"not found any more, remove it from {ACCEPTED.name}: {', '.join(gone)}")
        to_do = True
    else:
        lines.append(f"{len({package['name'] for package in packages})} packages audited")
    return (TO_DO if to_do else UNKNOWN if skipped else FINE), lines


if __name__ == "__main__":
    sys.exit(main())
