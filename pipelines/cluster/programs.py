"""Run other programs (kubectl, kind, docker, git); an error shows their last lines, and advice."""

import subprocess
from collections import deque

from components.core.errors import StepError

LAST_LINES = 15
ADVICE = {  # by a part of the program's output
    "no space left on device": "The disk is full: docker system df shows what docker holds, docker system prune frees.",
    "permission denied while trying to connect": "Add yourself to the group docker, and log in again.",
    "port is already allocated": "Stop the program that has it, or change hostPort in manifests/kind/cluster.yaml.",
    "content digest": "Docker's containerd image store does not work with kind: turn it off in docker's settings "
    "(features: containerd-snapshotter: false), remove the images and build them again.",
    "running git fetch": "The download was too slow or was cut off.",
    "Could not resolve host": "The internet cannot be reached. Set HTTPS_PROXY if you need a proxy.",
    "cgroup": "https://kind.sigs.k8s.io/docs/user/known-issues/ explains what to do about cgroups.",
    "failed to init node with kubeadm": "Most often memory or disk is short, or cgroups are not delegated: "
    "https://kind.sigs.k8s.io/docs/user/known-issues/",
    "too many open files": "Raise the limits: "
    "sudo sysctl fs.inotify.max_user_instances=1024 fs.inotify.max_user_watches=524288",
}  # fmt: skip


def kubectl(context: str, *arguments: str) -> tuple[str, ...]:
    """Return a kubectl command for this kube context."""
    return ("kubectl", "--context", context, *arguments)


def output_of(*command: str, **options) -> str:
    """Run a program and return what it printed.

    Raises:
        StepError: it failed; with its last lines.
    """
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", **options)
    if done.returncode:
        raise StepError(_failed(command, (done.stdout + done.stderr).splitlines()))
    return done.stdout.strip()


def succeeds(*command: str) -> bool:
    """Return whether a program ends without an error."""
    return subprocess.run(command, capture_output=True).returncode == 0


def run_shown(*command: str, **options) -> None:
    """Run a program and print each line at once, indented.

    Raises:
        StepError: it failed; with its last lines.
    """
    last: deque[str] = deque(maxlen=LAST_LINES)
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", **options,
    ) as process:  # fmt: skip
        for line in process.stdout or ():
            last.append(line.rstrip())
            print(f"      {last[-1]}", flush=True)
    if process.returncode:
        raise StepError(_failed(command, last))


def _failed(command: tuple[str, ...], printed: list[str] | deque[str]) -> str:
    text = "\n".join(f"  {line}" for line in list(printed)[-LAST_LINES:])
    advice = next((advice for part, advice in ADVICE.items() if part in text), "")
    return "\n".join(filter(None, (f"{' '.join(command)} failed:", text, advice)))
