"""What can be chosen for measuring: refused where it makes no sense, in words of fields, before anything is read."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from indexer.errors import InputError
from search.evaluation.options import AuditConfig, BenchmarkName, EvaluateConfig, Resampling, benchmark_named


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Resampling(-1), "`resamples` must be 0"),
        (lambda: Resampling(5), "at least 100"),
        (lambda: EvaluateConfig(benchmark="imagenet"), "`benchmark` 'imagenet'"),
        (lambda: EvaluateConfig(against=Path("O"), resampling=Resampling(0)), "`against` compares by drawing"),
        (lambda: AuditConfig(features=Path("F")), "`features` and `reference_features` together"),
        (lambda: AuditConfig(reference_split="train"), "`reference_split` goes with `references`"),
        (lambda: AuditConfig(workers=0), "`workers` must be at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        wrong()


def test_a_benchmark_may_be_spelled_in_any_way() -> None:
    assert EvaluateConfig(benchmark="IM2GPS-3k").benchmark_name == "im2gps3k"
    assert EvaluateConfig().benchmark_name is None


def test_command_lines_load_nothing_heavy_for_them() -> None:
    code = "import sys, search.evaluation_commands; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "faiss", "pyarrow", "numpy", "matplotlib", "jinja2"} & set(done.stdout.split())


def test_names_are_a_closed_list_in_any_spelling() -> None:
    for name in get_args(BenchmarkName):
        assert benchmark_named(name) == benchmark_named(name.upper()) == name
    assert benchmark_named("IM2GPS-3k") == "im2gps3k"
    assert benchmark_named("osv_5m") == "osv5m"
    with pytest.raises(InputError, match="there are im2gps, im2gps3k"):
        benchmark_named("im2gps4k")
