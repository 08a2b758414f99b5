"""A command's peak memory is its own, whatever the process that measures it has taken."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness import run_command


def test_the_peak_is_the_commands_own() -> None:
    ballast = np.ones(80_000_000)  # 640 MB
    child = run_command("timeit", "-n", "1", "-r", "1", "x = bytearray(100_000_000)")
    assert 100e6 < child.peak_bytes < 300e6
    assert "loop" in child.output
    assert ballast.sum() > 0


def test_a_command_that_fails_ends_the_benchmark(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="ended with"):
        run_command("json.tool", tmp_path / "none")
