"""Offline runs: vectors of many photos in, a folder of Parquet answers out, one file per input shard."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow.parquet

from encoder.embed import EmbedConfig, embed_photos
from encoder.encode import PhotoEncoder
from indexer.artifact import write_folder
from indexer.features import OK, FeatureBatch, open_features
from indexer.manifest import ROWS_MANIFEST
from indexer.photos import PhotoSource
from search.answers import answer_table
from search.engine import Engine
from search.recall import Recall, RecallCheck

KIND = "predictions"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class VectorSource:
    """Vectors to answer, shard by shard, and what they come from."""

    shards: Iterable[FeatureBatch]
    rows: int | None  # None where nobody knows before the end
    inputs: Mapping[str, str | None]  # name -> digest
    protocol: Mapping[str, str]  # how photos became vectors, where that happens here: crops, precision


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run did. rows = ok + failed, always."""

    rows: int
    ok: int
    failed: Mapping[str, int]  # reason code -> rows
    search_seconds: float  # spent searching and writing, reading and encoding apart
    seconds: float
    recall: Recall | None = None  # of a sample of the queries, where that was asked for


def vectors_from_features(engine: Engine, location: Path) -> VectorSource:
    """Vectors that were made before.

    Raises:
        InputError: nothing usable is there.
        BundleMismatch: they were made by another encoder than the bundle's.
    """
    features = open_features(location)
    engine.check_encoder(features.encoder, source=str(location))
    return VectorSource(features, features.rows, {"features": features.digest, "encoder": features.encoder}, {})


def vectors_from_photos(
    engine: Engine, photos: PhotoSource, encode: PhotoEncoder, *, config: EmbedConfig
) -> VectorSource:
    """Vectors made on the way from photos.

    Raises:
        BundleMismatch: this is not the encoder the bundle was built for.
    """
    engine.check_encoder(encode.encoder.digest, source=encode.encoder.name)
    encode.check_source(photos)
    inputs = {"photos": photos.digest, **encode.inputs}
    protocol = {"crops": encode.crops, "precision": encode.encoder.precision}
    return VectorSource(embed_photos(encode, photos, config=config), photos.n_photos, inputs, protocol)


def run(
    engine: Engine,
    source: VectorSource,
    out: Path,
    *,
    k: int,
    recall: RecallCheck | None = None,
    advance: Callable[[int], None] = lambda photos: None,
) -> RunSummary:
    """Answer every photo of every shard. The folder appears at `out` when all of it is done.

    recall: takes notice of the queries.

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
        config={"top_k": k, **source.protocol},
        inputs=source.inputs,
        manifest_name=ROWS_MANIFEST,
    ) as draft:
        for number, batch in enumerate(source.shards):
            before = time.perf_counter()
            table = answer_table(engine, batch, first_row=row, k=k, recall=recall)
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
            "search": engine.search_facts,
            "rows": row,
            "ok": ok,
            "failed": dict(counts),
        }
        found = None if recall is None else recall.measure()
        draft.facts["recall"] = None if found is None else asdict(found)
    return RunSummary(row, ok, dict(counts), search_seconds, time.perf_counter() - started, found)
