"""Processes that are killed: at a change of the file system that is counted, or at a moment nobody chose.

    with forks(__name__) as started:                  # a process that has imported this module
        started.run("publish", folder, changes=7)     # calls publish(folder) in a fork, dead before the eighth change

What runs in a fork is a function of the module. Arguments travel as JSON; paths become text.
"""

import importlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

KILLED = -signal.SIGKILL
ROOT = Path(__file__).parents[1]
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}  # sums of other parts round otherwise
# Events of the interpreter: changes, and looks at what others left.
_CHANGES = {
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.symlink",
    "os.link",
    "fcntl.flock",
    "os.listdir",
    "os.scandir",
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_SECONDS = 120.0  # for anything to happen


def die_after(changes: int) -> None:
    """Have this process killed before it changes the file system once more than so many times."""
    left = changes

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event == "open":
            _, mode, flags = arguments
            if mode is not None and not flags & _WRITING:  # `open` to read; `os.open` is there to lock and to sync
                return
        elif event not in _CHANGES:  # `os.kill` is an event itself
            return
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


class Forks:
    """Processes that start at once, because what they import is imported already."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._orders, self._answers = process.stdin, process.stdout

    def start(self, work: str, *arguments: object, changes: int | None = None) -> int:
        """Call a function in a process of its own, which dies after so many changes; returns its number."""
        self._orders.write(json.dumps([work, arguments, changes], default=str) + "\n")
        self._orders.flush()
        return int(self._answers.readline())

    def end(self) -> int:
        """Wait for it: 0, 1 where it raised, or less than 0 where a signal ended it."""
        return int(self._answers.readline())

    def run(self, work: str, *arguments: object, changes: int | None = None) -> int:
        """Both."""
        self.start(work, *arguments, changes=changes)
        return self.end()

    def kill_after(self, delay_s: float, work: str, *arguments: object) -> None:
        """Start work that does not end, and kill it."""
        process = self.start(work, *arguments)
        time.sleep(delay_s)
        os.kill(process, signal.SIGKILL)
        assert self.end() == KILLED


@contextmanager
def forks(module: str) -> Iterator[Forks]:
    """A process that forks itself to call functions of a module, which it has imported."""
    command = [sys.executable, "-m", __name__, module]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, cwd=ROOT, env=ONE_THREAD) as process:
        yield Forks(process)


def fork(work: Callable[..., object], *arguments: object) -> BaseProcess:
    """Call a function in a fork of this process, for which nothing is imported again; it must be waited for.

    Only for work that needs no thread, no server of processes and no gradients from before: none survives a fork.
    """
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.12 on, where there are other threads
        process.start()
    return process


def kill_when(process: subprocess.Popen[Any], ready: Callable[[], bool], *, delay_s: float = 0.0) -> bool:
    """Kill a process some time after something has become true; whether it had not ended before."""
    deadline = time.monotonic() + _SECONDS
    try:
        while process.poll() is None and not ready():
            if time.monotonic() > deadline:
                pytest.fail(f"nothing to kill it for in {_SECONDS:.0f} s")
            time.sleep(0.01)
        time.sleep(delay_s)
    finally:
        process.kill()
    return process.wait() == KILLED


def _serve(module: str) -> None:
    works = importlib.import_module(module)
    # pyarrow would import it in every child. Only children use libraries that start threads: none survives a fork.
    importlib.import_module("pandas")
    # The death of a process, unlike that of a machine, loses nothing that was written: it need not reach the disk.
    os.fsync = lambda _: None  # type: ignore[assignment]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a function prints is no answer
    for line in sys.stdin:
        work, arguments, changes = json.loads(line)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                if changes is not None:
                    die_after(changes)
                getattr(works, work)(*arguments)
                status = 0
            except BaseException:  # noqa: BLE001 (whatever it is, it must not go on as the server)
                traceback.print_exc()
            os._exit(status)
        print(child, file=answers)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers)


if __name__ == "__main__":
    _serve(sys.argv[1])
