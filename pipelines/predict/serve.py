"""`make serve`: run a registered model in MLflow's own scoring server, on this machine only."""

import os
from pathlib import Path

from components.artifacts.synthetic import WARNING
from components.core.errors import StepError
from pipelines.ports import HOST, free_port_near, is_free, is_port
from pipelines.predict.registered_model import RegisteredSegmenter

REQUEST_SECONDS = 600
"""For a large scan on a CPU; MLflow's own limit is a minute."""


def serve(model: str, port: str, state: Path, place: str = "local", digest: str = "") -> None:
    """Answer until Ctrl-C; prints the request that it answers. `digest`: see `RegisteredSegmenter`.

    Raises:
        StepError: the model does not exist, or the port is invalid or taken.
    """
    number = _port(port)
    segmenter = RegisteredSegmenter(model, state, place, digest)
    os.environ.setdefault("MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT", str(REQUEST_SECONDS))
    import uvicorn
    from mlflow.pyfunc import scoring_server

    url = f"http://{HOST}:{number}"
    print(f"{segmenter.uri} answers at {url}; Ctrl-C stops it. Research use only. A request:\n")
    print(request(url, segmenter.columns), flush=True)
    if segmenter.synthetic:
        print(f"This model {WARNING}.", flush=True)
    app = guarded(scoring_server.init(segmenter.model), segmenter.columns)
    uvicorn.run(app, host=HOST, port=number, log_level="warning")
    print("stopped", flush=True)


def guarded(app, columns: list[str]):
    """The app, closed to web pages: to a name that was made to point here, and to another page's script.

    A request that is too large, or JSON in another form than `dataframe_split`, is refused with a reason: MLflow would
    not decode the file.
    """
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from pipelines.predict.middleware import Requests

    app.add_middleware(Requests, right_form=right_form(columns))
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False)
    return app


def right_form(columns: list[str]) -> str:
    """Return in words which request is answered."""
    named, files = (
        ", ".join(f'"{text}"' for text in texts) for texts in (columns, [f"{c} in base64" for c in columns])
    )
    return (
        f'send {{"dataframe_split": {{"columns": [{named}], "data": [[{files}]]}}}}, as the request that make serve '
        'prints does ("inputs", "instances" and others are not answered).'
    )


def request(url: str, columns: list[str]) -> str:
    """Shell commands that send scan.nii.gz (and adc.nii.gz, where the model sees it) and write mask.nii.gz."""
    names, slots = (", ".join([f'"{word}"' for word in words]) for words in (columns, ["%s"] * len(columns)))
    files = " ".join(f"\"$(base64 < {column}.nii.gz | tr -d '\\n')\"" for column in columns)
    return f"""\
printf '{{"dataframe_split": {{"columns": [{names}], "data": [[{slots}]]}}}}' {files} > request.json
curl -sS --noproxy '*' -H 'Content-Type: application/json' --data-binary @request.json {url}/invocations > answer.json
python3 -c 'import base64, json; answer = json.load(open("answer.json")); row = answer.get("predictions", [answer])[0]
"mask" in row and open("mask.nii.gz", "wb").write(base64.b64decode(row.pop("mask"))); print(row)'
"""


def _port(text: str) -> int:
    if not is_port(text):
        raise StepError(
            f"SERVE_PORT is {text!r}, not a port from 1024 to 65535. Choose one: make serve SERVE_PORT=5001"
        )
    if not is_free(int(text)):
        other = free_port_near(int(text))
        raise StepError(
            f"port {text} on {HOST} is taken by another program. Choose another: make serve SERVE_PORT={other}"
        )
    return int(text)
