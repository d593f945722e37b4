"""Show the link with which a browser logs in to our MLflow. It works for everyone, so only a terminal gets it."""

import os
import sys

import requests

from components.registry.tracking import TOKEN
from pipelines.target_name import LOCAL, as_argument

ANSWER_SECONDS = 10


def show(uri: str, place: str = LOCAL) -> bool:
    """Print a login link of the MLflow at `uri`, or how to get one if no person reads the output.

    Returns:
        whether there is a link: an MLflow that we did not start has none.
    """
    if not (code := _code(uri)):
        return False
    if sys.stdout.isatty():
        print(f"  log in {uri.rstrip('/')}/login#{code}")
        print(f"         once, within an hour; for another link: make mlflow{as_argument(place)}", flush=True)
    else:
        print(
            f"  log in make mlflow{as_argument(place)}, in a terminal, shows a link that logs a browser in", flush=True
        )
    return True


def _code(uri: str) -> str:
    """Return the code of a new link; "" if this MLflow gives none."""
    login = {"Authorization": f"Bearer {os.environ.get(TOKEN, '')}"}
    try:
        answer = requests.post(f"{uri.rstrip('/')}/login/code", headers=login, timeout=ANSWER_SECONDS)
    except requests.RequestException:
        return ""
    return answer.text if answer.status_code == requests.codes.ok else ""
