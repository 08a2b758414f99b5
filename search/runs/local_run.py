"""A run on this machine: vectors in, a folder of Parquet answers out, every row exactly once.

    read, decode -> (segment) -> encode -> search -> write

Each stage has a thread and a bounded queue (`indexer.jobs.stages`); decoding has processes. Shards are cut the same way
every time, and one that is written is never touched again (`indexer.jobs.job_folder`), so a job that was killed goes on
with what is missing.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from encoder.models.device import job_remarks
from indexer.errors import InputError
from indexer.jobs.job_folder import Job, JobFolder, Mark, check_job_target, open_job, read_marks, totals_of
from indexer.jobs.job_status import StatusFile
from indexer.jobs.progress import track_line
from indexer.jobs.stages import Line
from indexer.jobs.stopping import stopping
from indexer.photos.shard_cut import WHOLE, JobPart
from indexer.vectors.features import FeatureBatch, feature_table
from search.answers.album import Albums, answer_albums
from search.answers.engine import Engine
from search.answers.owners import QueryOwners
from search.answers.recall import RecallCheck
from search.answers.rows import answer_table
from search.runs.run_report import REPORT, REPORT_PAGE, RunReport, run_report, write_run_report
from search.runs.run_spec import RunConfig
from search.runs.vectors import VectorShard

if TYPE_CHECKING:
    from search.runs.photo_vectors import VectorSource

KIND = "predictions"
SCHEMA_VERSION = 1


def run_here(
    engine: Engine,
    source: "VectorSource",
    out: Path,
    config: RunConfig,
    *,
    albums: Albums | None = None,
    owners: QueryOwners | None = None,
) -> RunReport:
    """Answer every photo of a source in the folder `out`, or go on with what is missing there.

    albums: which photos are answered together; None: each alone. owners: whose they are, whose own photos of the
    gallery are not looked at. Raises as `search.runs.job.run`.
    """
    line, part = Line(), JobPart.parse(config.part)
    recall = None if config.check_recall is None else RecallCheck(engine, config.check_recall)
    with open_folders(engine, source, out, config, albums=albums, owners=owners) as folders, stopping() as stop:
        known, rows = totals_of(folders.done.values()), rows_of_part(source, part)
        if albums is None:
            shards = source.shards(line, folders.done, part)
            found = answered(engine, shards, line, k=config.top_k, recall=recall, owners=owners)
        else:
            done = folders.done
            every = _answered_in_albums(engine, source, line, albums, k=config.top_k, recall=recall, owners=owners)
            found = (each for each in every if each.number not in done)
        status, written = StatusFile(out, line, rows=rows), line.meter("write")
        # For albums the rows of shards that are done are read again, and their failures found again.
        remarks = partial(job_remarks, line, known.rows - known.ok if albums is None else 0)
        with line, track_line(line, "answering", rows, known=known.rows, tick=status.tick, also=remarks):
            for each in found:
                with written.at_work(len(each)):
                    folders.write(each)
                stop.check(out)
        return finish(engine, source, folders, status, known=known.rows, recall=recall)


@dataclass(frozen=True, slots=True)
class Folders:
    """Where a run writes: its answers, and the vectors where they are kept."""

    answers: JobFolder
    kept: JobFolder | None

    @property
    def done(self) -> Mapping[int, Mark]:
        """Shards of which nothing is missing."""
        kept = self.answers.done if self.kept is None else self.kept.done
        return {number: mark for number, mark in self.answers.done.items() if number in kept}

    def write(self, shard: VectorShard) -> None:
        """Write what is missing of a shard with answers; these last, because they say that it is done."""
        if self.kept is not None and shard.number not in self.kept.done:
            self.kept.add(shard.number, feature_table(shard.batch), first_row=shard.first_row)
        if shard.number not in self.answers.done:
            self.answers.add(shard.number, shard.answers, first_row=shard.first_row)

    def look_again(self) -> None:
        """Take notice of what other processes have done in them."""
        for folder in filter(None, (self.answers, self.kept)):
            folder.done |= read_marks(folder.path)


@contextmanager
def open_folders(
    engine: Engine,
    source: "VectorSource",
    out: Path,
    config: RunConfig,
    *,
    albums: Albums | None = None,
    owners: QueryOwners | None = None,
) -> Iterator[Folders]:
    """The folders of a run, held by this process. Raises as `open_job`."""
    options = {
        **source.options,
        "top_k": config.top_k,
        "part": str(JobPart.parse(config.part)),
        **asdict(engine.options),
    }
    inputs = {**source.inputs, **engine.inputs}
    if albums is not None:
        options["album"], inputs["albums"] = albums.rows.column, albums.rows.digest
    if owners is not None:
        options["owner_column"], inputs["owners"] = owners.rows.column, owners.rows.digest
    job = Job(KIND, SCHEMA_VERSION, options, inputs)
    keep_in = None if config.save_features is None else Path(config.save_features)
    _check_kept(source, out, keep_in)
    with ExitStack() as stack:
        answers, kept = stack.enter_context(open_job(out, job)), None
        if keep_in is not None and source.features is not None:
            kept = stack.enter_context(open_job(keep_in, source.features))
        yield Folders(answers, kept)


def _check_kept(source: "VectorSource", out: Path, save_features: Path | None) -> None:
    """Refuse to keep vectors where they cannot be, before either folder is begun."""
    if save_features is None:
        return
    if source.features is None:
        raise InputError("`save_features` goes with `photos`: `features` are vectors already.")
    here, there = out.resolve(), save_features.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise InputError(
            f"`save_features` {save_features}: in one folder with `out` {out}, whose readers would take vectors for "
            "answers. Choose a folder beside it."
        )
    check_job_target(save_features)


def answered(
    engine: Engine,
    shards: Iterator[VectorShard],
    line: Line,
    *,
    k: int,
    recall: RecallCheck | None = None,
    owners: QueryOwners | None = None,
) -> Iterator[VectorShard]:
    """The search as a stage of a line. recall: takes notice of the queries. owners: as for `run_here`."""
    table = partial(answer_table, engine, k=k, recall=recall, owners=owners)
    found = (replace(shard, answers=table(shard.batch, first_row=shard.first_row)) for shard in shards)
    return line.stage("search", found)


def _answered_in_albums(
    engine: Engine,
    source: "VectorSource",
    line: Line,
    albums: Albums,
    *,
    k: int,
    recall: RecallCheck | None = None,
    owners: QueryOwners | None = None,
) -> Iterator[VectorShard]:
    """The same for albums: all vectors are read, whatever is done, before the first photo is answered."""
    held: list[VectorShard] = []

    def batches() -> Iterator[FeatureBatch]:
        for shard in source.shards(line, {}, WHOLE):
            held.append(replace(shard, batch=shard.batch.without_vectors()))
            yield shard.batch

    tables = answer_albums(engine, batches(), albums, k=k, recall=recall, owners=owners)
    return line.stage("search", (replace(held[number], answers=table) for number, table in enumerate(tables)))


def finish(
    engine: Engine,
    source: "VectorSource",
    folders: Folders,
    status: StatusFile,
    *,
    known: int,
    recall: RecallCheck | None = None,
) -> RunReport:
    """Say that every shard is done, and report. Raises as `JobFolder.finish`."""
    status.write()
    folder = folders.answers
    if folders.kept is not None:
        folders.kept.finish(source.facts, rows=status.rows)
    facts = {"bundle": engine.bundle.version, "encoder": engine.bundle.encoder, "search": engine.search_facts}
    folder.finish(facts, rows=status.rows)
    report = run_report(
        folder.job,
        folder.done.values(),
        began_at=status.began_at,
        seconds=status.seconds,
        known=known,
        stages=status.line.meters,
        search=engine.search_facts,
        recall=None if recall is None else recall.measure(),
    )
    if report.rows > known or not all((folder.path / name).is_file() for name in (REPORT, REPORT_PAGE)):
        write_run_report(folder.path, report)
    return report


def rows_of_part(source: "VectorSource", part: JobPart) -> int | None:
    """How many rows of a source are of a part; None where nobody knows yet."""
    if source.rows is None:
        return None
    shards = range(part.number - 1, -(-source.rows // source.shard_rows), part.parts)
    return sum(min(source.shard_rows, source.rows - shard * source.shard_rows) for shard in shards)
