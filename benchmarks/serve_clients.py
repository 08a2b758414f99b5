"""Clients of a service for `benchmarks.serve`: so plain that they take little from the machine they share with it.

In: the bytes of requests, made before. Out: what was answered, and after how many seconds.
"""

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Response:
    """What one request was answered."""

    status: int
    body: bytes
    seconds: float


class Connection:
    """One connection that stays open, with one request at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> Response:
        """Send a request and read its answer, which says how long it is."""
        started = time.perf_counter()
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        return Response(int(head[9:12]), body, time.perf_counter() - started)

    def close(self) -> None:
        """End it."""
        if self._streams is not None:
            self._streams[1].close()


def request(port: int, route: str, content: bytes, kind: str) -> bytes:
    """A POST as it goes over the wire."""
    head = f"POST {route} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}"
    return head.encode() + b"\r\n\r\n" + content


def form(port: int, route: str, photos: Sequence[bytes]) -> bytes:
    """A POST of photos."""
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="photos"; filename="{row}.jpg"\r\n\r\n'.encode() + each + b"\r\n"
        for row, each in enumerate(photos)
    ]
    return request(port, route, b"".join(parts) + b"--b--\r\n", "multipart/form-data; boundary=b")


async def in_turn(port: int, requests: Sequence[bytes], *, clients: int, total: int) -> list[Response]:
    """So many requests of clients that ask again as soon as they are answered; the answers in order of the requests."""
    numbers, found = itertools.count(), dict[int, Response]()

    async def client() -> None:
        connection = Connection(port)
        while (number := next(numbers)) < total:
            found[number] = await connection.ask(requests[number % len(requests)])
        connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return [found[number] for number in range(total)]


async def at_rate(
    port: int, requests: Sequence[bytes], *, per_second: float, total: int, clients: int = 64
) -> list[Response]:
    """So many requests at a steady rate, whether those before are answered or not.

    Their seconds count from when each was due: one that waits for a free connection of ours has waited.
    """
    free: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()
    for _ in range(clients):
        free.put_nowait(Connection(port))
    begin = time.perf_counter()

    async def ask(number: int) -> Response:
        due = begin + number / per_second
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        connection = await free.get()
        response = await connection.ask(requests[number % len(requests)])
        free.put_nowait(connection)
        return Response(response.status, response.body, time.perf_counter() - due)

    found = await asyncio.gather(*(ask(number) for number in range(total)))
    while not free.empty():
        free.get_nowait().close()
    return found
