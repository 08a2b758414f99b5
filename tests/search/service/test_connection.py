"""Connections of clients that do not get on: they end, and others are answered meanwhile."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from search.service.connection import Connection

GET = b"GET / HTTP/1.1\r\nHost: x\r\n"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers `/` at once, and `/slow` after longer than a header may take."""
    if scope["path"] == "/slow":
        await asyncio.sleep(0.6)
    await PlainTextResponse("ok")(scope, receive, send)


@asynccontextmanager
async def listening() -> AsyncIterator[int]:
    bound = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, http=Connection, ws="none", lifespan="off", log_config=None))
    server.capture_signals = _no_signals  # type: ignore[method-assign]
    serving = asyncio.create_task(server.serve(sockets=[bound]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield bound.getsockname()[1]
    finally:
        server.should_exit = True
        await serving


class _no_signals:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.service.connection.HEADER_S", 0.3)


async def told(port: int, *pieces: bytes, wait_s: float = 0.05, seconds: float = 5) -> bytes:
    """What is answered until the connection ends, to pieces sent one after the other."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def send() -> None:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(wait_s)

    sending = asyncio.create_task(send())
    try:
        return await asyncio.wait_for(reader.read(-1), seconds)
    except ConnectionResetError:
        return b""
    finally:
        sending.cancel()
        writer.close()


def test_headers_that_do_not_come_end_the_connection() -> None:
    async def test() -> None:
        async with listening() as port:
            drops = [bytes([byte]) for byte in GET * 10]
            silent, slow, fine = await asyncio.gather(
                told(port), told(port, *drops), told(port, GET + b"Connection: close\r\n\r\n")
            )
        assert (silent, slow) == (b"", b"")
        assert fine.startswith(b"HTTP/1.1 200")

    asyncio.run(test())


def test_an_answer_may_take_longer_than_headers() -> None:
    async def test() -> None:
        async with listening() as port:
            text = await told(port, GET.replace(b"/ ", b"/slow ") + b"\r\n")
        assert text.startswith(b"HTTP/1.1 200")
        assert text.endswith(b"ok")

    asyncio.run(test())


def test_the_next_request_of_a_connection_has_its_own_time() -> None:
    async def test() -> None:
        async with listening() as port:
            text = await told(port, *[GET + b"\r\n"] * 5, wait_s=0.15)  # 0.75 s in all
            assert text.count(b"HTTP/1.1 200") == 5
            text = await told(port, GET + b"\r\n", GET[:5])  # of the second one the beginning alone
            assert text.count(b"HTTP/1.1 200") == 1

    asyncio.run(test())


def test_what_comes_of_a_body_that_nobody_wants_ends() -> None:
    async def test() -> None:
        async with listening() as port:
            head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
            text = await told(port, head, *[b"x"] * 200)  # 10 s of it
        assert text.count(b"HTTP/1.1 200") <= 1

    asyncio.run(test())


def test_nonsense_is_400() -> None:
    async def test() -> None:
        async with listening() as port:
            for nonsense in (
                b"\x16\x03\x01\x02\x00\x01",
                b"GET\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            ):
                assert (await told(port, nonsense)).startswith(b"HTTP/1.1 400")

    asyncio.run(test())
