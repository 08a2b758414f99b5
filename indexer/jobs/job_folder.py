"""A folder of Parquet rows that grows shard by shard, each of them exactly once.

    part-<n>.parquet   rows of one shard of the input, written aside and renamed
    _done/<n>.json     that this shard is done: rows, failures, digests, times; written after its rows
    _job.json          what decides the rows: options and inputs of the job
    _lock              held by the one process that writes
    _manifest.json     written when every shard is done

A killed job loses the shards in work and nothing else: the next start with the same options does the shards without a
mark. Readers of Parquet ignore names that begin with `_`, so the folder can be read at any time: each part is whole.
"""

import contextlib
import hashlib
import json
import logging
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from indexer.disk.artifact import (
    check_target,
    explain_full,
    explain_unwritable,
    is_temporary,
    place,
    remove_leftovers,
    temporary_folder,
)
from indexer.disk.lock import alone, is_held
from indexer.disk.manifest import ROWS_MANIFEST, FileEntry, Manifest, code_version, file_digest, write_manifest
from indexer.errors import ArtifactError, InputError, WorkError

log = logging.getLogger(__name__)

OK = "ok"  # the status of a row that has its result; any other status is a short reason code
JOB_FILE = "_job.json"
_FREE = {"batch_size"}  # may change when memory ran out: at most the last bits of a vector change with it
_MARKS, _LOCK, _ASIDE = "_done", "_lock", "_part"


@dataclass(frozen=True, slots=True)
class Job:
    """What decides the rows of a job. Everything in it can be written as JSON."""

    kind: str  # of the folder, as its manifest has it
    schema_version: int
    options: Mapping[str, Any]
    inputs: Mapping[str, str | None]  # name -> digest, None where it is unknown


@dataclass(frozen=True, slots=True)
class Mark:
    """That a shard is done, and what became of its rows. rows = ok + failed, always."""

    shard: int
    first_row: int
    rows: int
    ok: int
    failed: Mapping[str, int]  # reason code -> rows
    examples: Mapping[str, Sequence[str]]  # reason code -> name and reason of the first row of that kind
    names: str  # digest of the photos' names, in order
    sha256: str  # of the rows' file
    size_bytes: int
    ended_at: float  # seconds since 1970


@dataclass(slots=True, eq=False)
class JobFolder:
    """A job's folder, held by this process. Made by `open_job`."""

    path: Path
    job: Job
    done: dict[int, Mark]  # by the number of the shard

    def add(self, number: int, table: pa.Table, *, first_row: int) -> Mark:
        """Write a shard and its mark. A shard without a mark that was written before is written again.

        table: its rows, with the columns photo, status and reason. WorkError where the disk is full; shards that are
        done are kept.
        """
        names, statuses = table["photo"].to_pylist(), table["status"].to_pylist()
        failed = Counter(status for status in statuses if status != OK)
        examples = {
            status: [names[row] or f"row {first_row + row}", table["reason"][row].as_py()]
            for status, row in ((status, statuses.index(status)) for status in failed)
        }
        with _explained(self.path), temporary_folder(self.path, _ASIDE) as aside:
            (self.path / ROWS_MANIFEST).unlink(missing_ok=True)  # of a job that had ended; it names files and rows
            rows = aside / "rows"  # without the suffix, or `**/*.parquet` would find it half written
            pa.parquet.write_table(table, rows)
            mark = Mark(
                shard=number,
                first_row=first_row,
                rows=len(statuses),
                ok=len(statuses) - failed.total(),
                failed=dict(failed),
                examples=examples,
                names=names_digest(names),
                sha256=file_digest(rows),
                size_bytes=rows.stat().st_size,
                ended_at=time.time(),
            )
            place(rows, self.path / part_name(number))
            written = aside / "mark.json"
            written.write_text(json.dumps(asdict(mark)))
            place(written, self.path / _MARKS / f"{number:05d}.json")
        self.done[number] = mark
        return mark

    def finish(self, facts: Mapping[str, Any], *, rows: int | None = None) -> None:
        """Write the manifest, which says that every shard is done; it is the same however often the job was started.

        rows: how many the input has; None if that is not known. WorkError where the shards hold another number of
        rows, or the disk is full.
        """
        if (self.path / ROWS_MANIFEST).is_file():
            return
        job, totals = self.job, totals_of(self.done.values())
        if rows is not None and totals.rows != rows:
            raise WorkError(
                f"{self.path}: {totals.rows:,} rows of an input of {rows:,}. Was it changed while it was read? Give "
                "the command again, or choose another `out`."
            )
        done = sorted(self.done.items())
        files = {part_name(number): FileEntry(mark.sha256, mark.size_bytes) for number, mark in done}
        everything = {"rows": totals.rows, "ok": totals.ok, "failed": dict(totals.failed), **facts}
        manifest = Manifest(job.kind, job.schema_version, job.options, job.inputs, everything, files, code_version())
        with _explained(self.path), temporary_folder(self.path, _ASIDE) as aside:
            write_manifest(aside / ROWS_MANIFEST, manifest)
            place(aside / ROWS_MANIFEST, self.path / ROWS_MANIFEST)


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over shards. rows = ok + failed."""

    rows: int
    ok: int
    failed: Mapping[str, int]  # reason code -> rows
    examples: Mapping[str, Sequence[str]]  # reason code -> name and reason of the first row of that kind


def totals_of(marks: Iterable[Mark]) -> Totals:
    """What all these shards came to."""
    failed: Counter[str] = Counter()
    examples: dict[str, Sequence[str]] = {}
    rows = ok = 0
    for mark in sorted(marks, key=lambda mark: mark.shard):
        rows, ok = rows + mark.rows, ok + mark.ok
        failed.update(mark.failed)
        examples = {**mark.examples, **examples}
    return Totals(rows, ok, dict(sorted(failed.items())), examples)


def part_name(shard: int) -> str:
    """The file of a shard's rows."""
    return f"part-{shard:05d}.parquet"


def part_files(path: Path) -> list[Path]:
    """The files of all shards that are there, in order."""
    found = (file for file in path.glob("part-*.parquet") if re.fullmatch(r"part-\d{5,}", file.stem))
    return sorted(found, key=lambda file: in_order(file.name))


def in_order(name: str) -> tuple[int, str]:
    """What to sort files of shards by: numbers of six digits come after those of five."""
    return len(name), name


def names_digest(names: Sequence[str]) -> str:
    """SHA-256 over names in their order."""
    digest = hashlib.sha256()
    for name in names:
        encoded = name.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


def check_job_target(path: Path) -> None:
    """Raise InputError where no job can begin or go on, as the folder holds something else or cannot be written."""
    with explain_unwritable(path):
        begun = _is_begun(path)
    check_target(path / _ASIDE if begun else path)


def read_job(path: Path) -> Job | None:
    """The job at `path` as it was started; None where there is none, an ArtifactError where its file is damaged."""
    file = path / JOB_FILE
    try:
        found = json.loads(file.read_bytes())
        return Job(str(found["kind"]), int(found["schema_version"]), dict(found["options"]), dict(found["inputs"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{file}: damaged ({error}). Remove the folder, or choose another `out`.") from None


def read_marks(path: Path) -> dict[int, Mark]:
    """The marks of finished shards, by number; an ArtifactError where one is damaged."""
    marks = {}
    for file in (path / _MARKS).glob("*.json") if (path / _MARKS).is_dir() else ():
        if not re.fullmatch(r"\d{5,}", file.stem):
            continue
        try:
            mark = Mark(**json.loads(file.read_bytes()))
            if mark.shard != int(file.stem) or mark.rows != mark.ok + sum(mark.failed.values()):
                raise ValueError("its numbers do not agree")
        except FileNotFoundError:  # its rows are lost, which a job that begins has just seen
            continue
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ArtifactError(f"{file}: damaged mark ({error}). Remove it; its shard is then done again.") from None
        marks[mark.shard] = mark
    return marks


def check_ended(path: Path) -> None:
    """Raise InputError for a folder whose job has not ended: a part of its rows looks like all of them."""
    if (path / JOB_FILE).is_file() and not (path / ROWS_MANIFEST).is_file():
        wait = "is still running. Wait for its end."
        stopped = "has not ended. Run its command again, which goes on where it stopped."
        raise InputError(f"{path}: the job that writes it {wait if is_running(path) else stopped}")


def is_running(path: Path) -> bool:
    """Whether a living process is writing to the folder."""
    return is_held(path / _LOCK)


@contextlib.contextmanager
def open_job(path: Path, job: Job) -> Iterator[JobFolder]:
    """Begin a job at `path`, or continue the one there; this process holds the folder until the block ends.

    Raises:
        InputError: the folder holds something else, or a job of other options or inputs; another process holds it; or
            it cannot be written.
        ArtifactError: its description or one of its marks is damaged.
        WorkError: the disk is full.
    """
    check_job_target(path)
    with contextlib.ExitStack() as stack:
        with _explained(path):
            path.mkdir(parents=True, exist_ok=True)
            busy = f"{path}: another process is writing to it. Wait for its end."
            stack.enter_context(alone(path / _LOCK, busy=busy))
            remove_leftovers(path, _ASIDE)
            (path / _MARKS).mkdir(exist_ok=True)
        before = read_job(path)
        if before is not None and before.kind == job.kind and not (read_marks(path) or part_files(path)):
            before = None  # of a start that ended before its first shard: it binds nobody
        if before is None:
            with _explained(path), temporary_folder(path, _ASIDE) as aside:
                remove_leftovers(path.parent, path.name)  # of a start that was killed while it asked whether it may
                (aside / JOB_FILE).write_text(json.dumps(asdict(job), indent=1, sort_keys=True, allow_nan=False))
                place(aside / JOB_FILE, path / JOB_FILE)
        else:
            _check_same(path, before, job)
        yield JobFolder(path, job, _usable(path, read_marks(path)))


def _is_begun(path: Path) -> bool:
    """Whether a folder is a job's, though its first start may have been killed before it said which."""
    if (path / JOB_FILE).is_file():
        return True
    entries = list(path.iterdir()) if path.is_dir() else []
    return any(entry.name == _LOCK for entry in entries) and all(
        entry.name == _LOCK
        or (entry.name == _MARKS and entry.is_dir() and not any(entry.iterdir()))
        or (entry.name.startswith(f"{_ASIDE}.") and is_temporary(entry))
        for entry in entries
    )


def _usable(path: Path, marks: Mapping[int, Mark]) -> dict[int, Mark]:
    """Marks whose rows are there. Shards whose rows or marks were removed or lost are done again.

    The rows of shards that are to be done again are removed: the input may be shorter now.
    """
    sizes = {file.name: file.stat().st_size for file in part_files(path)}
    usable = {number: mark for number, mark in marks.items() if sizes.get(part_name(number)) == mark.size_bytes}
    parts = {part_name(number) for number in usable}
    try:
        named = set(json.loads((path / ROWS_MANIFEST).read_bytes())["files"])
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        named = None
    if named != parts:
        (path / ROWS_MANIFEST).unlink(missing_ok=True)  # first: it must not outlive what it names
    for number in sorted(marks.keys() - usable.keys()):
        log.warning("%s: not as it was written; its shard is done again", path / part_name(number))
        (path / _MARKS / f"{number:05d}.json").unlink()
    for name in sizes.keys() - parts:
        (path / name).unlink()
    return usable


def _check_same(path: Path, before: Job, now: Job) -> None:
    if before.kind != now.kind:
        raise InputError(f"{path}: holds {before.kind}, not {now.kind}. Choose another `out`.")
    for what, old, new in (("option", before.options, now.options), ("input", before.inputs, now.inputs)):
        old, new = (json.loads(json.dumps(values)) for values in (old, new))  # tuples come back as lists
        for name in sorted((old.keys() | new.keys()) - _FREE):
            if old.get(name) != new.get(name):
                raise InputError(
                    f"{path}: its job began with the {what} {name} {old.get(name)}, this one has {new.get(name)}. "
                    "Rows of both would be mixed: give what it began with, or choose another `out`."
                )


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    with explain_full(path, kept="Shards that are done are kept"), explain_unwritable(path):
        yield
