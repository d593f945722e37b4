"""The login of MLflow: a token for programs, and a link that logs a browser in.

A program sends the token (`Authorization: Bearer`, or as the password of `Basic`). A browser gets a link with a code
that is valid once, and for an hour. The code is behind `#`, so no log and no other site sees it. The page exchanges the
code for the token, which the browser keeps like a password for this address. A cookie would go to every port of this
machine, also to another user's.
"""

import base64
import hmac
import json
import secrets
import time
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response

LOGIN, CODE, LOGGED_IN, HEALTH = "/login", "/login/code", "/logged-in", "/health"
SECONDS = 3600
"""How long a link is valid, seconds."""
MOST_BYTES = 1000
"""Most bytes of a code in a request."""
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
NO_LOGIN = (
    "MLflow asks for a login. In a terminal, make mlflow shows a link that logs a browser in (of a cluster: make "
    "mlflow TARGET=kind or TARGET=cluster). A program sends the token in MLFLOW_TRACKING_TOKEN."
)
NO_CODE = "This link was used, or is too old. In a terminal, make mlflow shows a new one."
PAGE = """<!doctype html>
<meta charset="utf-8">
<title>MLflow</title>
<style>body { font: 16px sans-serif; margin: 4em auto; max-width: 40em }</style>
<p id="message">%s</p>
"""
LOGS_IN = """<script>
const show = text => { document.getElementById("message").textContent = text };
async function logIn() {
  const code = location.hash.slice(1);
  if (!code) return;
  history.replaceState(null, "", "login");
  const answer = await fetch("login", {method: "POST", body: code});
  if (!answer.ok) return show(await answer.text());
  const asked = new XMLHttpRequest();
  asked.open("GET", "logged-in", true, "mlflow", await answer.text());
  asked.onload = () => asked.status == 204
    ? location.replace("./#/experiments?workflowType=machine_learning") : show("This browser did not keep the login.");
  asked.onerror = () => show("MLflow does not answer.");
  asked.send();
}
addEventListener("hashchange", logIn);
logIn();
</script>
"""


class Login:
    """ASGI middleware that answers only /health and the login page without the token.

    It answers nothing to a page of another origin; another port of this machine is another origin.
    """

    def __init__(self, app, token: str):
        self.app, self.token = app, token.encode()
        self.used: dict[str, float] = {}
        """Used codes, and when they end."""

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        request = Request(scope, receive)
        answer = await self._answer(request)
        if answer is None:
            return await self.app(scope, receive, send)
        answer.headers.update(HEADERS)
        await answer(scope, receive, send)

    async def _answer(self, request: Request) -> Response | None:
        """Return the answer of this middleware; None if MLflow is to answer."""
        if _is_of_another_page(request):
            return PlainTextResponse("MLflow answers only its own pages.", 403)
        asked = (request.method, request.scope["path"])
        if asked == ("GET", HEALTH):
            return None
        if asked == ("GET", LOGIN):
            return HTMLResponse(PAGE % NO_LOGIN + LOGS_IN)
        if asked == ("POST", LOGIN):
            return await self._token_for_code(request)
        if asked == ("GET", LOGGED_IN):
            return self._logged_in(request)
        if not self._has_token(request):
            return self._refusal(request)
        if asked == ("POST", CODE):
            return PlainTextResponse(self.code())
        return None

    def code(self) -> str:
        """Return a new code of a link: its end, a random part, and a proof that this server made it."""
        content = f"{time.time() + SECONDS:.0f}.{secrets.token_urlsafe(12)}"
        return f"{content}.{self._proof(content)}"

    async def _token_for_code(self, request: Request) -> Response:
        """Answer a code that was not used yet with the token."""
        code = b""
        async for part in request.stream():
            code += part
            if len(code) > MOST_BYTES:
                return PlainTextResponse(NO_CODE, 413)
        content, _, proof = code.decode("ascii", errors="replace").rpartition(".")
        valid = hmac.compare_digest(proof.encode(), self._proof(content).encode())
        now = time.time()
        self.used = {old: ends for old, ends in self.used.items() if ends > now}
        if not valid or float(content.partition(".")[0]) < now or content in self.used:
            return PlainTextResponse(NO_CODE, 403)
        self.used[content] = float(content.partition(".")[0])
        return PlainTextResponse(self.token.decode())

    def _proof(self, content: str) -> str:
        return hmac.new(self.token, b"link " + content.encode(), "sha256").hexdigest()

    def _logged_in(self, request: Request) -> Response:
        """Answer whether the browser sends the login. No other answer asks for it, so that no login window opens."""
        if self._has_token(request):
            return Response(status_code=204)
        return PlainTextResponse("", 401, {"WWW-Authenticate": 'Basic realm="MLflow"'})

    def _has_token(self, request: Request) -> bool:
        kind, _, sent = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "basic":
            try:
                sent = base64.b64decode(sent, validate=True).decode().partition(":")[2]
            except ValueError:
                return False
        elif kind.lower() != "bearer":
            return False
        return hmac.compare_digest(sent.encode(), self.token)

    def _refusal(self, request: Request) -> Response:
        headers = {"WWW-Authenticate": 'Bearer realm="MLflow"'}
        if "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(PAGE % NO_LOGIN, 401, headers)
        body = json.dumps({"error_code": "UNAUTHENTICATED", "message": NO_LOGIN})
        return Response(body, 401, headers, "application/json")


def _is_of_another_page(request: Request) -> bool:
    """Return whether a browser sends this for a page of another origin; a click on a link to MLflow is allowed."""
    headers = request.headers
    origin = headers.get("origin")
    if origin is not None:
        return origin == "null" or urlsplit(origin).netloc.lower() != headers.get("host", "").lower()
    if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
        return False
    follows_a_link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return not (follows_a_link and request.method == "GET")
