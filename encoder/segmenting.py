"""Photos to class maps in a cache: what it holds is skipped, decoding in threads overlaps the model."""

import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from encoder.bad_images import Failures
from encoder.class_maps.cache import CacheWriter, MapOrigin, check_cache, content_digest, write_cache
from encoder.class_maps.parts import MapPart
from encoder.config import SegmentConfig
from encoder.models.device import choose_device, memory_explained
from encoder.models.segmentation import Segmenter, load_segmenter
from encoder.photos.photo_reader import PreparedPhoto
from encoder.photos.reading import read_bytes
from indexer.errors import BadImage
from indexer.jobs.progress import track
from indexer.jobs.stopping import stopping
from indexer.photos.photo import Photo
from indexer.photos.shard_cut import WHOLE, JobPart
from indexer.photos.sources import open_photos

_BATCHES_AHEAD = 3  # prepared batches that may wait for the model; bounds the memory
_BATCHES_OPEN = 4  # and as many, of photos of different shapes, for others of theirs
# Faults that lie in the file's content, whoever reads it again. A photo that is too large is so for one `max_pixels`.
_LASTING = {"not_an_image", "damaged", "unreadable"}


@dataclass(frozen=True, slots=True)
class SegmentSummary:
    """What segmenting did. rows = new + already_there + failed, always."""

    segmenter: str  # digest
    rows: int
    new: int  # segmented now
    already_there: int  # in the cache before, or earlier in the table under another name
    failed: Mapping[str, int]  # reason code -> photos, those that had failed before included
    seconds: float


class _Read(NamedTuple):
    """What became of one photo when it was read."""

    name: str
    digest: str | None  # of its file; None where what is wrong is known or says nothing of its content
    found: PreparedPhoto | BadImage | None  # what the model sees, or what is wrong; None where its map is known


def segment(
    photos: str | Path, model: str | Path, out: str | Path, *, config: SegmentConfig | None = None
) -> SegmentSummary:
    """Segment photos into class maps, in a folder that is added to: photos it knows are skipped.

    Args:
        photos: table (.parquet, .csv), folder of images, or tar shards; a path or a URI.
        model: a OneFormer; hub id such as shi-labs/oneformer_ade20k_swin_large, or a folder.
        out: folder of class maps to write or add to.
        config: how it is done.

    Raises:
        InputError: photos, the model or the device cannot be had; and as `segment_photos`.
        ArtifactError: the model's weights or the folder are damaged.
        BundleMismatch, WorkError, Stopped: as `segment_photos`.
    """
    config, out = config or SegmentConfig(), Path(out)
    check_cache(out)
    source = open_photos(photos, split=config.split, schemes=config.schemes)
    job_part = JobPart.parse(config.part)
    part = None if job_part == WHOLE else MapPart.of(source, job_part)
    segmenter = load_segmenter(str(model), device=choose_device(config.device))
    with track("segmenting", job_part.share_of(source.n_photos)) as advance:
        return segment_photos(segmenter, source, out, config=config, part=part, advance=advance)


def segment_photos(
    segmenter: Segmenter,
    photos: Iterable[Photo],
    out: Path,
    *,
    config: SegmentConfig,
    part: MapPart | None = None,
    advance: Callable[[int], None] = lambda photos: None,
) -> SegmentSummary:
    """The same for what is open already; `config` says neither which photos nor where.

    part: of the photos, that is segmented; None: all. advance: called with the number of photos done since the last
    call.

    Raises:
        InputError, BundleMismatch, ArtifactError, WorkError: as `write_cache`; the last also of the device's memory.
        Stopped: the process was asked to end; the maps it made are kept.
    """
    started = time.perf_counter()
    origin = MapOrigin(segmenter.digest, segmenter.name, segmenter.class_names, config.map_edge)
    # Around the cache: it writes its last shard while SIGTERM is still heard, which would cost that shard.
    with stopping() as stop, write_cache(out, origin, shard_maps=config.shard_maps, part=part) as cache:
        work, rows, mine = _Work(segmenter, cache, config.batch_size, advance), 0, _Share(photos, part)
        with closing(_read(mine, segmenter, cache, config)) as read:
            for rows, photo in enumerate(read, start=1):
                work.take(photo, name=photo.name or f"row {rows - 1}")
                # Photos that wait for their batch are left to the next start.
                stop.check(out, kept="the maps that are done are kept")
        while work.waiting:
            work.segment(next(iter(work.waiting.values())).pixels.shape)
            stop.check(out, kept="the maps that are done are kept")
        cache.part_rows = mine.rows
    assert work.new + work.known + work.failed.total() == rows, "rows in are not rows out"
    seconds = time.perf_counter() - started
    return SegmentSummary(segmenter.digest, rows, work.new, work.known, dict(work.failed), seconds)


@dataclass(slots=True, eq=False)
class _Share:
    """The photos of a part, or all of them, in their order. Iterate once."""

    photos: Iterable[Photo]
    part: MapPart | None
    rows: int = 0  # photos that were passed over or given so far

    def __iter__(self) -> Iterator[Photo]:
        for photo in self.photos:
            self.rows += 1
            if self.part is None or self.part.job_part.has(self.rows - 1):
                yield photo


@dataclass(slots=True, eq=False)
class _Work:
    """Photos on their way through the model, and what became of the others."""

    segmenter: Segmenter
    cache: CacheWriter
    batch_size: int
    advance: Callable[[int], None]
    new: int = 0
    known: int = 0
    failed: Failures = field(default_factory=Failures)
    waiting: dict[str, PreparedPhoto] = field(default_factory=dict)  # by digest, in order

    def take(self, photo: _Read, *, name: str) -> None:
        """Count a photo, or let it wait for its batch."""
        _, digest, found = photo
        if isinstance(found, BadImage):
            self.failed.add(name, found.code, found.reason)
            if digest is not None:
                self.cache.fail(digest, found)
        # Looked up again: a copy of it may have been read at the same time.
        elif digest is None or found is None or digest in self.waiting or self.cache.has(digest):
            self.known += 1
        else:
            self.waiting[digest] = found
            shapes = Counter(prepared.pixels.shape for prepared in self.waiting.values())
            shape, count = shapes.most_common(1)[0]
            if count == self.batch_size or len(self.waiting) == _BATCHES_OPEN * self.batch_size:
                self.segment(shape)
            return
        self.advance(1)

    def segment(self, shape: tuple[int, ...]) -> None:
        """Segment all photos of one shape that wait."""
        batch = {digest: photo for digest, photo in self.waiting.items() if photo.pixels.shape == shape}
        with memory_explained(
            f"for {len(batch)} photos of {shape[1]} x {shape[0]} pixels",
            "Run again with a smaller `batch_size`; maps that are done are kept.",
        ):
            maps = self.segmenter.maps(list(batch.values()))
        for digest, classes in zip(batch, maps, strict=True):
            del self.waiting[digest]
            self.cache.add(digest, classes)
        self.new += len(batch)
        self.advance(len(batch))


def _read(
    photos: Iterable[Photo], segmenter: Segmenter, cache: CacheWriter, config: SegmentConfig
) -> Generator[_Read, None, None]:
    """Photos in their order, ready for the model unless the cache knows them."""

    def prepare(photo: Photo) -> _Read:
        digest = None
        try:
            content = read_bytes(photo.data, schemes=config.schemes)
            digest = content_digest(content)
            try:
                if cache.has(digest):
                    return _Read(photo.name, digest, None)
            except BadImage as problem:
                return _Read(photo.name, None, problem)
            prepared = segmenter.input.read(content, map_edge=config.map_edge, max_pixels=config.max_pixels)
            return _Read(photo.name, digest, prepared)
        except BadImage as problem:
            return _Read(photo.name, digest if problem.code in _LASTING else None, problem)

    source, waiting = iter(photos), deque[Future[_Read]]()
    with ThreadPoolExecutor(config.workers, thread_name_prefix="decode") as pool:
        try:
            while True:
                room = _BATCHES_AHEAD * config.batch_size - len(waiting)
                waiting += (pool.submit(prepare, photo) for photo in itertools.islice(source, room))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)  # the caller may stop early
