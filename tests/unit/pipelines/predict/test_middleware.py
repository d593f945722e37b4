"""What `make serve` reads of a request before MLflow sees it, and what of MLflow's answer leaves."""

import asyncio
import json

import pytest

from pipelines.predict import middleware
from pipelines.predict.middleware import Requests

FRAME = b'{"dataframe_split": {"columns": ["scan"], "data": [["AAAA"]]}}'


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(middleware, "MOST_BYTES", 1000)


async def send(server, parts: list[bytes], wait=None, **headers: str) -> tuple[int, str]:
    """Send a request in parts, after the first one once `wait` is set: the status and the body of the answer."""
    left, answer = list(parts), {}

    async def receive():
        if wait and len(left) < len(parts):
            await wait.wait()
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def answered(message):
        answer["status"] = message.get("status") or answer["status"]
        answer["body"] = answer.get("body", b"") + message.get("body", b"")

    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "path": "/invocations", "method": "POST", "headers": named}
    await server(scope, receive, answered)
    return answer["status"], answer["body"].decode()


def app(status: int = 200, body: bytes = b"", error: Exception | None = None):
    """What stands behind: it answers so, or with the request's own body."""

    async def answer(scope, receive, send):
        got = (await receive())["body"]
        if error:
            raise error
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"9")]})
        for part in (body[:5], body[5:]) if body else (got,):
            await send({"type": "http.response.body", "body": part, "more_body": body[5:] != part and bool(body)})

    return answer


def test_a_request_of_the_right_form_arrives_whole():
    server = Requests(app(), "send this")
    assert asyncio.run(send(server, [FRAME[:10], FRAME[10:]], content_type="application/json")) == (200, FRAME.decode())


@pytest.mark.parametrize("length", [{}, {"content_length": "1001"}], ids=["chunked", "with its length"])
def test_a_large_body_is_refused_at_the_limit(length):
    parts = [b" " * 600] * 9
    server = Requests(app(), "send this")
    status, said = asyncio.run(send(server, parts, content_type="text/csv", **length))
    assert status == 413 and "larger than" in said and "make predict" in said
    assert server.bytes_under_way == 0
    assert asyncio.run(send(server, [b" " * 1000], content_type="text/csv"))[0] == 200


def test_requests_that_are_large_together_wait():
    async def both() -> tuple[tuple[int, str], tuple[int, str]]:
        server, go = Requests(app(), "send this"), asyncio.Event()
        first = asyncio.create_task(send(server, [b" " * 600, b" "], wait=go, content_type="text/csv"))
        await asyncio.sleep(0)
        second = await send(server, [b" " * 600], content_type="text/csv")
        go.set()
        return await first, second

    first, (status, said) = asyncio.run(both())
    assert first[0] == 200 and status == 503 and "Send it again" in said


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 100_000, b'{"a":' * 100_000, b"", b"NaN", b"[]"])
def test_what_is_no_json_or_none_of_the_form_gets_the_form(body, monkeypatch):
    monkeypatch.setattr(middleware, "MOST_BYTES", 10**6)
    status, said = asyncio.run(send(Requests(app(), "send this"), [body], content_type="application/json"))
    assert status == 400 and "send this" in said


def test_without_a_content_type_it_says_which():
    assert asyncio.run(send(Requests(app(), ""), [b"x"]))[0] == 415


@pytest.mark.parametrize("extra", [{}, {"stack_trace": "Traceback ..."}])
def test_an_error_leaves_without_its_stack_trace(extra):
    body = json.dumps({"error_code": "BAD_REQUEST", "message": "no scan"} | extra).encode()
    status, said = asyncio.run(send(Requests(app(400, body), ""), [FRAME], content_type="application/json"))
    assert (status, json.loads(said)) == (400, {"error_code": "BAD_REQUEST", "message": "no scan"})


@pytest.mark.parametrize("text", ["Request processing time exceeded limit", "[1, 2, 3, 4]"])
def test_an_error_in_other_form_leaves_as_it_is(text):
    server = Requests(app(504, text.encode()), "")
    assert asyncio.run(send(server, [FRAME], content_type="application/json")) == (504, text)


def test_a_fault_of_the_server_is_a_sentence():
    server = Requests(app(error=TypeError("secret")), "")
    status, said = asyncio.run(send(server, [FRAME], content_type="application/json"))
    assert status == 500 and "unexpected TypeError" in said and "secret" not in said and server.bytes_under_way == 0
