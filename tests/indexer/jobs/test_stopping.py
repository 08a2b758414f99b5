"""SIGTERM: heard once, acted on between two shards, and nothing of it stays behind."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from indexer.jobs.stopping import Stopped, stopping
from tests.kills import ROOT


@pytest.fixture(autouse=True)
def heard() -> Iterator[list[int]]:
    """SIGTERM that reaches what was there before ends up here, not at the process that tests."""
    numbers: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: numbers.append(number))
    yield numbers
    signal.signal(signal.SIGTERM, before)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_nothing_happens_unless_stop(tmp_path: Path) -> None:
    with stopping() as stop:
        stop.check(tmp_path)
    assert not stop.is_set


def test_the_first_is_heard_and_acted_on_when_a_shard_is_done(
    tmp_path: Path, heard: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with stopping() as stop:
        terminate()
        assert stop.is_set  # and the work goes on
        assert "what is in hand is finished first" in caplog.text
        with pytest.raises(Stopped, match=rf"{tmp_path}: stopped as asked, after a whole shard. Run the same command"):
            stop.check(tmp_path)
    assert heard == []
    assert Stopped.exit_code == 143  # as a shell says of a process that SIGTERM ended


def test_the_second_is_for_who_was_there_before(heard: list[int]) -> None:
    with stopping():
        terminate()
        terminate()
        assert heard == [signal.SIGTERM]


@pytest.mark.parametrize("ask", [True, False])
def test_what_was_there_before_is_back_at_the_end(heard: list[int], ask: bool) -> None:
    def leave() -> None:
        with stopping():
            if ask:
                terminate()
            raise ValueError("why")

    with pytest.raises(ValueError, match="why"):
        leave()
    terminate()
    assert heard == [signal.SIGTERM]


def test_another_thread_cannot_hear_it_and_works_all_the_same(tmp_path: Path) -> None:
    before, found = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with stopping() as stop:
            stop.check(tmp_path)
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


TWICE = """
import sys, time
from indexer.jobs.stopping import stopping
with stopping() as stop:
    print("ready", flush=True)
    while not stop.is_set: time.sleep(0.01)
    print("asked", flush=True)
    time.sleep(60)
"""


def test_a_second_one_ends_the_process_at_once() -> None:
    with subprocess.Popen([sys.executable, "-c", TWICE], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        for line in ("ready\n", "asked\n"):
            assert process.stdout.readline() == line
            process.send_signal(signal.SIGTERM)
    assert process.returncode == -signal.SIGTERM
