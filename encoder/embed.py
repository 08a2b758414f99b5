"""Photos to vectors: decoding overlaps the model; a bad photo is a row with its reason, the rest goes on."""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from encoder.batch_size import fitting_batch_size
from encoder.config import MAX_PIXELS, SHARD_ROWS, check_max_pixels
from encoder.decoding import decoded_batches
from encoder.encode import PhotoEncoder
from encoder.failures import Failures
from encoder.reading import ReadLimits
from indexer.artifact import write_folder
from indexer.errors import InputError
from indexer.features import KIND, OK, SCHEMA_VERSION, FeatureBatch, joined, write_shard
from indexer.manifest import ROWS_MANIFEST
from indexer.photos import Photo, PhotoSource


@dataclass(frozen=True, slots=True)
class EmbedConfig:
    """How photos go through the encoder. None of this changes what vectors mean."""

    batch_size: int | None = None  # crops in one forward pass; None: as many as help and fit
    workers: int = 2  # decoding processes; 0: none but this one
    shard_rows: int = SHARD_ROWS  # photos in one Parquet file
    max_pixels: int = MAX_PIXELS  # larger photos are refused
    limits: ReadLimits = field(default_factory=ReadLimits)

    def __post_init__(self) -> None:
        check_max_pixels(self.max_pixels)
        for name in ("batch_size", "shard_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} must be at least 1, not {value}.")
        if self.workers < 0:
            raise InputError(f"--workers must be at least 0, not {self.workers}.")


@dataclass(frozen=True, slots=True)
class EmbedSummary:
    """What embedding did. rows = ok + failed, always."""

    rows: int
    ok: int
    failed: Mapping[str, int]  # reason code -> photos
    seconds: float


def embed_photos(
    encode: PhotoEncoder,
    photos: Iterable[Photo],
    *,
    config: EmbedConfig,
    advance: Callable[[int], None] = lambda photos: None,
) -> Iterator[FeatureBatch]:
    """Vectors of all photos in their order, one FeatureBatch of `shard_rows` photos at a time, the last one shorter.

    advance: called with the number of photos done since the last call.

    Raises:
        WorkError: a decoding process died.
    """
    size = encode.photos_in(config.batch_size or fitting_batch_size(encode.encoder.model))
    batches = decoded_batches(
        _batches(photos, size=size, shard_rows=config.shard_rows),
        encode.reader(max_pixels=config.max_pixels, limits=config.limits),
        workers=config.workers,
        pin=encode.device.type == "cuda",
    )
    failed = Failures()
    pile: list[FeatureBatch] = []
    rows = 0
    with closing(batches):
        for batch in batches:
            done = encode(batch)
            for row in np.flatnonzero(~done.ok).tolist():
                failed.add(done.photo[row] or f"row {rows + row}", done.status[row], done.reason[row])
            rows += len(done)
            pile.append(done)
            advance(len(done))
            if rows % config.shard_rows == 0:
                yield joined(pile)
                pile = []
    if pile:
        yield joined(pile)


def embed_source(
    encode: PhotoEncoder,
    photos: PhotoSource,
    out: Path,
    *,
    config: EmbedConfig,
    advance: Callable[[int], None] = lambda photos: None,
) -> EmbedSummary:
    """Embed the photos of a source into a features folder, which appears at `out` when all of it is done.

    Raises:
        InputError: `out` exists or cannot be written, or the source cannot be read.
        WorkError: the disk is full, or a decoding process died.
    """
    started = time.perf_counter()
    encode.check_source(photos)
    counts: Counter[str] = Counter()
    with write_folder(
        out,
        kind=KIND,
        schema_version=SCHEMA_VERSION,
        config=asdict(config) | {"crops": encode.crops, "precision": encode.encoder.precision},
        inputs={"photos": photos.digest, **encode.inputs},
        manifest_name=ROWS_MANIFEST,
    ) as draft:
        for shard, batch in enumerate(embed_photos(encode, photos, config=config, advance=advance)):
            write_shard(draft, batch, shard=shard)
            counts.update(batch.status)
        rows, ok = counts.total(), counts.pop(OK, 0)
        if not rows:
            raise InputError(f"{photos.location}: no photos.")
        draft.facts |= {
            "encoder": encode.encoder.digest,
            "width": encode.encoder.width,
            "rows": rows,
            "ok": ok,
            "failed": dict(counts),
        }
    return EmbedSummary(rows, ok, dict(counts), time.perf_counter() - started)


def _batches(photos: Iterable[Photo], *, size: int, shard_rows: int) -> Iterator[list[Photo]]:
    """Photos some at a time; no batch reaches over the end of a shard."""
    source, room = iter(photos), shard_rows
    while batch := list(itertools.islice(source, min(size, room))):
        yield batch
        room = room - len(batch) or shard_rows
