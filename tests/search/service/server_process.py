"""`python -m search serve` in a process of its own, for tests."""

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kills import ONE_THREAD, ROOT

_SECONDS = 120


class Server:
    """A process that serves, and the address it names."""

    def __init__(self, world: Path, *flags: object, registry: str = "R") -> None:
        common = ("--registry", world / registry, "--checkpoint", world / "C", "--device", "cpu", "--port", 0)
        command = [sys.executable, "-m", "search", "serve", *map(str, (*common, "--workers", 1, *flags))]
        self.process = subprocess.Popen(command, cwd=ROOT, env=ONE_THREAD, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()
        self.url = self._wait_for(r"is served at (https?://\S+)")

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)

    def _wait_for(self, pattern: str) -> str:
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline:
            for line in self.lines:
                if found := re.search(pattern, line):
                    return found[1]
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        pytest.fail("".join(self.lines))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reading.join()
        assert self.process.stderr is not None
        self.process.stderr.close()


@contextmanager
def server(world: Path, *flags: object, registry: str = "R") -> Iterator[Server]:
    found = Server(world, *flags, registry=registry)
    try:
        yield found
    finally:
        found.close()
