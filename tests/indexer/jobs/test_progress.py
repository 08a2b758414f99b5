"""Progress of a line of stages: what is said, on a terminal and without one, and that nothing of it stays."""

import io
import threading
from collections.abc import Iterator

import pytest
from rich.console import Console

from indexer.jobs import progress
from indexer.jobs.progress import per_second, track_line
from indexer.jobs.stages import Line, Meter


class Batch(list[int]):
    """Something with a length."""


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not {"progress", "decode", "encode"} & {thread.name for thread in threading.enumerate()}


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Standard error, as if it were one."""
    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda stderr: Console(file=screen, force_terminal=True, width=120))
    return screen


def work(line: Line, total: int | None, known: int = 0) -> list[int]:
    """Thirty rows through two stages; how often it was asked to tick."""
    ticks: list[int] = []
    first = line.stage("decode", (Batch(range(5)) for _ in range(6)))
    second = line.stage("encode", (Batch(item) for item in first))
    write = line.meter("write")
    with (
        line,
        track_line(line, "answering", total, known=known, tick=lambda: ticks.append(1), also=lambda: ["3 failed"]),
    ):
        for item in second:
            with write.at_work(len(item)):
                pass
    return ticks


@pytest.mark.parametrize("known", [0, 70])
def test_without_a_terminal_the_end_is_a_line_with_every_stage(known: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert work(Line(), 30 + known, known)
    (text,) = (record.message for record in caplog.records)
    assert text.startswith("answering: 30 of 30, ")  # of what this start has to do
    for stage in ("decode 30, ", "encode 30, ", "write 30, "):
        assert stage in text
    assert "0 of 2 waiting" in text
    assert text.endswith("; 3 failed")


def test_where_nobody_knows_how_many_there_are(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert work(Line(), None)
    assert not caplog.records  # a line comes every quarter of a minute, and it was soon over


def test_on_a_terminal_there_is_a_bar_and_a_line_for_each_stage(terminal: io.StringIO) -> None:
    assert work(Line(), 30)
    screen = terminal.getvalue()
    assert "30/30" in screen
    assert "3 failed" in screen
    for stage in ("decode 30, ", "encode 30, ", "write 30, "):
        assert stage in screen


def test_what_goes_wrong_goes_through(terminal: io.StringIO) -> None:
    line = Line()
    with pytest.raises(ValueError, match="why"), line, track_line(line, "answering", 30):
        raise ValueError("why")


def test_progress_is_that_of_the_slowest_stage() -> None:
    line = Line()
    line.meters += [
        Meter("decode", rows=50, busy_s=2.0, room=2),
        Meter("encode", rows=40, busy_s=9.0, room=2),
        Meter("search", rows=20, busy_s=1.0, room=2),  # takes whole shards
        Meter("write", rows=20, busy_s=99.0),
    ]
    assert progress._through(line) == 40
    assert progress._through(Line()) == 0


@pytest.mark.parametrize(("rate", "text"), [(12_345.6, "12,346/s"), (10, "10/s"), (9.96, "10/s"), (0.123, "0.12/s")])
def test_rates_as_people_read_them(rate: float, text: str) -> None:
    assert per_second(rate) == text
