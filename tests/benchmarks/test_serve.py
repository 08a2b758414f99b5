"""The benchmark of the service: its clients send what they are given, and what is not the same is never timed."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from benchmarks.serve import p95_of, rate, same_answers
from benchmarks.serve_clients import Response, at_rate, form, in_turn, request


@asynccontextmanager
async def echo() -> AsyncIterator[int]:
    """Answers each request with its body, those of one connection one after the other."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
                body = await reader.readexactly(length)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % length + body)
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def test_each_request_has_its_own_answer() -> None:
    async def test() -> None:
        async with echo() as port:
            bodies = [b"%d" % number * 1000 for number in range(7)]
            requests = [request(port, "/", body, "text/plain") for body in bodies]
            found = await in_turn(port, requests, clients=3, total=20)
            assert [each.body for each in found] == [bodies[number % 7] for number in range(20)]
            steady = await at_rate(port, requests, per_second=200, total=20)
            assert [each.body for each in steady] == [bodies[number % 7] for number in range(20)]
            assert all(0 < each.seconds < 5 for each in (*found, *steady))
            (sent,) = await in_turn(port, [form(port, "/", [b"one", b"two"])], clients=1, total=1)
            assert sent.body.count(b'name="photos"') == 2
            assert sent.body.endswith(b"two\r\n--b--\r\n")

    asyncio.run(test())


def test_other_answers_and_failures_are_never_timed() -> None:
    good = Response(200, json.dumps({"answers": [{"key": "a"}, {"key": "b"}]}).encode(), 0.1)
    same_answers([good], ["a", "b"])
    with pytest.raises(SystemExit, match="nothing was timed"):
        same_answers([good], ["b", "a"])
    assert rate([good] * 10, 2.0, rows=4) == 20
    with pytest.raises(SystemExit, match="1 requests failed: 429"):
        rate([good, Response(429, b"full", 0.1)], 1.0)
    assert p95_of([Response(200, b"", number / 100) for number in range(100)]) == 0.95
