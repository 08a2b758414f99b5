"""Locks: held by one process at a time, freed by the death of their holder."""

import fcntl
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from indexer.disk import lock as locks
from indexer.disk.lock import alone, is_held
from indexer.errors import InputError

SPAWN = multiprocessing.get_context("spawn")


def _hold(lock: Path, held: "multiprocessing.Barrier") -> None:  # type: ignore[valid-type]
    with alone(lock, busy="busy"):
        held.wait()
        signal.pause()


def test_one_holds_it_and_others_are_told(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert not is_held(lock)
    with alone(lock, busy="x is busy. Wait."):
        assert is_held(lock)
        with pytest.raises(InputError, match=r"x is busy\. Wait\."), alone(lock, busy="x is busy. Wait."):
            pass
    assert not is_held(lock)
    with alone(lock):
        assert is_held(lock)
    assert not is_held(lock)


def test_who_only_asks_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "lock"
    with lock.open("w") as asks:
        fcntl.flock(asks, fcntl.LOCK_SH)
        waited = []

        def sleep(seconds: float) -> None:
            waited.append(seconds)
            fcntl.flock(asks, fcntl.LOCK_UN)

        monkeypatch.setattr(locks.time, "sleep", sleep)
        with alone(lock, busy="busy"):
            assert len(waited) == 1


def test_a_killed_holder_blocks_nobody(tmp_path: Path) -> None:
    lock, held = tmp_path / "lock", SPAWN.Barrier(2)
    holder = SPAWN.Process(target=_hold, args=(lock, held))
    holder.start()
    held.wait(60)
    assert is_held(lock)
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join(60)
    assert not is_held(lock)
    with alone(lock, busy="busy"):
        pass
