"""How far a job has come, seen from outside: a job that runs, has ended, or was killed.

A running job writes `_status.json` every few seconds. Which shards are done is read from their marks, which are right
even if the process was killed.
"""

import contextlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from indexer.disk.manifest import ROWS_MANIFEST
from indexer.errors import InputError
from indexer.jobs.job_folder import Job, Mark, Totals, is_running, read_job, read_marks, totals_of
from indexer.jobs.stages import Line, Meter

_FILE = "_status.json"
_SECONDS_BETWEEN = 5.0
_RECENT = 20  # shards, that the rate is taken from


class StatusFile:
    """The file by which a running job says how far it is."""

    def __init__(self, folder: Path, line: Line, *, rows: int | None) -> None:
        """rows: of the whole job; None if that is not known before the end."""
        self._folder, self.line, self.rows = folder, line, rows
        self.began_at = time.time()  # seconds since 1970
        self.write()

    @property
    def seconds(self) -> float:
        """Since this start of the job."""
        return time.time() - self.began_at

    def tick(self) -> None:
        """Write the file again, if it is time to."""
        if time.monotonic() - self._written >= _SECONDS_BETWEEN:
            self.write()

    def write(self) -> None:
        """Write the file again; a job does not end because it cannot say how far it is."""
        self._written = time.monotonic()
        now = {
            "pid": os.getpid(),
            "started_at": self.began_at,
            "written_at": time.time(),
            "rows": self.rows,
            "stages": [asdict(meter) for meter in self.line.meters],
        }
        aside = self._folder / f"{_FILE}.new"
        with contextlib.suppress(OSError):
            aside.write_text(json.dumps(now))
            aside.rename(self._folder / _FILE)


@dataclass(frozen=True, slots=True)
class Status:
    """How far a job has come."""

    job: Job
    state: Literal["running", "ended", "stopped"]  # stopped: the same command continues it
    totals: Totals
    rows: int | None  # of the whole job
    rows_per_second: float | None  # over the latest shards of the latest start
    seconds_left: float | None
    stages: Sequence[Meter]  # of the latest start


def read_status(folder: Path) -> Status:
    """Look at a job's folder from outside.

    Raises:
        InputError: there is no job.
        ArtifactError: its description or one of its marks is damaged.
    """
    job = read_job(folder)
    if job is None:
        raise InputError(f"{folder}: no job was begun here. Give the folder that a job writes to.")
    try:
        written = json.loads((folder / _FILE).read_bytes())
        stages = [Meter(**stage) for stage in written["stages"]]
    except (OSError, ValueError, TypeError, KeyError):  # killed before it wrote; the marks say what is done
        written, stages = {}, []
    started_at = written.get("started_at")
    marks = sorted(read_marks(folder).values(), key=lambda mark: mark.ended_at)
    totals, rate = totals_of(marks), _rate(marks, started_at)
    if (folder / ROWS_MANIFEST).is_file():
        return Status(job, "ended", totals, totals.rows, rate, None, stages)
    rows, running = written.get("rows"), is_running(folder)
    left = (rows - totals.rows) / rate if running and rows is not None and rate else None
    return Status(job, "running" if running else "stopped", totals, rows, rate, left, stages)


def _rate(marks: Sequence[Mark], started_at: float | None) -> float | None:
    """Rows a second over the latest shards of the latest start. marks: in the order of their time."""
    if started_at is None:
        return None
    before, *latest = [started_at, *(mark.ended_at for mark in marks if mark.ended_at >= started_at)][-_RECENT - 1 :]
    rows = sum(mark.rows for mark in marks[len(marks) - len(latest) :])
    return rows / max(latest[-1] - before, 1e-9) if latest else None
