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
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
from PIL import Image

from encoder.config import CropName
from encoder.encode import PhotoEncoder
from encoder.photos.decoded_batch import pack
from encoder.photos.decoders import decode_one, decoders
from encoder.photos.photo_reader import DecodedPhoto, PhotoReader
from indexer.errors import BadImage, WorkError
from indexer.photos.photo import Photo
from indexer.vectors.features import FeatureBatch, joined
from search.answers.answer import Answer
from search.answers.claims import CheckedClaim
from search.answers.engine import Engine
from search.answers.options import SearchOptions
from search.locate import Locator
from search.pages.answer_page import answers_page, made_by, small_picture
from search.retrieval.posterior import Posterior
from search.service.batcher import REST_S, Batcher, StageDied
from search.service.versions import OpenedVersion

log = logging.getLogger(__name__)
T = TypeVar("T")

# A map beside the answers, as GeoJSON, or a page with all of it for people.
Drawn = Literal["map", "page"]
_Observe = Callable[[str, int, float], None]  # a stage's name, rows of a batch, its seconds


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of some photos. Photos of equal questions are answered together."""

    version: OpenedVersion  # by identity: answers of two versions are never mixed
    crops: CropName
    options: SearchOptions
    k: int = 1
    claim: tuple[str, float | None] | None = None  # a place, and within how many km: to be checked, not answered
    album: bool = False  # the photos are of one place, and have one answer
    drawn: Drawn | None = None  # what is drawn of the posteriors; None: nothing


@dataclass(frozen=True, slots=True, eq=False)
class PhotoVectors:
    """Photos of a request on their way from the encoder to the search."""

    batch: FeatureBatch
    # PNG of each, small; None in place of one that cannot be read. None: nobody wants them.
    pictures: Sequence[bytes | None] | None = None

    def __len__(self) -> int:
        return len(self.batch)


@dataclass(frozen=True, slots=True, eq=False)
class _Drawing:
    """What posteriors are drawn from."""

    kind: Drawn
    engine: Engine
    answers: list[Answer]
    posterior: Posterior | None  # of those of photos that have a vector; None: there are none
    pictures: Sequence[bytes | None] | None


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
        self.searching: Batcher[PhotoVectors, Any] = Batcher(
            self._search, name="search", most=max(most, 256), wait_s=0, size=len, observe=observe
        )
        self.drawing: Batcher[_Drawing, Any] = Batcher(_draw, name="draw", most=1, wait_s=0, observe=observe)

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

    async def vectors(self, photos: Sequence[Photo], crops: CropName, *, pictures: bool = False) -> PhotoVectors:
        """The vectors of photos, and what is wrong with those that have none. Raises StageDied, GeoError.

        pictures: small ones are kept, of what was decoded for the encoder.
        """
        decoded = await self.decoding(photos, self._encoders[crops])
        kept = await asyncio.to_thread(_pictures, decoded) if pictures else None
        return PhotoVectors(joined(await self.encoding(crops, list(zip(photos, decoded, strict=True)))), kept)

    async def check(self, question: Question) -> None:
        """Raises GeoError where a question makes no sense, before anybody decodes photos for it; and StageDied."""
        nothing = FeatureBatch(
            [], np.empty((0, question.version.bundle.model.geocells.width), np.float32), [], [], *np.empty((2, 0))
        )
        if question.claim is not None or question.k != 1 or question.options.constrained:
            await self.searching(replace(question, drawn=None, album=False), [PhotoVectors(nothing)])

    async def answers(self, question: Question, photos: PhotoVectors) -> tuple[list[dict[str, Any]], Any]:
        """The answers to photos whose vectors are known, or their claims checked: for each a dict, as JSON has it.

        Beside them what is drawn: GeoJSON as dicts, or the text of a page; None where nothing is. Raises StageDied,
        GeoError.
        """
        ((rows, drawing),) = await self.searching(question, [photos])
        drawn = None
        if drawing is not None:
            (drawn,) = await self.drawing(None, [drawing])
        return rows, drawn

    def _encode(self, crops: Hashable, items: list[tuple[Photo, DecodedPhoto | BadImage]]) -> list[FeatureBatch]:
        batch = self._encoders[crops](pack(items))  # type: ignore[index]
        return [batch.take([row]) for row in range(len(batch))]

    def _search(self, question: Hashable, items: list[PhotoVectors]) -> list[Any]:
        assert isinstance(question, Question)
        locator = question.version.locator(question.crops, question.options)
        if question.claim is not None:
            place, within_km = question.claim
            claim = locator.claim(place, within_km=within_km)
            checked = locator.checked(joined([each.batch for each in items]), claim)
            return [(_rows(part), None) for part in _parts(checked, items)]
        locator.engine.check_k(question.k)
        if question.album:
            parts = [locator.answers(each.batch, k=question.k, album=True) for each in items]
        else:
            parts = _parts(locator.answers(joined([each.batch for each in items]), k=question.k), items)
        return [
            (_rows(answers), _drawing(locator, question, each, answers))
            for each, answers in zip(items, parts, strict=True)
        ]


def _rows(answers: Sequence[Answer | CheckedClaim]) -> list[dict[str, Any]]:
    return [answer.to_dict() | {"row": row} for row, answer in enumerate(answers)]


def _drawing(locator: Locator, question: Question, photos: PhotoVectors, answers: list[Answer]) -> _Drawing | None:
    """What is to be drawn of answers; None where nothing is."""
    if question.drawn is None:
        return None
    posterior = None
    if photos.batch.ok.any():
        posterior = locator.posterior(photos.batch, k=question.k, album=question.album)
    pictures = photos.pictures if not question.album or photos.pictures is None else photos.pictures[:1]
    return _Drawing(question.drawn, locator.engine, answers, posterior, pictures)


def _parts(rows: Sequence[T], items: list[PhotoVectors]) -> list[list[T]]:
    """The rows of each item."""
    ends = np.cumsum([len(each) for each in items]).tolist()
    return [list(rows[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]


def _pictures(decoded: Sequence[DecodedPhoto | BadImage]) -> list[bytes | None]:
    return [
        None if isinstance(each, BadImage) else small_picture(Image.fromarray(np.asarray(each.pixels)))
        for each in decoded
    ]


def _draw(_: Hashable, items: list[_Drawing]) -> list[Any]:
    return [_geojson(item) if item.kind == "map" else _page(item) for item in items]


def _geojson(item: _Drawing) -> dict[str, Any]:
    """Posteriors as `python -m search query --geojson` writes them, with each photo's `row`, but for ids of cells.

    An id has more digits than JSON's readers keep; `key` says the same.
    """
    from search.answers.posterior_map import posterior_frame  # the extra `export` is for those who use it

    features = []
    if item.posterior is not None:
        answered = [(row, answer) for row, answer in enumerate(item.answers) if answer.ok]
        hierarchy = item.engine.bundle.hierarchy
        frame = posterior_frame(
            hierarchy,
            [str(row) for row, _ in answered],
            item.posterior,
            level=len(hierarchy.levels) - 1,
            coarse=item.engine.coarse,
            gallery=[answer.gallery for _, answer in answered],
        )
        features = json.loads(frame.drop(columns="s2_id").to_json(na="null", drop_id=True))["features"]
    for feature in features:
        row = int(feature["properties"]["photo"])
        feature["properties"] |= {"photo": item.answers[row].photo, "row": row}
    return {"type": "FeatureCollection", "bundle": item.engine.bundle.version, "features": features}


def _page(item: _Drawing) -> str:
    """The page that `python -m search query --html` writes."""
    hierarchy = item.engine.bundle.hierarchy
    return answers_page(
        hierarchy,
        item.answers,
        item.pictures or [None] * len(item.answers),
        item.posterior,
        level=len(hierarchy.levels) - 1,
        coarse=item.engine.coarse,
        made=made_by(item.engine),
    )
