"""What every benchmark does: measure, compare with a peer and a floor, print a line, and append a row of JSON."""

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from indexer.disk.manifest import code_version, package_versions

RESULTS = Path(__file__).parent / "results"
_WATCHED_S = 0.02  # between looks at the memory of a process
_PACKAGES = ("numpy", "duckdb", "pyarrow", "faiss-cpu", "faiss-gpu", "torch", "transformers", "s2sphere")


@dataclass(frozen=True, slots=True)
class Timing:
    """Wall-clock seconds of repeated runs."""

    median_s: float
    p95_s: float
    runs: int


@dataclass(frozen=True, slots=True)
class Child:
    """What a command took."""

    seconds: float
    peak_bytes: int
    output: str


def seconds_of(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one run."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def timed(work: Callable[[], object], *, runs: int, warm_up: int = 1) -> Timing:
    """Run `work` again and again."""
    for _ in range(warm_up):
        work()
    seconds = [seconds_of(work) for _ in range(runs)]
    return Timing(statistics.median(seconds), sorted(seconds)[min(runs - 1, int(0.95 * runs))], runs)


# The kernel counts the memory of whoever starts a process as that process's own peak; so a small one starts it.
_MEASURED = """
import json, resource, subprocess, sys
ended = subprocess.run(sys.argv[2:], stdout=subprocess.PIPE)
with open(sys.argv[1], "w") as stream:
    json.dump(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, stream)
sys.stdout.buffer.write(ended.stdout)
raise SystemExit(ended.returncode)
"""


def run_command(*arguments: str | Path) -> Child:
    """Run `python -m ...` and measure that process alone.

    Raises:
        SystemExit: the command failed; it has said why.
    """
    with tempfile.NamedTemporaryFile(suffix=".json") as peak:
        command = [sys.executable, "-c", _MEASURED, peak.name, sys.executable, "-m", *map(str, arguments)]
        started = time.perf_counter()
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        seconds = time.perf_counter() - started
        if ended.returncode:
            raise SystemExit(f"{' '.join(map(str, arguments))} ended with {ended.returncode}")
        kib = json.load(peak)
    return Child(seconds, kib * (1 if sys.platform == "darwin" else 1024), ended.stdout)  # Linux counts in KiB


class AnonPeak:
    """The most memory of its own, without mapped files, that a process has while this is open: as Linux tells it.

    A context manager. `bytes` is 0 where no /proc is.
    """

    def __init__(self, pid: int | None = None) -> None:
        """pid: of the process; None: this one."""
        self.bytes = 0
        self._status = Path("/proc") / ("self" if pid is None else str(pid)) / "status"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(OSError, StopIteration):
                line = next(line for line in self._status.read_text().splitlines() if line.startswith("RssAnon"))
                self.bytes = max(self.bytes, 1024 * int(line.split()[1]))
            self._ended.wait(_WATCHED_S)


class Report:
    """Lines of a benchmark; a missed floor makes the exit code 1."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: list[dict[str, Any]] = []
        self.missed = 0

    def row(self, what: str, text: str, *, holds: bool | None = None, **figures: Any) -> None:
        """Print one line and keep its figures. `holds` says whether a stated floor or bound was kept."""
        verdict = "" if holds is None else "  OK" if holds else "  MISSED"
        print(f"{what}: {text}{verdict}", flush=True)  # noqa: T201
        self.missed += holds is False
        self.rows.append({"what": what, "holds": holds, **{key: _plain(value) for key, value in figures.items()}})

    def finish(self, **settings: Any) -> int:
        """Append everything to `benchmarks/results/<name>.jsonl` and return the exit code."""
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.name}.jsonl"
        line = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "settings": settings,
            "rows": self.rows,
        }
        with path.open("a") as stream:
            stream.write(json.dumps(line, allow_nan=False) + "\n")
        print(f"appended to {path.relative_to(RESULTS.parents[1])}")  # noqa: T201
        return 1 if self.missed else 0


def recorded(name: str) -> list[dict[str, Any]]:
    """What `Report.finish` appended under a name, the newest last; none where it was never run."""
    path = RESULTS / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def machine() -> Mapping[str, Any]:
    """What a figure depends on beside the code."""
    return {
        **code_version(),
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "versions": package_versions(_PACKAGES),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _plain(value: Any) -> Any:
    if isinstance(value, Timing):
        return asdict(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return list(value)
    return value
