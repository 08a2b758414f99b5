"""A service in this process: its own routes and stages, with a tiny real encoder, and photos decoded in a thread."""

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from encoder.config import CropName, EncoderOptions, ReadOptions
from encoder.encode import PhotoEncoder, open_encoder
from encoder.photos.photo_reader import DecodedPhoto, PhotoReader
from indexer.bundles.bundle import Bundle
from indexer.errors import BadImage
from indexer.photos.photo import Photo
from search.answers.options import DEFAULT_OPTIONS, SearchOptions
from search.service.access import Access
from search.service.admission import Admission
from search.service.app import make_app
from search.service.metrics import Metrics
from search.service.options import ServeOptions
from search.service.service import Service
from search.service.stages import Decoding, Stages
from search.service.tokens import Tokens
from search.service.versions import OpenedVersion, Versions

CROPS: tuple[CropName, ...] = ("one", "five", "ten")
Encoders = dict[CropName, PhotoEncoder]
_SECONDS = 200  # after which a test hangs, on a machine however busy


async def _at_once() -> None:
    pass


class ThreadDecoding(Decoding):
    """The same of a thread: tests do not wait for processes to start."""

    def __init__(self, reader: PhotoReader) -> None:
        super().__init__(reader, workers=1, observe=lambda *_: None)
        self._thread = ThreadPoolExecutor(1)
        self.before: Callable[[], Awaitable[Any]] = _at_once  # what it waits for

    @property
    def ready(self) -> bool:
        return True

    async def start(self) -> None:
        pass

    async def __call__(self, photos: Sequence[Photo], encode: PhotoEncoder) -> list[DecodedPhoto | BadImage]:
        await self.before()
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: [*map(self._reader, photos)])

    def close(self) -> None:
        self._thread.shutdown()


@dataclass
class Running:
    """A service that runs, and how it is asked."""

    service: Service
    decoding: ThreadDecoding
    app: FastAPI
    client: httpx.AsyncClient

    async def post(self, route: str, photos: Sequence[tuple[str, bytes]] = (), **fields: Any) -> httpx.Response:
        """Ask about photos, by their names and contents; `headers` among the fields are headers."""
        headers = fields.pop("headers", None)
        files = [("photos", each) for each in photos]
        return await self.client.post(route, files=files or None, data=fields, headers=headers)

    async def metric(self, line: str) -> float:
        """A value of /metrics, by the line that it is in."""
        text = (await self.client.get("/metrics")).text
        (value,) = [each.rpartition(" ")[2] for each in text.splitlines() if each.startswith(line + " ")]
        return float(value)


@asynccontextmanager
async def running(
    registry: Path,
    encoders: Encoders,
    *,
    options: ServeOptions = ServeOptions(),  # noqa: B008
    search: SearchOptions = DEFAULT_OPTIONS,
    tokens: Tokens | None = None,
    headers: dict[str, str] | None = None,
    now: Callable[[], float] | None = None,
    reader: Callable[[PhotoReader], PhotoReader] = lambda each: each,
) -> AsyncIterator[Running]:
    """A service, started as `search.serve` starts it, but for sockets."""
    now, metrics, read = now or asyncio.get_running_loop().time, Metrics(), ReadOptions()

    def opened(bundle: Bundle) -> OpenedVersion:
        return OpenedVersion(bundle, encoders, device="cpu", options=search, read=read)

    versions = Versions(registry, opened, look_s=0.02)
    stages = Stages(
        encoders,
        encoders["one"].reader(read),
        workers=1,
        most=options.max_batch,
        wait_s=options.batch_ms / 1000,
        observe=metrics.observe,
    )
    stages.decoding = decoding = ThreadDecoding(reader(encoders["one"].reader(read)))
    await versions.start()
    await stages.start()
    access = Access(options, tokens, port=options.port, now=now)
    room = Admission(options.max_waiting, most_bytes=int(options.max_waiting_mb * 1e6), now=now)
    service = Service(options, search, versions, stages, access, room, metrics)
    app = make_app(service)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url=f"http://127.0.0.1:{options.port}", headers=headers) as client,
    ):
        yield Running(service, decoding, app, client)


Ask = Callable[[Running], Awaitable[None]]


def served(test: Ask, registry: Path, encoders: Encoders, **options: Any) -> None:
    """Run a test of a service, which lives as long as it."""

    async def run() -> None:
        async with running(registry, encoders, **options) as service:
            await asyncio.wait_for(test(service), _SECONDS)
            assert service.service.admission.inside == service.service.admission.bytes_inside == 0

    asyncio.run(run())


@pytest.fixture(scope="session")
def encoders(encoder_world: Path) -> Encoders:
    first = open_encoder(encoder_world / "C", EncoderOptions(device="cpu"))
    return {crops: PhotoEncoder(first.encoder, crops=crops, maps=first.maps) for crops in CROPS}


def photo(seed: int, *, size: tuple[int, int] = (50, 40), kind: str = "PNG", **saved: Any) -> bytes:
    """An image file of its own."""
    pixels = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **saved)
    return stream.getvalue()
