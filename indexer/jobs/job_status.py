"""How far a job has come, for who asks from outside: of one that runs, has ended, or died.

While it runs it writes `_status.json` every few seconds. What is done is read from the marks of its shards, which are
right whatever became of the process.
"""

import contextlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from indexer.disk.manifest import ROWS_MANIFEST
from indexer.errors import InputError
from indexer.jobs.job_folder import Job, Mark, Totals, is_running, read_job, read_marks, totals_of
from indexer.jobs.stages import Line

_FILE = "_status.json"
_SECONDS_BETWEEN = 5.0
_RECENT = 20  # shards, that the rate is taken from


class StatusFile:
    """Tells from inside a job how it goes."""

    def __init__(self, folder: Path, line: Line, *, rows: int | None) -> None:
        """rows: of the whole job; None where nobody knows before the end."""
        self._folder, self._line, self._rows = folder, line, rows
        self.began_at = time.time()  # seconds since 1970
        self._written = 0.0
        self.tick()

    @property
    def seconds(self) -> float:
        """Since this start of the job."""
        return time.time() - self.began_at

    def tick(self) -> None:
        """Write the file again, if it is time to."""
        if time.monotonic() - self._written >= _SECONDS_BETWEEN or not self._written:
            self.write()

    def write(self) -> None:
        """Write the file again; a job does not end because it cannot say how far it is."""
        self._written = time.monotonic()
        now = {
            "pid": os.getpid(),
            "started_at": self.began_at,
            "written_at": time.time(),
            "rows": self._rows,
            "stages": [asdict(meter) for meter in self._line.meters],
        }
        aside = self._folder / f"{_FILE}.new"
        with contextlib.suppress(OSError):
            aside.write_text(json.dumps(now))
            aside.rename(self._folder / _FILE)


@dataclass(frozen=True, slots=True)
class Status:
    """How far a job has come."""

    job: Job
    state: Literal["running", "ended", "stopped"]  # stopped: by whatever; the same command goes on with it
    totals: Totals
    rows: int | None  # of the whole job
    rows_per_second: float | None  # over the latest shards of the latest start
    seconds_left: float | None
    stages: Sequence[Mapping[str, Any]]  # of the latest start


def read_status(folder: Path) -> Status:
    """Look at a job's folder from outside.

    Raises:
        InputError: there is no job.
        ArtifactError: what it says of itself is damaged.
    """
    job = read_job(folder)
    if job is None:
        raise InputError(f"{folder}: no job was begun here. Give the folder that a job writes to.")
    ended = (folder / ROWS_MANIFEST).is_file()
    said = _said(folder)
    marks = sorted(read_marks(folder).values(), key=lambda mark: mark.ended_at)
    totals = totals_of(marks)
    rows = totals.rows if ended else said.get("rows")
    rate = _rate([mark for mark in marks if mark.ended_at >= said.get("started_at", 0.0)], said.get("started_at"))
    left = None if ended or rows is None or not rate else (rows - totals.rows) / rate
    running = not ended and is_running(folder)
    state: Literal["running", "ended", "stopped"] = "ended" if ended else "running" if running else "stopped"
    return Status(job, state, totals, rows, rate, left if running else None, said.get("stages", []))


def _said(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / _FILE).read_bytes()))
    except (OSError, ValueError, TypeError):  # killed before its first word; what is done the marks say
        return {}


def _rate(marks: Sequence[Mark], started_at: float | None) -> float | None:
    recent = marks[-_RECENT:]
    if not recent or started_at is None:
        return None
    before = marks[-_RECENT - 1].ended_at if len(marks) > _RECENT else started_at
    return sum(mark.rows for mark in recent) / max(recent[-1].ended_at - before, 1e-9)
