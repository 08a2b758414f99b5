import importlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace

import pytest
from rich.console import Console

from benchmarks.harness import Report
from benchmarks.world import trust
from benchmarks.world.demo import QUICK, Demo, StepFailed, clear_results
from benchmarks.world.demo import main as main_of_demo
from benchmarks.world.results import METHODS
from indexer.cli import main
from indexer.earth.geo import distance_text
from indexer.errors import InputError
from tests.benchmarks.conftest import SMALL_ENCODER

ROOT = Path(__file__).parents[2]


def in_process(arguments: Sequence[str], *, stdout: int | None = None, **_: object) -> CompletedProcess[str]:
    """`subprocess.run` of a command of the product, without the seconds that another interpreter takes to start."""
    package, *words = arguments[2:]
    with redirect_stdout(io.StringIO()) as printed:
        code = main(package, "test", importlib.import_module(f"{package}.__main__").COMMANDS, argv=words)
    if stdout is None:
        sys.stdout.write(printed.getvalue())
    return CompletedProcess(arguments, code, printed.getvalue())


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """One run of the whole chain: its folder, and what it has printed."""
    out = tmp_path_factory.mktemp("demo") / "out"
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        patch.chdir(ROOT)
        patch.setattr("benchmarks.world.demo.subprocess", SimpleNamespace(run=in_process, PIPE=subprocess.PIPE))
        patch.setattr("benchmarks.world.demo.QUICK", replace(QUICK, training=(*QUICK.training, *SMALL_ENCODER)))
        assert main_of_demo(["--quick", "--out", str(out)]) == 0
    return out, printed.getvalue()


def test_the_whole_chain_runs_and_reports(quick: tuple[Path, str]) -> None:
    out, printed = quick
    assert "[13/13]" in printed
    assert f"Report: {out / 'report.html'}" in printed
    figures = json.loads((out / "report.json").read_text())
    assert 0 < figures["train_seconds"] < figures["total_seconds"]
    assert len(figures["cells"]) == len(QUICK.tau_max.split(","))
    for method in METHODS:
        assert set(figures[method]["within"]) == {"1", "25", "200", "750", "2500"}
    assert figures["order_check"] == {"queries": 100, "leaves": figures["cells"][-1], "differing": 0}
    assert figures["oracle_cell"]["median_km"] < figures["random"]["median_km"]
    # The report's own arithmetic and the product's evaluator come to the same.
    assert f"100 photos, median {distance_text(figures['ours']['median_km'], exact=True)}" in printed
    assert f"100 photos, median {distance_text(figures['without_maps']['median_km'], exact=True)}" in printed
    assert {"run", "run without maps"} <= set(figures["seconds"])  # apart: goals are of the first
    assert (out / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_each_command_is_shown_so_that_it_can_be_repeated(
    quick: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, printed = quick
    shown = [line.split("$ python ", 1)[1].split() for line in printed.splitlines() if "] $ python " in line]
    assert [words[1:3] for words in shown] == [
        ["indexer", "partition"],
        ["training", "fit"],
        ["indexer", "build"],
        ["encoder", "embed"],
        ["encoder", "embed"],
        ["search", "calibrate"],
        ["search", "run"],
        ["search", "evaluate"],
        ["search", "run"],
        ["search", "evaluate"],
        ["search", "query"],
    ]
    monkeypatch.chdir(ROOT)
    again = in_process(["python", *shown[7]], stdout=subprocess.PIPE)
    assert again.returncode == 0
    assert again.stdout.strip() in printed


@pytest.mark.slow
def test_what_answers_say_of_themselves_is_measured(
    quick: tuple[Path, str],
    tmp_path: Path,
) -> None:
    report = Report("world-trust")
    trust.measure(report, quick[0], tmp_path / "work")
    rows = {row["what"]: row for row in report.rows}
    before, after = rows["calibration error, as fitted"], rows["calibration error, calibrated"]
    assert before["photos"] == after["photos"] == 100
    for point in ("density, beside cells alone", *trust.POINTS):
        assert rows[f"--point {point}"]["usual_km"] > 0
    for point in ("density", "cell, by cells alone", *trust.POINTS):
        half, most = (rows[f"within the {share}% radius around --point {point}"] for share in (50, 90))
        assert half["median_km"] <= most["median_km"]
        assert half["photos"] == most["photos"] == 100


def test_trust_is_of_a_finished_demo(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="make demo"):
        trust.measure(Report("world-trust"), tmp_path, tmp_path / "work")


def test_earlier_results_go_and_the_world_stays(tmp_path: Path) -> None:
    for name in ("world", "run", "world.tmp-17"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    (tmp_path / "report.html").touch()
    (tmp_path / "registry").symlink_to(tmp_path / "world", target_is_directory=True)
    clear_results(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["world", "world.tmp-17"]
    assert (tmp_path / "world" / "file").exists()


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"thesis\.tex"):
        clear_results(tmp_path)
    assert (tmp_path / "features").is_dir()
    command = [sys.executable, "-m", "benchmarks.world.demo", "--quick", "--out", str(tmp_path)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == InputError.exit_code


def test_a_failing_step_names_the_command_to_repeat(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with Path(os.devnull).open("w") as quiet:
        run = Demo(QUICK, tmp_path, Console(file=quiet))
        with pytest.raises(StepFailed, match=r"python -m indexer partition --photos nothing\.parquet") as failure:
            run.command("indexer", "partition", "--photos", "nothing.parquet", "--out", "nowhere")
    assert failure.value.exit_code == 1
    assert "nothing.parquet" in capfd.readouterr().err
