"""Processes that are killed: at a change of the file system that is counted, or at a moment nobody chose.

    def test_it(started: Forks) -> None:              # a fixture of tests/conftest.py
        started.run("publish", folder, changes=7)     # calls publish(folder) in a fork, dead before the eighth change

What runs in a fork is a function of the test's module. Arguments travel as JSON; paths become text.
"""

import importlib
import json
import logging
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
from typing import IO, Any, NoReturn

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

    def __init__(self, orders: IO[str], answers: IO[str], module: str) -> None:
        self._orders, self._answers, self._module, self._last = orders, answers, module, 0

    def start(self, work: str, *arguments: object, changes: int | None = None) -> int:
        """Call a function in a process of its own, which dies after so many changes; returns its number."""
        self._last = self._ask("start", self._module, work, arguments, changes)
        return self._last

    def end(self, process: int | None = None) -> int:
        """Wait for one, the last by itself: 0, 1 where it raised, or less than 0 where a signal ended it."""
        return self._ask("end", process or self._last)

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

    def _ask(self, *order: object) -> int:
        self._orders.write(json.dumps(order, default=str) + "\n")
        self._orders.flush()
        return int(self._answers.readline())


@contextmanager
def fork_server() -> Iterator[Callable[[str], Forks]]:
    """Forks that call functions of a module, by its name: of a process like this one, before it starts any thread.

    All that tests import has been imported when they are collected, and is imported for no fork again.
    """
    their_orders, our_orders = os.pipe()
    our_answers, their_answers = os.pipe()
    server = _fork()
    if server == 0:
        os.close(our_orders)
        os.close(our_answers)
        _serve(os.fdopen(their_orders), os.fdopen(their_answers, "w", buffering=1))
    os.close(their_orders)
    os.close(their_answers)
    with os.fdopen(our_answers) as answers:
        with os.fdopen(our_orders, "w") as orders:
            yield lambda module: Forks(orders, answers, module)
        os.waitpid(server, 0)


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.12 on, where there are other threads
        return os.fork()


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


def _serve(orders: IO[str], answers: IO[str]) -> NoReturn:
    """Fork at each order, until there are no more. Only children use libraries that start threads."""
    # As in a process that pytest knows nothing of: a warning is no error, and a command chooses where its log goes.
    warnings.resetwarnings()
    warnings.simplefilter("ignore")
    logging.getLogger().handlers.clear()
    # The death of a process, unlike that of a machine, loses nothing that was written: it need not reach the disk.
    os.fsync = lambda _: None  # type: ignore[assignment]
    os.chdir(ROOT)
    os.dup2(2, 1)  # what a function prints is no answer
    for line in orders:
        order, *details = json.loads(line)
        if order == "start":
            importlib.import_module("pandas")  # pyarrow would import it in every child
            print(_child(*details), file=answers)
        else:
            print(os.waitstatus_to_exitcode(os.waitpid(details[0], 0)[1]), file=answers)
    os._exit(0)


def _child(module: str, work: str, arguments: list[Any], changes: int | None) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        if changes is not None:
            die_after(changes)
        getattr(sys.modules[module], work)(*arguments)
        status = 0
    except BaseException:  # noqa: BLE001 (whatever it is, it must not go on as the server)
        traceback.print_exc()
    os._exit(status)
