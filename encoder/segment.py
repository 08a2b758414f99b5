"""Photos to class maps in a cache: what it holds is skipped, decoding in threads overlaps the model."""

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import torch

from encoder.config import DECODERS, MAP_EDGE, MAX_PIXELS, SEGMENT_BATCH, SHARD_MAPS, check_max_pixels
from encoder.failures import Failures
from encoder.images import BadImage
from encoder.reading import ReadLimits, read_bytes
from encoder.segmentation import Segmenter
from encoder.segmentation_cache import CacheWriter, MapOrigin, content_digest, write_cache
from encoder.segmenter_input import PreparedPhoto
from indexer.errors import InputError, WorkError
from indexer.jobs.stopping import StopSignal, stopping
from indexer.photos.photo import Photo

_BATCHES_AHEAD = 3  # prepared batches that may wait for the model; bounds the memory
_BATCHES_OPEN = 4  # and as many, of photos of different shapes, for others of theirs
# Faults that lie in the file's content, whoever reads it again. A photo that is too large is so for one --max-pixels.
_LASTING = {"not_an_image", "damaged", "unreadable"}


@dataclass(frozen=True, slots=True)
class SegmentConfig:
    """How photos go through the segmenter."""

    batch_size: int = SEGMENT_BATCH  # photos in one forward pass, at most: all of them have one shape
    workers: int = DECODERS  # decoding threads
    map_edge: int = MAP_EDGE  # pixels of a map's shorter edge, less where the photo is smaller
    shard_maps: int = SHARD_MAPS  # maps in one tar
    max_pixels: int = MAX_PIXELS  # larger photos are refused
    limits: ReadLimits = field(default_factory=ReadLimits)

    def __post_init__(self) -> None:
        check_max_pixels(self.max_pixels)
        for name in ("batch_size", "workers", "map_edge", "shard_maps"):
            value = getattr(self, name)
            if value < 1:
                raise InputError(f"--{name.replace('_', '-')} must be at least 1, not {value}.")


@dataclass(frozen=True, slots=True)
class SegmentSummary:
    """What segmenting did. rows = new + known + failed, always."""

    rows: int
    new: int  # segmented now
    known: int  # in the cache before, or earlier in the table under another name
    failed: Mapping[str, int]  # reason code -> photos, those that had failed before included
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class _Photo:
    """A photo that was read; `prepared` is None where its map is known."""

    digest: str
    prepared: PreparedPhoto | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Failure:
    """A photo that cannot be segmented; `digest` is None where that is known, or says nothing of its content."""

    problem: BadImage
    digest: str | None = None


def segment_photos(
    segmenter: Segmenter,
    photos: Iterable[Photo],
    out: Path,
    *,
    config: SegmentConfig,
    advance: Callable[[int], None] = lambda photos: None,
) -> SegmentSummary:
    """Segment the photos of a source that a cache folder lacks.

    advance: called with the number of photos done since the last call.

    Raises:
        InputError: `out` cannot be written, holds something else, or another process is writing to it.
        BundleMismatch: `out` holds maps of another segmenter.
        WorkError: the disk is full, or the device's memory.
        Stopped: the process was asked to end; the maps it made are kept.
    """
    started = time.perf_counter()
    origin = MapOrigin(segmenter.digest, segmenter.name, segmenter.class_names, config.map_edge)
    # Around the cache: it writes its last shard while SIGTERM is still heard, which would cost that shard.
    with stopping() as stop, write_cache(out, origin, shard_maps=config.shard_maps) as cache:
        work = _Work(segmenter, cache, config.batch_size, advance, stop)
        with closing(_read(photos, segmenter, cache, config)) as results:
            rows = 0
            for name, result in results:
                if isinstance(result, _Failure):
                    work.fail(result, name=name or f"row {rows}")
                else:
                    work.take(result)
                rows += 1
                work.check()
        work.finish()
    assert work.new + work.known + work.failed.total() == rows, "rows in are not rows out"
    return SegmentSummary(rows, work.new, work.known, dict(work.failed), time.perf_counter() - started)


@dataclass(slots=True, eq=False)
class _Work:
    """Photos on their way through the model, and what became of the others."""

    segmenter: Segmenter
    cache: CacheWriter
    batch_size: int
    advance: Callable[[int], None]
    stop: StopSignal
    new: int = 0
    known: int = 0
    failed: Failures = field(default_factory=Failures)
    waiting: dict[str, PreparedPhoto] = field(default_factory=dict)  # by digest, in order

    def fail(self, failure: _Failure, *, name: str) -> None:
        self.failed.add(name, failure.problem.code, failure.problem.reason)
        if failure.digest is not None:
            self.cache.fail(failure.digest, failure.problem)
        self.advance(1)

    def take(self, photo: _Photo) -> None:
        # Asked again: a copy of it may have been read at the same time.
        if photo.prepared is None or photo.digest in self.waiting or self.cache.has(photo.digest):
            self.known += 1
            self.advance(1)
            return
        self.waiting[photo.digest] = photo.prepared
        shapes = Counter(prepared.pixels.shape for prepared in self.waiting.values())
        shape, count = shapes.most_common(1)[0]
        if count == self.batch_size or len(self.waiting) == _BATCHES_OPEN * self.batch_size:
            self._segment(shape)

    def finish(self) -> None:
        while self.waiting:
            self._segment(next(iter(self.waiting.values())).pixels.shape)
            self.check()

    def check(self) -> None:
        """Raise Stopped where the process was asked to end. Photos that wait for their batch are left to the next."""
        self.stop.check(self.cache.folder, kept="the maps that are done are kept")

    def _segment(self, shape: tuple[int, ...]) -> None:
        """Segment all photos of one shape that wait."""
        batch = {digest: photo for digest, photo in self.waiting.items() if photo.pixels.shape == shape}
        try:
            maps = self.segmenter.maps(list(batch.values()))
        except torch.OutOfMemoryError as error:
            raise WorkError(
                f"The device has too little memory for {len(batch)} photos of {shape[1]} x {shape[0]} pixels. "
                "Run again with a smaller --batch-size; maps that are done are kept."
            ) from error
        for digest, classes in zip(batch, maps, strict=True):
            del self.waiting[digest]
            self.cache.add(digest, classes)
        self.new += len(batch)
        self.advance(len(batch))


def _read(
    photos: Iterable[Photo], segmenter: Segmenter, cache: CacheWriter, config: SegmentConfig
) -> Generator[tuple[str, _Photo | _Failure], None, None]:
    """The name of each photo, in order, and the photo ready for the model unless the cache knows it."""

    def prepare(photo: Photo) -> _Photo | _Failure:
        digest = None
        try:
            content = read_bytes(photo.data, config.limits)
            digest = content_digest(content)
            try:
                if cache.has(digest):
                    return _Photo(digest)
            except BadImage as problem:
                return _Failure(problem)
            prepared = segmenter.input.read(content, map_edge=config.map_edge, max_pixels=config.max_pixels)
            return _Photo(digest, prepared)
        except BadImage as problem:
            return _Failure(problem, digest if problem.code in _LASTING else None)

    waiting: deque[tuple[str, Future[_Photo | _Failure]]] = deque()
    with ThreadPoolExecutor(config.workers, thread_name_prefix="decode") as pool:
        try:
            for photo in photos:
                waiting.append((photo.name, pool.submit(prepare, photo)))
                if len(waiting) > _BATCHES_AHEAD * config.batch_size:
                    name, future = waiting.popleft()
                    yield name, future.result()
            while waiting:
                name, future = waiting.popleft()
                yield name, future.result()
        finally:
            for _, future in waiting:  # the caller stopped early
                future.cancel()
