"""What a request's photos pass: decoding in processes, the encoder, the search. Photos of many requests go together.

In: the bytes of photos and a leased version. Out: an answer to each photo. Each stage works on its own, so that photos
are decoded while others are encoded and searched for. A process that dies in the first stage fails all who wait for it;
it is started anew, and until then nothing is ready.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from encoder.config import CropName
from encoder.encode import PhotoEncoder
from encoder.photos.decoded_batch import pack
from encoder.photos.decoders import decode_one, decoders
from encoder.photos.photo_reader import DecodedPhoto, PhotoReader
from indexer.bundles.bundle import Bundle
from indexer.errors import BadImage, WorkError
from indexer.photos.photo import Photo
from indexer.vectors.features import FeatureBatch, joined
from search.answers.answer import Answer
from search.answers.options import SearchOptions
from search.answers.precision_cap import CoarseCells
from search.retrieval.posterior import Posterior
from search.service.batcher import REST_S, Batcher, StageDied
from search.service.versions import OpenedVersion

log = logging.getLogger(__name__)
T = TypeVar("T")

_Observe = Callable[[str, int, float], None]  # a stage's name, rows of a batch, its seconds


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of some photos. Photos of equal questions are answered together."""

    version: OpenedVersion  # by identity: answers of two versions are never mixed
    crops: CropName
    options: SearchOptions
    k: int = 1
    claim: tuple[str, float | None] | None = None  # a place, and within how many km: to be checked, not answered
    posterior: bool = False  # as GeoJSON, in place of an answer


@dataclass(frozen=True, slots=True, eq=False)
class _Drawing:
    """What a map of posteriors is drawn from."""

    bundle: Bundle
    coarse: CoarseCells | None  # of a precision cap
    answers: list[Answer]  # of photos that have a vector
    posterior: Posterior | None  # of these; None: there are none


class Decoding:
    """Processes that decode photos."""

    def __init__(self, reader: PhotoReader, *, workers: int, observe: _Observe) -> None:
        self._reader, self._workers, self._observe = reader, workers, observe
        self._opened = ExitStack()
        self._pool: ProcessPoolExecutor | None = None
        self._starting: asyncio.Task[None] | None = None
        self.deaths = 0

    @property
    def ready(self) -> bool:
        """Whether photos are decoded at present."""
        return self._pool is not None

    async def start(self) -> None:
        """Start the processes, and wait until they are there. Raises WorkError where they do not start."""

        def opened() -> tuple[ProcessPoolExecutor, list[Future[Any]]]:  # it waits for processes: not in the loop
            pool, nothing = self._opened.enter_context(decoders(self._reader, self._workers)), Photo("", b"")
            return pool, [pool.submit(decode_one, nothing) for _ in range(self._workers)]

        try:
            pool, begun = await asyncio.to_thread(opened)
            await asyncio.gather(*map(asyncio.wrap_future, begun))
        except (BrokenExecutor, OSError) as error:
            raise WorkError(f"The processes that decode photos do not start: {error}") from None
        self._pool = pool

    async def __call__(self, photos: Sequence[Photo], encode: PhotoEncoder) -> list[DecodedPhoto | BadImage]:
        """The pixels of photos for an encoder, or what is wrong with them. Raises StageDied where a process died."""
        pool, loop = self._pool, asyncio.get_running_loop()
        if pool is None:
            raise StageDied("the processes that decode photos are starting again; try again in a moment")
        resizing = encode.encoder.preprocessing.resizing(encode.crops)
        started = loop.time()
        try:
            waiting = [asyncio.wrap_future(pool.submit(decode_one, photo, resizing)) for photo in photos]
            decoded = await asyncio.gather(*waiting)
        except BrokenExecutor:
            self._begin_again(pool)
            raise StageDied("a process that decoded photos died, of too little memory or of one of them") from None
        self._observe("decode", len(photos), loop.time() - started)
        return decoded

    def close(self) -> None:
        """End the processes."""
        if self._starting is not None:
            self._starting.cancel()
        self._pool = None
        self._opened.close()

    def _begin_again(self, broken: ProcessPoolExecutor) -> None:
        if self._pool is not broken:  # somebody else who waited has seen to it
            return
        self.deaths += 1
        self._pool = None
        self._starting = asyncio.create_task(self._restart())

    async def _restart(self) -> None:
        """Until they are there."""
        log.error("a process that decoded photos died; all of them start again")
        while True:
            await asyncio.to_thread(self._opened.close)
            try:
                await self.start()
            except WorkError as error:
                log.error("%s", error)
                await asyncio.sleep(REST_S)
            else:
                return


class Stages:
    """The way of photos, and of vectors, to their answers."""

    def __init__(
        self,
        encoders: Mapping[CropName, PhotoEncoder],
        reader: PhotoReader,
        *,
        workers: int,
        most: int,
        wait_s: float,
        observe: _Observe,
    ) -> None:
        """Only inside a running event loop. most: photos in a batch. wait_s: of a photo, for others."""
        self._encoders = encoders
        self.decoding = Decoding(reader, workers=workers, observe=observe)
        self.encoding: Batcher[tuple[Photo, DecodedPhoto | BadImage], FeatureBatch] = Batcher(
            self._encode, name="encode", most=most, wait_s=wait_s, observe=observe
        )
        # A batch of the encoder comes as a whole, so that nothing is gained by waiting for more.
        self.searching: Batcher[FeatureBatch, Any] = Batcher(
            self._search, name="search", most=max(most, 256), wait_s=0, size=len, observe=observe
        )
        self.drawing: Batcher[_Drawing, bytes] = Batcher(_drawn, name="draw", most=1, wait_s=0, observe=observe)

    @property
    def _batchers(self) -> tuple[Batcher[Any, Any], ...]:
        return self.encoding, self.searching, self.drawing

    @property
    def faults(self) -> dict[str, str]:
        """The stages that do not work at present, and why."""
        faults = {each.name: each.died for each in self._batchers if each.died is not None}
        if not self.decoding.ready:
            faults["decode"] = "its processes are starting"
        return faults

    @property
    def waiting(self) -> dict[str, int]:
        """How many rows wait for each stage that gathers them."""
        return {each.name: len(each) for each in self._batchers}

    @property
    def deaths(self) -> dict[str, int]:
        """How often each stage died."""
        return {"decode": self.decoding.deaths, **{each.name: each.deaths for each in self._batchers}}

    async def start(self) -> None:
        """Be ready for photos."""
        await self.decoding.start()

    async def close(self) -> None:
        """End all stages; who still waits is told so."""
        self.decoding.close()
        for each in self._batchers:
            await each.close()

    async def vectors(self, photos: Sequence[Photo], crops: CropName) -> FeatureBatch:
        """The vectors of photos, and what is wrong with those that have none. Raises StageDied, GeoError."""
        decoded = await self.decoding(photos, self._encoders[crops])
        return joined(await self.encoding(crops, list(zip(photos, decoded, strict=True))))

    async def check(self, question: Question) -> None:
        """Raises GeoError where a question makes no sense, before anybody decodes photos for it; and StageDied."""
        nothing = FeatureBatch(
            [], np.empty((0, question.version.bundle.model.geocells.width), np.float32), [], [], *np.empty((2, 0))
        )
        if question.claim is not None or question.k != 1 or question.options.constrained:
            await self.searching(question, [nothing])

    async def answers(self, question: Question, batch: FeatureBatch) -> Any:
        """The answers to photos whose vectors are known, or their claims checked: for each a dict, as JSON has it.

        Of a posterior the text of GeoJSON. Raises StageDied, GeoError.
        """
        (result,) = await self.searching(question, [batch])
        if question.posterior:
            (result,) = await self.drawing(None, [result])
        return result

    def _encode(self, crops: Hashable, items: list[tuple[Photo, DecodedPhoto | BadImage]]) -> list[FeatureBatch]:
        batch = self._encoders[crops](pack(items))  # type: ignore[index]
        return [batch.take([row]) for row in range(len(batch))]

    def _search(self, question: Hashable, batches: list[FeatureBatch]) -> list[Any]:
        assert isinstance(question, Question)
        locator = question.version.locator(question.crops, question.options)
        together = joined(batches)
        if question.claim is not None:
            place, within_km = question.claim
            claim = locator.claim(place, within_km=within_km)
            rows: list[Any] = [each.to_dict() for each in locator.checked(together, claim)]
        else:
            locator.engine.check_k(question.k)
            answers = locator.answers(together, k=question.k)
            if question.posterior:
                return [
                    _Drawing(
                        locator.engine.bundle,
                        locator.engine.coarse,
                        [answer for answer in part if answer.ok],
                        locator.posterior(batch, k=question.k) if batch.ok.any() else None,
                    )
                    for batch, part in zip(batches, _parts(answers, batches), strict=True)
                ]
            rows = [answer.to_dict() for answer in answers]
        return [[each | {"row": row} for row, each in enumerate(part)] for part in _parts(rows, batches)]


def _parts(rows: list[T], batches: list[FeatureBatch]) -> list[list[T]]:
    """The rows of each batch."""
    ends = np.cumsum([len(batch) for batch in batches]).tolist()
    return [rows[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def _drawn(_: Hashable, items: list[_Drawing]) -> list[bytes]:
    """Posteriors of photos as GeoJSON, as `python -m search query --geojson` writes them, but for ids of cells.

    An id has more digits than JSON's readers keep; `key` says the same.
    """
    from search.answers.posterior_map import posterior_frame  # the extra `export` is for those who use it

    drawn = list[bytes]()
    for item in items:
        assert item.posterior is not None, "nobody asks for a map of no photo"
        hierarchy = item.bundle.hierarchy
        frame = posterior_frame(
            hierarchy,
            [answer.photo for answer in item.answers],
            item.posterior,
            level=len(hierarchy.levels) - 1,
            coarse=item.coarse,
            gallery=[answer.gallery for answer in item.answers],
        )
        features = json.loads(frame.drop(columns="s2_id").to_json(na="null", drop_id=True))["features"]
        collection = {"type": "FeatureCollection", "bundle": item.bundle.version, "features": features}
        drawn.append(json.dumps(collection, ensure_ascii=False, separators=(",", ":")).encode())
    return drawn
