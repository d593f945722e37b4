"""Other programs: run quietly, or with what they say shown as they say it; a failure in words."""

import subprocess
from collections import deque

from components.core.step import StepError

KEPT_LINES = 15
ADVICE = {  # what a program says, and what a person can do about it
    "no space left on device": "The disk is full: docker system df shows what docker holds, docker system prune frees.",
    "permission denied while trying to connect": "Add yourself to the group docker, and log in again.",
    "port is already allocated": "Another program has it: stop it, or change hostPort in manifests/kind/cluster.yaml.",
    "content digest": "Docker's containerd image store is at odds with kind: turn it off in docker's settings "
    "(features: containerd-snapshotter: false), and remove and build the images anew.",
    "running git fetch": "The download was too slow or was cut off.",
    "Could not resolve host": "There is no way to the internet: a proxy goes into HTTPS_PROXY.",
    "cgroup": "https://kind.sigs.k8s.io/docs/user/known-issues/ has the remedies for cgroups.",
    "failed to init node with kubeadm": "Most often memory or disk is short, or cgroups are not delegated: "
    "https://kind.sigs.k8s.io/docs/user/known-issues/",
    "too many open files": "Raise the limits: "
    "sudo sysctl fs.inotify.max_user_instances=1024 fs.inotify.max_user_watches=524288",
}  # fmt: skip


def quiet(*command: str, **options) -> str:
    """What the program printed.

    Raises:
        StepError: it failed, with what it said.
    """
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", **options)
    if done.returncode:
        raise StepError(_failed(command, (done.stdout + done.stderr).splitlines()))
    return done.stdout.strip()


def succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0


def shown(*command: str, **options) -> None:
    """Run it, each of its lines shown, indented, as it comes.

    Raises:
        StepError: it failed; its last lines, and advice where there is any.
    """
    kept: deque[str] = deque(maxlen=KEPT_LINES)
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, **output, **options) as process:
        for line in process.stdout:
            kept.append(line.rstrip())
            print(f"      {kept[-1]}", flush=True)
    if process.returncode:
        raise StepError(_failed(command, kept))


def _failed(command: tuple[str, ...], said: list[str] | deque[str]) -> str:
    text = "\n".join(f"  {line}" for line in list(said)[-KEPT_LINES:])
    advice = next((advice for sign, advice in ADVICE.items() if sign in text), "")
    return "\n".join(filter(None, (f"{' '.join(command)} failed:", text, advice)))
