"""Offline runs: vectors of many photos in, a folder of Parquet answers out, one file per input shard."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet

from encoder.checkpoint import load_encoder
from encoder.device import DeviceName, choose_device
from encoder.embed import EmbedConfig, embed_photos
from indexer.artifact import write_folder
from indexer.features import OK, FeatureBatch, open_features
from indexer.manifest import ROWS_MANIFEST, file_digest
from indexer.photos import read_photos
from search.answers import answer_table
from search.engine import Engine

KIND = "predictions"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class VectorSource:
    """Vectors to answer, shard by shard, and what they come from."""

    shards: Iterable[FeatureBatch]
    rows: int
    inputs: Mapping[str, str | None]  # name -> digest


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run did. rows = ok + failed, always."""

    rows: int
    ok: int
    failed: Mapping[str, int]  # reason code -> rows
    search_seconds: float  # spent searching and writing, reading and encoding apart
    seconds: float


def vectors_from_features(engine: Engine, location: Path) -> VectorSource:
    """Vectors that were made before.

    Raises:
        InputError: nothing usable is there.
        BundleMismatch: they were made by another encoder than the bundle's.
    """
    features = open_features(location)
    engine.check_encoder(features.encoder, source=str(location))
    return VectorSource(features, features.rows, {"features": features.digest, "encoder": features.encoder})


def vectors_from_photos(
    engine: Engine, photos: Path, checkpoint: str, *, split: str | None, device: DeviceName, config: EmbedConfig
) -> VectorSource:
    """Vectors made on the way from a photo table or a folder of images.

    Raises:
        InputError: the photos or the checkpoint cannot be used.
        BundleMismatch: the checkpoint is not the encoder the bundle was built for.
    """
    table = read_photos(photos, split=split)
    encoder = load_encoder(checkpoint, device=choose_device(device))
    engine.check_encoder(encoder.digest, source=checkpoint)
    inputs = {"photos": None if photos.is_dir() else file_digest(photos), "encoder": encoder.digest}
    return VectorSource(embed_photos(encoder, table, config=config), len(table), inputs)


def run(
    engine: Engine,
    source: VectorSource,
    out: Path,
    *,
    k: int,
    advance: Callable[[int], None] = lambda photos: None,
) -> RunSummary:
    """Answer every photo of every shard. The folder appears at `out` when all of it is done.

    Raises:
        InputError: `out` exists or cannot be written, or the vectors do not fit the bundle.
        WorkError: the disk is full.
    """
    started = time.perf_counter()
    search_seconds = 0.0
    counts: Counter[str] = Counter()
    row = 0
    with write_folder(
        out,
        kind=KIND,
        schema_version=SCHEMA_VERSION,
        config={"top_k": k},
        inputs=source.inputs,
        manifest_name=ROWS_MANIFEST,
    ) as draft:
        for number, batch in enumerate(source.shards):
            before = time.perf_counter()
            table = answer_table(engine, batch, first_row=row, k=k)
            assert table.num_rows == len(batch), "a photo without a row"
            pyarrow.parquet.write_table(table, draft.path / f"part-{number:05d}.parquet")
            search_seconds += time.perf_counter() - before
            counts.update(batch.status)
            row += len(batch)
            advance(len(batch))
        ok = counts.pop(OK, 0)
        assert ok + counts.total() == row, "rows in are not rows out"
        draft.facts |= {
            "bundle": engine.bundle.version,
            "encoder": engine.bundle.encoder,
            "rows": row,
            "ok": ok,
            "failed": dict(counts),
        }
    return RunSummary(row, ok, dict(counts), search_seconds, time.perf_counter() - started)
