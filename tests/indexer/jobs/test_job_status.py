"""How far a job is, from outside: one that runs, has ended, was killed, or never said a word."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from indexer.errors import ArtifactError, InputError
from indexer.jobs.job_folder import Job, JobFolder, open_job
from indexer.jobs.job_status import StatusFile, read_status
from indexer.jobs.stages import Line

JOB = Job("rows", 1, {"size": 3}, {"photos": "a" * 64})
ROWS = 4


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Time that passes only when it is told to: begins at 1,000 s."""
    now = [1000.0]
    for name in ("indexer.jobs.job_status.time.time", "indexer.jobs.job_status.time.monotonic"):
        monkeypatch.setattr(name, lambda: now[0])

    def pass_by(seconds: float) -> None:
        now[0] += seconds

    return pass_by


def add(folder: JobFolder, *numbers: int) -> None:
    for number in numbers:
        status = ["ok"] * (ROWS - 1) + ["missing"]
        names = [f"{number}-{row}" for row in range(ROWS)]
        table = pa.table({"photo": names, "status": status, "reason": status})
        folder.add(number, table, first_row=number * ROWS)


def test_where_no_job_was_begun(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match="no job was begun here"):
            read_status(path)


def test_a_job_that_runs_tells_rate_and_time_left(tmp_path: Path, clock: Callable[[float], None]) -> None:
    line = Line()
    meter = line.meter("write")
    with open_job(tmp_path / "O", JOB) as folder:
        status = StatusFile(tmp_path / "O", line, rows=20)
        found = read_status(tmp_path / "O")
        assert (found.state, found.totals.rows, found.rows) == ("running", 0, 20)
        assert (found.rows_per_second, found.seconds_left) == (None, None)
        assert found.job == JOB
        for number in range(3):
            clock(2.0)
            with meter.at_work(ROWS):
                add(folder, number)
        assert status.seconds == 6.0
        found = read_status(tmp_path / "O")
        assert (found.state, found.totals.rows, found.totals.ok, found.totals.failed) == (
            "running",
            12,
            9,
            {"missing": 3},
        )
        assert found.rows_per_second == pytest.approx(2.0)
        assert found.seconds_left == pytest.approx(4.0)
        assert found.stages[0].rows == 0  # as it was at the start
        status.tick()
        assert [(stage.name, stage.rows) for stage in read_status(tmp_path / "O").stages] == [("write", 12)]


def test_the_file_is_written_now_and_then_only(tmp_path: Path, clock: Callable[[float], None]) -> None:
    line = Line()
    meter = line.meter("write")
    with open_job(tmp_path / "O", JOB):
        status = StatusFile(tmp_path / "O", line, rows=None)
        rows = []
        for _ in range(6):
            clock(1.0)
            meter.rows += 1
            status.tick()
            rows.append(read_status(tmp_path / "O").stages[0].rows)
        assert rows == [0, 0, 0, 0, 5, 5]


def test_a_job_that_was_stopped_and_goes_on(tmp_path: Path, clock: Callable[[float], None]) -> None:
    with open_job(tmp_path / "O", JOB) as folder:
        StatusFile(tmp_path / "O", Line(), rows=20)
        clock(4.0)
        add(folder, 0)
    found = read_status(tmp_path / "O")
    assert (found.state, found.totals.rows, found.seconds_left) == ("stopped", 4, None)
    assert found.rows_per_second == pytest.approx(1.0)
    clock(10_000.0)  # which is no part of the next start's rate
    with open_job(tmp_path / "O", JOB) as folder:
        StatusFile(tmp_path / "O", Line(), rows=20)
        assert read_status(tmp_path / "O").rows_per_second is None
        clock(1.0)
        add(folder, 1)
        found = read_status(tmp_path / "O")
        assert (found.state, found.totals.rows) == ("running", 8)
        assert found.rows_per_second == pytest.approx(4.0)
        assert found.seconds_left == pytest.approx(3.0)


def test_the_rate_is_that_of_the_latest_shards(tmp_path: Path, clock: Callable[[float], None]) -> None:
    with open_job(tmp_path / "O", JOB) as folder:
        StatusFile(tmp_path / "O", Line(), rows=None)
        for number in range(30):
            clock(100.0 if number < 5 else 1.0)
            add(folder, number)
        found = read_status(tmp_path / "O")
    assert found.rows_per_second == pytest.approx(4.0)
    assert (found.rows, found.seconds_left) == (None, None)  # nobody knows how many there are


def test_a_job_that_has_ended(tmp_path: Path, clock: Callable[[float], None]) -> None:
    with open_job(tmp_path / "O", JOB) as folder:
        StatusFile(tmp_path / "O", Line(), rows=None)
        clock(1.0)
        add(folder, 0, 1)
        folder.finish({})
        assert read_status(tmp_path / "O").state == "ended"
    found = read_status(tmp_path / "O")
    assert (found.state, found.rows, found.totals.rows, found.seconds_left) == ("ended", 8, 8, None)


@pytest.mark.parametrize("content", [None, b"", b"[1, 2", b"5", b"\xff"])
def test_a_job_that_said_nothing_whole(tmp_path: Path, content: bytes | None) -> None:
    """What is done is known from the marks."""
    with open_job(tmp_path / "O", JOB) as folder:
        add(folder, 0)
    if content is not None:
        (tmp_path / "O" / "_status.json").write_bytes(content)
    found = read_status(tmp_path / "O")
    assert (found.state, found.totals.rows, found.rows, found.rows_per_second) == ("stopped", 4, None, None)
    assert list(found.stages) == []


def test_damage_is_named(tmp_path: Path) -> None:
    with open_job(tmp_path / "O", JOB) as folder:
        add(folder, 0)
    (tmp_path / "O" / "_done" / "00000.json").write_text("{")
    with pytest.raises(ArtifactError, match="damaged mark"):
        read_status(tmp_path / "O")


def test_a_full_disk_does_not_end_a_job_that_tells_how_it_goes(
    tmp_path: Path, clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with open_job(tmp_path / "O", JOB):
        status = StatusFile(tmp_path / "O", Line(), rows=7)
        monkeypatch.setattr(Path, "write_text", full)
        clock(60.0)
        status.tick()
    assert json.loads((tmp_path / "O" / "_status.json").read_bytes())["rows"] == 7
