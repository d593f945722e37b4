"""Check what `make kind-up` needs on this machine before it starts, and list all that is missing at once."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from components.core.errors import StepError

KIND, KUBECTL = (0, 32), (1, 29)  # the pinned node image needs this kind; an older kubectl has an older kustomize
CPUS, MEMORY_GB, DISK_GB = 4, 8, 40
INOTIFY_INSTANCES = 512
GET = {
    "docker": "https://docs.docker.com/engine/install/",
    "kind": "https://kind.sigs.k8s.io/docs/user/quick-start/#installation",
    "kubectl": "https://kubernetes.io/docs/tasks/tools/",
    "git": "https://git-scm.com/downloads",
}


@dataclass(frozen=True)
class Found:
    """A program: its version (`here`), or what is `missing` and how to install it; `notes` warn of later problems."""

    name: str
    here: str = ""
    missing: str = ""
    notes: tuple[str, ...] = ()


def announce(minutes: str) -> None:
    """Print what is needed, and how long the installation takes."""
    print(
        f"It needs docker with its engine running, kind {_dotted(KIND)} or newer, kubectl {_dotted(KUBECTL)} or newer, "
        f"git;\nand for docker about {CPUS} CPUs, {MEMORY_GB} GB of memory and {DISK_GB} GB of free disk. {minutes}",
        flush=True,
    )


def check() -> None:
    """Print the versions that are installed.

    Raises:
        StepError: programs are missing; with the way to install each.
    """
    found = [docker(), _versioned("kind", KIND, "version"), _kubectl(), _installed("git")]
    for program in found:
        if program.here:
            print(f"  {program.name:<8} {program.here}", flush=True)
    for note in (note for program in found for note in program.notes):
        print(f"  note: {note}", flush=True)
    require(*found)


def require(*found: Found) -> None:
    """Check that no program is missing.

    Raises:
        StepError: programs are missing; with the way to install each.
    """
    if missing := [f"  {program.name:<8} {program.missing}" for program in found if program.missing]:
        raise StepError("\n".join(["This is missing:", *missing, "Nothing was changed."]))


def docker() -> Found:
    """Return docker's version and resources, with a note where they are too small."""
    if not shutil.which("docker"):
        return Found("docker", missing=f"is not installed: {GET['docker']}")
    done = subprocess.run(["docker", "info", "--format", "{{json .}}"], capture_output=True, text=True)
    try:
        info = json.loads(done.stdout)
        problem = " ".join(info.get("ServerErrors") or [])
    except ValueError:
        info, problem = {}, ""
    if done.returncode or problem or not info.get("ServerVersion"):
        reason = problem or done.stderr.strip() or "no message"
        start = "start Docker Desktop, or: sudo systemctl start docker"
        if "permission denied" in reason:
            start = "add yourself to the group docker (sudo usermod -aG docker $USER) and log in again"
        return Found("docker", missing=f"is installed, but its engine does not answer: {start}. Its error: {reason}")
    cpus, memory_gb = info.get("NCPU", 0), info.get("MemTotal", 0) / 1e9
    here = f"{info['ServerVersion']}, {cpus} CPUs, {memory_gb:.1f} GB of memory"
    notes = []
    if cpus < CPUS:
        notes.append(f"docker has {cpus} CPUs, about {CPUS} are needed: pods may not be scheduled.")
    if memory_gb < MEMORY_GB * 0.95:
        notes.append(
            f"docker has {memory_gb:.1f} GB of memory, about {MEMORY_GB} are needed: pods may not be scheduled "
            "or may be killed. Docker Desktop: Settings, Resources."
        )
    root = Path(info.get("DockerRootDir", ""))
    if root.is_absolute() and root.is_dir():  # Docker Desktop's is inside its virtual machine
        free_gb = shutil.disk_usage(root).free / 1e9
        here += f", {free_gb:.0f} GB of free disk"
        if free_gb < DISK_GB:
            notes.append(f"{root} has {free_gb:.0f} GB free, about {DISK_GB} are needed the first time.")
    if info.get("Architecture") in ("aarch64", "arm64"):
        notes.append("this is an ARM processor, and the metadata server of Kubeflow Pipelines runs on x86 only.")
    return Found("docker", here, notes=(*notes, *_inotify()))


def kind() -> Found:
    return _versioned("kind", KIND, "version")


def _kubectl() -> Found:
    return _versioned("kubectl", KUBECTL, "version", "--client")


def _versioned(name: str, minimum: tuple[int, int], *arguments: str) -> Found:
    found = _installed(name)
    if found.missing:
        return found
    printed = subprocess.run([name, *arguments], capture_output=True, text=True).stdout
    match = re.search(r"v(\d+)\.(\d+)[\w.+-]*", printed)
    if not match or (int(match[1]), int(match[2])) < minimum:
        version = match[0] if match else "of an unknown version"
        return Found(name, missing=f"is {version}, {_dotted(minimum)} or newer is needed: {GET[name]}")
    return Found(name, match[0])


def _installed(name: str) -> Found:
    return Found(name, "installed") if shutil.which(name) else Found(name, missing=f"is not installed: {GET[name]}")


def _inotify() -> list[str]:
    limit = Path("/proc/sys/fs/inotify/max_user_instances")
    if limit.exists() and int(limit.read_text()) < INOTIFY_INSTANCES:
        return [
            f"this kernel allows {limit.read_text().strip()} inotify instances, too few for so many pods ('too many "
            "open files'): sudo sysctl fs.inotify.max_user_instances=1024 fs.inotify.max_user_watches=524288"
        ]
    return []


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
