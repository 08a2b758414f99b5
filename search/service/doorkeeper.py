"""Before every route: who may come in, how long it may take, what headers an answer has; and what errors say."""

import asyncio
import logging
import time

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from indexer.errors import InputError
from search.service.access import Caller, Refused, header_map
from search.service.admission import Full
from search.service.service import Service
from search.service.tokens import Asker
from search.service.uploads import BadUpload

log = logging.getLogger(__name__)

GONE = 499  # in metrics: the client went away
# For those who watch over it, who have no token, and for the page, which asks for one.
_OPEN = frozenset({"/", "/healthz", "/readyz"})
_RETRY_S = 2  # after a stage died
# Nothing of a page comes from elsewhere or runs that is not a file of ours; no other page shows ours in a frame.
_HEADERS = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


class Doorkeeper:
    """Looks at each request before its body is read, sets headers, counts, and ends what takes too long."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await self._answer(dict(scope), receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, seconds = time.perf_counter(), self._service.options.timeout_s
        answered, received = _Answered(send, bodyless=scope["method"] == "HEAD"), _Received(receive)
        error: Exception
        try:
            if scope["method"] == "HEAD":  # as GET, and nothing of the body is sent
                scope["method"] = "GET"
            scope["state"] = {**scope.get("state", {}), "asker": self._let_in(scope)}
            async with asyncio.timeout(seconds):
                await self._app(scope, received, answered)
        except TimeoutError:
            error = Refused(504, f"It took longer than {seconds:g} s. Send fewer photos.")
            if scope["method"] == "POST" and not received.whole:
                error = Refused(408, f"The request did not arrive within {seconds:g} s.", {"Connection": "close"})
            await _say(error, scope, receive, answered)
        except Refused as refused:
            await _say(refused, scope, receive, answered)
        except Exception as unknown:
            log.exception("an error of the service, answered with 500", exc_info=unknown)
            error = Refused(500, "The service failed, and its log says why; the request may be fine.")
            await _say(error, scope, receive, answered)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            metrics = self._service.metrics
            metrics.requests.labels(route, str(answered.status or GONE)).inc()
            metrics.request_seconds.labels(route).observe(time.perf_counter() - started)

    def _let_in(self, scope: Scope) -> Asker | None:
        """Who asks; None: somebody without a token, who may know whether it works. Raises Refused."""
        access, caller = self._service.access, Caller(scope["method"], scope["scheme"], header_map(scope["headers"]))
        access.check_host(caller)
        access.check_origin(caller)
        return access.known(caller) if _is_open(scope["path"]) else access.asker(caller)


def _is_open(path: str) -> bool:
    return path in _OPEN or path.startswith("/static/")


async def _say(error: Exception, scope: Scope, receive: Receive, answered: "_Answered") -> None:
    """Answer with an error, unless an answer has begun."""
    if not answered.status:
        status, headers = status_of(error)
        await JSONResponse({"error": sentence_of(error)}, status, headers)(scope, receive, answered)


class _Answered:
    """Passes a response on, with our headers, and keeps its status; 0 before there is one."""

    def __init__(self, send: Send, *, bodyless: bool) -> None:
        self._send, self._bodyless, self.status = send, bodyless, 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [*message["headers"], *(each for each in _HEADERS if each[0] not in given)]
        elif self._bodyless:
            message["body"] = b""
        await self._send(message)


class _Received:
    """Passes a request on, and keeps whether all of it has come."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self.whole = receive, False

    async def __call__(self) -> Message:
        message = await self._receive()
        self.whole = self.whole or (message["type"] == "http.request" and not message.get("more_body"))
        return message


async def explained(_: Request, error: Exception) -> JSONResponse:
    """What an error of a route is answered with."""
    status, headers = status_of(error)
    return JSONResponse({"error": sentence_of(error)}, status, headers)


def status_of(error: Exception) -> tuple[int, dict[str, str]]:
    """The HTTP status that an error is answered with, and headers that go with it."""
    if isinstance(error, Refused):
        return error.status, error.headers
    if isinstance(error, BadUpload):
        return error.status, {}
    if isinstance(error, HTTPException):
        return error.status_code, dict(error.headers or {})
    if isinstance(error, ClientDisconnect):
        return GONE, {}  # which nobody hears
    if isinstance(error, Full):
        return 429, {"Retry-After": str(error.retry_s)}
    if isinstance(error, InputError):
        return 400, {}
    return 503, {"Retry-After": str(_RETRY_S)}  # a stage that died, or work that failed: memory that ran out


def sentence_of(error: Exception) -> str:
    """A sentence that explains it."""
    text = error.reason if isinstance(error, Refused | BadUpload) else str(error)
    if isinstance(error, HTTPException):
        text = f"{error.detail}: /v1/openapi.json says what there is"
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "...", "!", "?")) else ".")
