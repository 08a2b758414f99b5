"""Offline jobs: photos or their vectors in, a folder of Parquet answers out, every row exactly once.

    read, decode -> (segment) -> encode -> search -> write

Each stage has a thread and a bounded queue (`indexer.stages`); decoding has processes. Shards are cut the same way
every time, and one that is written is never touched again (`indexer.job_folder`), so a job that was killed goes on with
what is missing.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from encoder.config import SHARD_ROWS
from encoder.embed import EmbedConfig, embed_photos, facts_of, features_job
from encoder.encode import PhotoEncoder
from indexer.errors import InputError
from indexer.features import FeatureBatch, feature_table, open_features
from indexer.job_folder import Job, JobFolder, Mark, Shard, check_job_target, open_job, totals_of
from indexer.job_status import StatusFile
from indexer.photos import PhotoSource
from indexer.progress import track_line
from indexer.shard_cut import WHOLE, Part, ShardCut
from indexer.stages import Line
from indexer.stopping import stopping
from search.answers import answer_table
from search.engine import Engine
from search.run_report import run_report, write_run_report

KIND = "predictions"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, eq=False)
class VectorShard:
    """Vectors of the photos of one shard."""

    number: int
    batch: FeatureBatch

    def __len__(self) -> int:
        return len(self.batch)


@dataclass(frozen=True, slots=True, eq=False)
class _Answered:
    """The same with their answers."""

    vectors: VectorShard
    answers: pa.Table

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True, slots=True)
class VectorSource:
    """Vectors to answer, and what they come from."""

    rows: int | None  # None where nobody knows before the end
    inputs: Mapping[str, str | None]  # name -> digest
    options: Mapping[str, Any]  # that decide the vectors, and how they are cut
    shard_rows: int
    # Vectors shard by shard, in stages of a line; without those that are done or another part's.
    shards: Callable[[Line, Mapping[int, Mark], Part], Iterator[VectorShard]]
    features: Job | None = None  # the features folder they could be kept in, where they are made here
    facts: Mapping[str, Any] | None = None  # and what its manifest says


@dataclass(frozen=True, slots=True)
class RunConfig:
    """What is asked of a run, beside the vectors."""

    top_k: int = 1
    part: Part = WHOLE
    save_features: Path | None = None


def vectors_from_features(engine: Engine, location: Path, *, shard_rows: int = SHARD_ROWS) -> VectorSource:
    """Vectors that were made before.

    Raises:
        InputError: nothing usable is there.
        BundleMismatch: they were made by another encoder than the bundle's.
    """
    features = open_features(location)
    engine.check_encoder(features.encoder, source=str(location))

    def shards(line: Line, done: Mapping[int, Mark], part: Part) -> Iterator[VectorShard]:
        wanted = features.cut(shard_rows, lambda number: number not in done and part.has(number))
        return line.stage("read", (VectorShard(number, batch) for number, batch in wanted))

    inputs = {"features": features.digest, "encoder": features.encoder}
    return VectorSource(features.rows, inputs, {"shard_rows": shard_rows}, shard_rows, shards)


def vectors_from_photos(
    engine: Engine, photos: PhotoSource, encode: PhotoEncoder, *, config: EmbedConfig
) -> VectorSource:
    """Vectors made on the way from photos.

    Raises:
        BundleMismatch: this is not the encoder the bundle was built for.
    """
    engine.check_encoder(encode.encoder.digest, source=encode.encoder.name)
    encode.check_source(photos)

    def shards(line: Line, done: Mapping[int, Mark], part: Part) -> Iterator[VectorShard]:
        cut = ShardCut(photos, shard_rows=config.shard_rows, done=done, part=part)
        batches = embed_photos(encode, cut, config=config, line=line)
        return (VectorShard(cut.next_number(), batch) for batch in batches)

    job = features_job(encode, photos, config)
    return VectorSource(
        photos.n_photos, job.inputs, job.options, config.shard_rows, shards, job, facts_of(encode.encoder)
    )


def run(engine: Engine, source: VectorSource, out: Path, config: RunConfig) -> dict[str, Any]:
    """Answer every photo of a source in the folder `out`, or go on with what is missing there; returns its report.

    Raises:
        InputError: `out` holds other things or a job of other options or inputs, or cannot be written; the vectors do
            not fit the bundle; or the source cannot be read, or is not what it was.
        WorkError: the disk is full, memory ran out, or decoding processes died again and again.
        Stopped: the process was asked to end.
    """
    line = Line()
    _check_kept(source, out, config.save_features)
    with ExitStack() as stack:
        folder = stack.enter_context(open_job(out, job_of(engine, source, config)))
        kept = _kept(stack, source, config)
        asked = stack.enter_context(stopping())
        done = folder.done if kept is None else {n: mark for n, mark in folder.done.items() if n in kept.done}
        known = totals_of(done.values()).rows
        rows = source.rows
        if rows is not None:
            rows = _rows_of_part(rows, source.shard_rows, config.part)

        def search(shard: VectorShard) -> _Answered:
            first = shard.number * source.shard_rows
            return _Answered(shard, answer_table(engine, shard.batch, first_row=first, k=config.top_k))

        vectors = source.shards(line, done, config.part)  # its stages come before those of the answers
        answered = line.stage("search", (search(shard) for shard in vectors))
        status, written = StatusFile(out, line, rows=rows), line.meter("write")
        with line, track_line(line, "answering", rows, known=known, tick=status.tick):
            for each in answered:
                with written.at_work(len(each)):
                    _write(each, folder, kept, shard_rows=source.shard_rows)
                asked.check(out)
        if kept is not None:
            kept.finish(source.facts or {})
        folder.finish({"bundle": engine.bundle.version, "encoder": engine.bundle.encoder})
        report = run_report(
            folder.job,
            folder.done.values(),
            began_at=status.began_at,
            seconds=status.seconds,
            known=known,
            stages=line.meters,
        )
        write_run_report(out, report)
    return report


def job_of(engine: Engine, source: VectorSource, config: RunConfig) -> Job:
    """What decides the rows of a run."""
    options = {**source.options, "top_k": config.top_k, "part": str(config.part)}
    return Job(KIND, SCHEMA_VERSION, options, {**source.inputs, "bundle": engine.bundle.version})


def bundle_of(job: Job | None) -> str | None:
    """The version of the bundle that a job began with; None where none was begun."""
    return None if job is None else job.inputs.get("bundle")


def _check_kept(source: VectorSource, out: Path, save_features: Path | None) -> None:
    """Refuse to keep vectors where they cannot be, before either folder is begun."""
    if save_features is None:
        return
    if source.features is None:
        raise InputError("--save-features goes with --photos: --features are vectors already.")
    here, there = out.resolve(), save_features.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise InputError(
            f"--save-features {save_features}: in one folder with --out {out}, whose readers would take vectors for "
            "answers. Choose a folder beside it."
        )
    check_job_target(save_features)


def _kept(stack: ExitStack, source: VectorSource, config: RunConfig) -> JobFolder | None:
    if config.save_features is None or source.features is None:
        return None
    return stack.enter_context(open_job(config.save_features, source.features))


def _write(each: _Answered, folder: JobFolder, kept: JobFolder | None, *, shard_rows: int) -> None:
    number = each.vectors.number
    first = number * shard_rows
    if kept is not None and number not in kept.done:
        kept.add(Shard(number, first, feature_table(each.vectors.batch)))
    if number not in folder.done:
        folder.add(Shard(number, first, each.answers))


def _rows_of_part(rows: int, shard_rows: int, part: Part) -> int:
    shards = range(part.number - 1, -(-rows // shard_rows), part.parts)
    return sum(min(shard_rows, rows - shard * shard_rows) for shard in shards)
