"""Check requests before MLflow's scoring server gets them in `make serve`; a refusal says what is wrong."""

import json
import logging
from collections.abc import AsyncIterator
from contextlib import suppress

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 2**29
"""Of a request's body, and of all that are under way: a scan of 384 MiB in base64, above what a brain scan takes."""


class Refusal(Exception):
    """A request that is not answered: the HTTP status and the reason in a sentence."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Requests:
    """Hand a request on to `app` once its body is whole and has the right form; no answer shows a stack trace."""

    def __init__(self, app: ASGIApp, right_form: str):
        self.app, self.right_form = app, right_form
        self.bytes_under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        taken = 0
        try:
            if "origin" in headers:
                raise Refusal(403, "requests from web pages are refused")
            self._check_size(int(headers.get("content-length", 0)))
            parts = []
            async for part in _parts(receive):
                parts.append(part)
                taken += len(part)
                self.bytes_under_way += len(part)
                self._check_size(taken)
            body = b"".join(parts)
            del parts
            if scope["path"] == "/invocations":
                self._check_form(headers.get("content-type", ""), body)
            await self.app(scope, _whole(body, receive), _without_stack_trace(send))
        except Refusal as refusal:
            await _refuse(refusal.status, str(refusal))(scope, receive, send)
        except Exception as error:  # the outermost door of a request
            logging.exception("a request was not answered")
            await _refuse(500, f"unexpected {type(error).__name__}; make serve shows more")(scope, receive, send)
        finally:
            self.bytes_under_way -= taken

    def _check_size(self, size: int) -> None:
        if size > MOST_BYTES:
            raise Refusal(413, f"the request is larger than {MOST_BYTES >> 20} MiB. Send fewer scans in it, or segment "
                               "them as files: make predict.")  # fmt: skip
        if self.bytes_under_way > MOST_BYTES:
            raise Refusal(503, f"the requests under way are larger than {MOST_BYTES >> 20} MiB in all. Send it again "
                               "when they are answered.")  # fmt: skip

    def _check_form(self, content_type: str, body: bytes) -> None:
        if not content_type:
            raise Refusal(415, "the request names no Content-Type. Send application/json.")
        if "json" not in content_type.lower():
            return
        try:
            content = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise Refusal(400, f"the request is not valid JSON ({error}): {self.right_form}") from error
        if not (isinstance(content, dict) and isinstance(content.get("dataframe_split"), dict)):
            raise Refusal(400, f"the scan was not sent in the form that is answered: {self.right_form}")


def _refuse(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error_code": "BAD_REQUEST", "message": message}, status)


async def _parts(receive: Receive) -> AsyncIterator[bytes]:
    """The body of a request, as it comes."""
    more = True
    while more:
        message = await receive()
        more = message["type"] == "http.request" and message.get("more_body", False)
        yield message.get("body", b"")


def _whole(body: bytes, receive: Receive) -> Receive:
    """Give the body that was read; after it what else comes, such as the end of the connection."""
    given = False

    async def give() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return give


def _without_stack_trace(send: Send) -> Send:
    """Send answers on; of MLflow's errors, which are JSON, without the stack trace."""
    start: Message = {}
    error = b""

    async def send_on(message: Message) -> None:
        nonlocal start, error
        if message["type"] == "http.response.start" and message["status"] >= 400:
            start = message
        elif not start:
            await send(message)
        else:
            error += message.get("body", b"")
            if not message.get("more_body", False):
                await _send_error(start, error, send)

    return send_on


async def _send_error(start: Message, body: bytes, send: Send) -> None:
    headers = [(name, value) for name, value in start["headers"] if name != b"content-length"]
    with suppress(ValueError):  # else it is a line of text
        content = json.loads(body)
        if isinstance(content, dict):
            body = json.dumps({name: value for name, value in content.items() if name != "stack_trace"}).encode()
    headers.append((b"content-length", str(len(body)).encode()))
    await send({**start, "headers": headers})
    await send({"type": "http.response.body", "body": body})
