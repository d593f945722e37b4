"""The login of MLflow, asked without a server."""

import asyncio
import base64

import pytest
from dwi_stroke_mlflow import login
from dwi_stroke_mlflow.app import create_app
from dwi_stroke_mlflow.login import Login

TOKEN = "t" * 40
HOST = "127.0.0.1:5000"


async def mlflow(scope, receive, send):
    await send({"type": "http.response.start", "status": 299, "headers": []})
    await send({"type": "http.response.body", "body": b"MLflow"})


@pytest.fixture
def ask():
    """ask("GET", "/", header="value") -> status, text."""
    app = Login(mlflow, TOKEN)

    def request(method: str, path: str, body: str = "", **headers: str) -> tuple[int, str]:
        headers = {"host": HOST} | {name.replace("_", "-"): value for name, value in headers.items()}
        scope = {
            "type": "http", "method": method, "path": path, "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }  # fmt: skip
        said = []

        async def receive():
            return {"type": "http.request", "body": body.encode(), "more_body": False}

        async def send(message):
            said.append(message)

        asyncio.run(app(scope, receive, send))
        return said[0]["status"], b"".join(message.get("body", b"") for message in said).decode()

    return request


@pytest.fixture
def code(ask) -> str:
    return ask("POST", "/login/code", authorization=f"Bearer {TOKEN}")[1]


def test_a_program_logs_in_with_the_token(ask):
    basic = base64.b64encode(f"anybody:{TOKEN}".encode()).decode()
    for sent in (f"Bearer {TOKEN}", f"bearer {TOKEN}", f"Basic {basic}"):
        assert ask("GET", "/version", authorization=sent) == (299, "MLflow")


@pytest.mark.parametrize(
    "sent", ["", TOKEN, f"Bearer {TOKEN}x", f"Bearer {TOKEN[1:]}", "Basic", "Basic dDp0", "Basic ü"]
)
def test_nobody_else_does(ask, sent):
    assert ask("GET", "/version", authorization=sent)[0] == 401


@pytest.mark.parametrize("path", ["/health/", "//health", "/health/..", "/Health", "/login/", "/login/code"])
def test_nothing_that_looks_like_an_open_page_is_open(ask, path):
    assert ask("GET", path)[0] == 401
    assert ask("POST", "/health")[0] == 401
    assert ask("GET", "/health") == (299, "MLflow")


def test_a_code_gives_the_token_once(ask, code):
    assert ask("POST", "/login", code) == (200, TOKEN)
    assert ask("POST", "/login", code) == (403, login.NO_CODE)


@pytest.mark.parametrize(
    "change", [lambda c: "", lambda c: c[:-1], lambda c: "9" + c, lambda c: "ü", lambda c: ".", lambda c: c * 20]
)
def test_a_code_that_is_not_ours_gives_nothing(ask, code, change):
    assert ask("POST", "/login", change(code))[0] in (403, 413)
    assert ask("POST", "/login", code) == (200, TOKEN)


def test_a_code_ends(ask, monkeypatch):
    monkeypatch.setattr(login, "SECONDS", -1)
    _, old = ask("POST", "/login/code", authorization=f"Bearer {TOKEN}")
    assert ask("POST", "/login", old) == (403, login.NO_CODE)


def test_no_page_shows_the_token(ask):
    for path in ("/login", "/"):
        status, page = ask("GET", path, accept="text/html")
        assert TOKEN not in page and "make mlflow" in page and status in (200, 401)


@pytest.mark.parametrize("origin", ["null", "", "http://127.0.0.1:5001", "http://127.0.0.1", "http://localhost:5000"])
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/"), ("POST", "/login"), ("OPTIONS", "/api"), ("GET", "/health")]
)
def test_another_page_gets_no_answer(ask, origin, method, path):
    assert ask(method, path, origin=origin, authorization=f"Bearer {TOKEN}")[0] == 403


@pytest.mark.parametrize("host", ["localhost:5055", "mlflow.example.org"])
def test_its_own_page_does_by_any_name(ask, host):
    for scheme in ("http", "https"):
        asked = ask("POST", "/api", host=host, origin=f"{scheme}://{host}", authorization=f"Bearer {TOKEN}")
        assert asked == (299, "MLflow")


def test_a_link_to_it_can_be_followed_and_nothing_else_of_another_page(ask):
    login, link = {"authorization": f"Bearer {TOKEN}"}, {"sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    for site in ("same-site", "cross-site"):
        assert ask("GET", "/", sec_fetch_site=site, **link, **login)[0] == 299
        assert ask("POST", "/", sec_fetch_site=site, **link, **login)[0] == 403
        assert ask("GET", "/", sec_fetch_site=site, sec_fetch_mode="no-cors", **login)[0] == 403
        assert ask("GET", "/", sec_fetch_site=site, **link | {"sec_fetch_dest": "iframe"}, **login)[0] == 403


@pytest.mark.parametrize("token", [None, "", "short"])
def test_without_a_token_there_is_no_server(token, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_TOKEN", raising=False)
    if token is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", token)
    with pytest.raises(SystemExit, match=r"32 random ones .*create-secrets\.sh"):
        create_app()
