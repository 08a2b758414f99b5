"""Photos to vectors: decoding overlaps the model; a bad photo is a row with its reason, the rest goes on."""

import itertools
import logging
from collections.abc import Generator, Iterable, Iterator, Mapping, Sized
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from encoder.bad_images import Failures
from encoder.config import SHARD_ROWS, EmbedConfig, FeedOptions
from encoder.encode import PhotoEncoder, open_encoder
from encoder.models.checkpoint import LoadedEncoder
from encoder.models.device import fitting_batch_size, job_remarks
from encoder.photos.decoding import decoded_batches
from encoder.photos.reading import MAX_BYTES
from indexer.jobs.job_folder import Job, check_job_target, open_job, read_job, totals_of
from indexer.jobs.job_status import StatusFile
from indexer.jobs.progress import track_line
from indexer.jobs.stages import Line
from indexer.jobs.stopping import stopping
from indexer.photos.photo import Photo
from indexer.photos.shard_cut import WHOLE, ShardCut
from indexer.photos.sources import PhotoSource, open_photos
from indexer.vectors.features import KIND, SCHEMA_VERSION, FeatureBatch, feature_table, joined

log = logging.getLogger(__name__)

_Batch = TypeVar("_Batch", bound=Sized)
_FEED = FeedOptions()


@dataclass(frozen=True, slots=True)
class EmbedSummary:
    """What embedding did. rows = ok + failed, always."""

    encoder: str  # digest
    rows: int
    ok: int
    failed: Mapping[str, int]  # reason code -> photos
    embedded_before: int  # rows, by a start of the job that was cut short
    seconds: float


def embed(
    photos: str | Path, checkpoint: str | Path, out: str | Path, *, config: EmbedConfig | None = None
) -> EmbedSummary:
    """Turn photos into vectors, in a folder of Parquet shards. A job that was cut short goes on where it stopped.

    Args:
        photos: table (.parquet, .csv), folder of images, or tar shards; a path or a URI.
        checkpoint: checkpoint folder, or hf:<hub id or folder> for a published model.
        out: features folder to write.
        config: how it is done.

    Raises:
        InputError: photos, a model or a device cannot be had, or they do not go together; and as `embed_source`.
        ArtifactError: a checkpoint or a cache that is none, or damaged.
        WorkError, Stopped: as `embed_source`.
    """
    config, out = config or EmbedConfig(), Path(out)
    check_job_target(out)
    source = open_photos(photos, split=config.split, schemes=config.schemes)
    encode = open_encoder(checkpoint, config, crops=config.crops)
    return embed_source(encode, source, out, feed=config, shard_rows=config.shard_rows)


def embed_source(
    encode: PhotoEncoder, photos: PhotoSource, out: Path, *, feed: FeedOptions = _FEED, shard_rows: int = SHARD_ROWS
) -> EmbedSummary:
    """The same for what is open already.

    Raises:
        InputError: `out` holds other things or features of other options or inputs, or cannot be written; or the source
            cannot be read, or is not what it was.
        WorkError: the disk is full, memory ran out, or decoding processes died again and again.
        Stopped: the process was asked to end.
    """
    encode.check_source(photos)
    before = read_job(out)
    feed = settled(feed, encode, before)
    line = Line()
    job = features_job(encode, photos, feed=feed, shard_rows=shard_rows)
    with open_job(out, job) as folder, stopping() as stop:
        known = totals_of(folder.done.values())
        cut = ShardCut(photos, shard_rows=shard_rows, done=folder.done, part=WHOLE)
        batches = embed_photos(encode, cut, feed=feed, shard_rows=shard_rows, line=line, few_here=before is None)
        status = StatusFile(out, line, rows=photos.n_photos)
        remarks = partial(job_remarks, line, known.rows - known.ok)
        with line, track_line(line, "embedding", photos.n_photos, known=known.rows, tick=status.tick, also=remarks):
            for batch in batches:
                number = cut.next_number()
                folder.add(number, feature_table(batch), first_row=number * shard_rows)
                stop.check(out)
        status.write()
        folder.finish(facts_of(encode.encoder), rows=photos.n_photos)
        totals = totals_of(folder.done.values())
    return EmbedSummary(encode.encoder.digest, totals.rows, totals.ok, totals.failed, known.rows, status.seconds)


def embed_photos(
    encode: PhotoEncoder,
    photos: Iterable[Photo],
    *,
    feed: FeedOptions = _FEED,
    shard_rows: int = SHARD_ROWS,
    line: Line | None = None,
    few_here: bool = True,
) -> Generator[FeatureBatch, None, None]:
    """Vectors of all photos in their order, one FeatureBatch of `shard_rows` photos at a time, the last one shorter.

    line: where the stages run, each in a thread of its own; they are put there at once. None: in this thread. few_here:
    a few photos are decoded in this process, however many workers there may be; not where a job was begun and did not
    end, which they may be the reason of. Raises what `decoded_batches` and the encoder do.
    """

    def stage(name: str, items: Iterator[_Batch]) -> Iterator[_Batch]:
        return items if line is None else line.stage(name, items)

    decoded = decoded_batches(
        _batches(photos, size=encode.photos_in(_batch_size(feed, encode)), shard_rows=shard_rows),
        encode.reader(feed),
        workers=feed.workers,
        pin=encode.device.type == "cuda",
        few_here=few_here,
    )
    batches = stage("decode", decoded)
    if encode.makes_maps:
        batches = stage("segment", (encode.segment(batch) for batch in batches))
    encoded = stage("encode", (encode(batch) for batch in batches))
    return _in_shards(encoded, shard_rows, closing(decoded) if line is None else nullcontext(), line)


def _in_shards(
    batches: Iterable[FeatureBatch], shard_rows: int, source: AbstractContextManager[Any], line: Line | None
) -> Generator[FeatureBatch, None, None]:
    """Batches joined to shards. source: is left when nobody wants more. line: of a job, whose failures are told.

    In a job the first photo without a class map is told as well: it may show that a cache is not of these photos.
    """
    all_have_maps = True
    failed = Failures()
    pile: list[FeatureBatch] = []
    rows = 0
    with source:
        for batch in batches:
            if line is not None:
                for row in np.flatnonzero(~batch.ok).tolist():
                    failed.add(batch.photo[row] or f"row {rows + row}", batch.status[row], batch.reason[row])
                    line.failed += 1
            if line is not None and all_have_maps and batch.class_map is not None and False in batch.class_map:
                all_have_maps = False
                name = batch.photo[batch.class_map.index(False)]
                log.info(
                    "%s: has no class map; its vector is of the photo alone (more of this kind are not told)", name
                )
            rows += len(batch)
            pile.append(batch)
            if rows % shard_rows == 0:
                yield joined(pile)
                pile = []
    if pile:
        yield joined(pile)


def settled(feed: FeedOptions, encode: PhotoEncoder, before: Job | None) -> FeedOptions:
    """The same with a number for the batch size: that of a job begun before, unless one is given.

    Another one changes the last bits of vectors.
    """
    begun = None if before is None else before.options.get("batch_size")
    known = replace(feed, batch_size=begun) if begun and feed.batch_size == "auto" else feed
    return replace(known, batch_size=_batch_size(known, encode))


def features_job(encode: PhotoEncoder, photos: PhotoSource, *, feed: FeedOptions, shard_rows: int) -> Job:
    """What decides the rows of a features folder. feed: `settled`."""
    options = {
        "batch_size": feed.batch_size,
        "shard_rows": shard_rows,
        "max_pixels": feed.max_pixels,
        "schemes": list(feed.schemes),
        "max_bytes": MAX_BYTES,
        "crops": encode.crops,
        "precision": encode.encoder.precision,
        "device": encode.device.type,
        "split": photos.split,
    }
    return Job(KIND, SCHEMA_VERSION, options, {"photos": photos.digest, **encode.inputs})


def facts_of(encoder: LoadedEncoder) -> dict[str, Any]:
    """What a reader of a features folder wants to know of the encoder."""
    return {"encoder": encoder.digest, "width": encoder.width}


def _batches(photos: Iterable[Photo], *, size: int, shard_rows: int) -> Iterator[list[Photo]]:
    """Photos some at a time; no batch reaches over the end of a shard."""
    source, room = iter(photos), shard_rows
    while batch := list(itertools.islice(source, min(size, room))):
        yield batch
        room = room - len(batch) or shard_rows


def _batch_size(feed: FeedOptions, encode: PhotoEncoder) -> int:
    return fitting_batch_size(encode.encoder.model) if feed.batch_size == "auto" else feed.batch_size
