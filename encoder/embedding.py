"""Photos to vectors: decoding overlaps the model; a bad photo is a row with its reason, the rest goes on."""

import itertools
from collections.abc import Generator, Iterable, Iterator, Mapping, Sized
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from encoder.batch_size import fitting_batch_size
from encoder.checkpoint import LoadedEncoder
from encoder.config import DECODERS, MAX_PIXELS, SHARD_ROWS, check_max_pixels
from encoder.decoding import decoded_batches
from encoder.encode import PhotoEncoder
from encoder.failures import Failures
from encoder.job_remarks import job_remarks
from encoder.reading import ReadLimits
from indexer.errors import InputError
from indexer.jobs.job_folder import Job, Shard, open_job, read_job, totals_of
from indexer.jobs.job_status import StatusFile
from indexer.jobs.progress import track_line
from indexer.jobs.stages import Line
from indexer.jobs.stopping import stopping
from indexer.photos.shard_cut import WHOLE, ShardCut
from indexer.photos.sources import Photo, PhotoSource
from indexer.vectors.features import KIND, SCHEMA_VERSION, FeatureBatch, feature_table, joined

_Batch = TypeVar("_Batch", bound=Sized)


@dataclass(frozen=True, slots=True)
class EmbedConfig:
    """How photos go through the encoder. None of this changes what vectors mean."""

    batch_size: int | None = None  # crops in one pass, at least one photo's; None: as many as help and fit
    workers: int = DECODERS  # decoding processes; 0: none but this one
    shard_rows: int = SHARD_ROWS  # photos in one Parquet file
    max_pixels: int = MAX_PIXELS  # larger photos are refused
    limits: ReadLimits = field(default_factory=ReadLimits)
    few_here: bool = True  # a few photos are decoded in this process, however many workers there may be

    def __post_init__(self) -> None:
        check_max_pixels(self.max_pixels)
        for name in ("batch_size", "shard_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} must be at least 1, not {value}.")
        if self.workers < 0:
            raise InputError(f"--workers must be at least 0, not {self.workers}.")

    @property
    def decides(self) -> dict[str, Any]:
        """What of it decides the rows of a job."""
        kept = {name: getattr(self, name) for name in ("batch_size", "shard_rows", "max_pixels")}
        return kept | {"schemes": list(self.limits.schemes), "max_bytes": self.limits.max_bytes}

    def as_before(self, out: Path, encode: PhotoEncoder) -> "EmbedConfig":
        """The same for the job at `out`: with its batch size, unless another is asked for, which changes last bits.

        Where one was begun and did not end, no photo is decoded in this process: it may be what ended the other.
        """
        before = read_job(out)
        size = self.batch_size or (None if before is None else before.options.get("batch_size"))
        return replace(self, batch_size=size or fitting_batch_size(encode.encoder.model), few_here=before is None)


@dataclass(frozen=True, slots=True)
class EmbedSummary:
    """What embedding did. rows = ok + failed, always."""

    rows: int
    ok: int
    failed: Mapping[str, int]  # reason code -> photos
    known: int  # rows that were done before, by a start of the job that was cut short
    seconds: float


def embed_photos(
    encode: PhotoEncoder, photos: Iterable[Photo], *, config: EmbedConfig, line: Line | None = None
) -> Generator[FeatureBatch, None, None]:
    """Vectors of all photos in their order, one FeatureBatch of `shard_rows` photos at a time, the last one shorter.

    line: where the stages run, each in a thread of its own; they are put there at once. None: in this thread.

    Raises:
        WorkError: decoding processes died again and again, or memory ran out.
    """

    def stage(name: str, items: Iterator[_Batch]) -> Iterator[_Batch]:
        return items if line is None else line.stage(name, items)

    decoded = decoded_batches(
        _batches(photos, size=encode.photos_in(_batch_size(encode, config)), shard_rows=config.shard_rows),
        encode.reader(max_pixels=config.max_pixels, limits=config.limits),
        workers=config.workers,
        pin=encode.device.type == "cuda",
        few_here=config.few_here,
    )
    batches = stage("decode", decoded)
    if encode.makes_maps:
        batches = stage("segment", (encode.segment(batch) for batch in batches))
    encoded = stage("encode", (encode(batch) for batch in batches))
    return _in_shards(encoded, config.shard_rows, closing(decoded) if line is None else nullcontext(), line)


def _in_shards(
    batches: Iterable[FeatureBatch], shard_rows: int, source: AbstractContextManager[Any], line: Line | None
) -> Generator[FeatureBatch, None, None]:
    """Batches joined to shards, and what failed told. source: is left when nobody wants more. line: counts failures."""
    failed = Failures()
    pile: list[FeatureBatch] = []
    rows = 0
    with source:
        for batch in batches:
            for row in np.flatnonzero(~batch.ok).tolist():
                failed.add(batch.photo[row] or f"row {rows + row}", batch.status[row], batch.reason[row])
                if line is not None:
                    line.failed += 1
            rows += len(batch)
            pile.append(batch)
            if rows % shard_rows == 0:
                yield joined(pile)
                pile = []
    if pile:
        yield joined(pile)


def embed_source(encode: PhotoEncoder, photos: PhotoSource, out: Path, *, config: EmbedConfig) -> EmbedSummary:
    """Embed the photos of a source into a features folder, shard by shard; one that was cut short is gone on with.

    Raises:
        InputError: `out` holds other things or features of other options or inputs, or cannot be written; or the source
            cannot be read, or is not what it was.
        WorkError: the disk is full, memory ran out, or decoding processes died again and again.
        Stopped: the process was asked to end.
    """
    encode.check_source(photos)
    config = config.as_before(out, encode)
    line = Line()
    with open_job(out, features_job(encode, photos, config)) as folder, stopping() as stop:
        known = totals_of(folder.done.values())
        cut = ShardCut(photos, shard_rows=config.shard_rows, done=folder.done, part=WHOLE)
        batches = embed_photos(encode, cut, config=config, line=line)
        status = StatusFile(out, line, rows=photos.n_photos)
        said = partial(job_remarks, line, known.rows - known.ok)
        with line, track_line(line, "embedding", photos.n_photos, known=known.rows, tick=status.tick, also=said):
            for batch in batches:
                number = cut.next_number()
                folder.add(Shard(number, number * config.shard_rows, feature_table(batch)))
                stop.check(out)
        status.write()
        folder.finish(facts_of(encode.encoder), rows=photos.n_photos)
        totals = totals_of(folder.done.values())
    return EmbedSummary(totals.rows, totals.ok, totals.failed, known.rows, status.seconds)


def features_job(encode: PhotoEncoder, photos: PhotoSource, config: EmbedConfig) -> Job:
    """What decides the rows of a features folder."""
    return Job(
        KIND,
        SCHEMA_VERSION,
        {
            **config.decides,
            "crops": encode.crops,
            "precision": encode.encoder.precision,
            "device": encode.device.type,
            "split": photos.split,
        },
        {"photos": photos.digest, **encode.inputs},
    )


def facts_of(encoder: LoadedEncoder) -> dict[str, Any]:
    """What a reader of a features folder wants to know of the encoder."""
    return {"encoder": encoder.digest, "width": encoder.width}


def _batches(photos: Iterable[Photo], *, size: int, shard_rows: int) -> Iterator[list[Photo]]:
    """Photos some at a time; no batch reaches over the end of a shard."""
    source, room = iter(photos), shard_rows
    while batch := list(itertools.islice(source, min(size, room))):
        yield batch
        room = room - len(batch) or shard_rows


def _batch_size(encode: PhotoEncoder, config: EmbedConfig) -> int:
    return config.batch_size or fitting_batch_size(encode.encoder.model)
