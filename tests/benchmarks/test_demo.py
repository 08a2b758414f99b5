import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.harness import Report
from benchmarks.world import trust
from benchmarks.world.demo import QUICK, Demo, StepFailed, clear_results
from benchmarks.world.results import METHODS
from indexer.errors import InputError

ROOT = Path(__file__).parents[2]
NAME = "benchmarks.world.demo"


# On a busy machine threads that wait for each other take longer than one that works alone.
ALONE = os.environ | {"OMP_NUM_THREADS": "1"}


def demo(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", NAME, *options], cwd=ROOT, capture_output=True, text=True, env=ALONE)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One run of the whole chain, about half a minute."""
    out = tmp_path_factory.mktemp("demo") / "out"
    return out, demo("--quick", "--out", str(out))


def test_the_whole_chain_runs_and_reports(quick: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, done = quick
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[11/11]" in done.stdout
    assert f"Report: {out / 'report.html'}" in done.stdout
    figures = json.loads((out / "report.json").read_text())
    assert 0 < figures["train_seconds"] < figures["total_seconds"]
    assert len(figures["cells"]) == len(QUICK.tau_max.split(","))
    for method in METHODS:
        assert set(figures[method]["within"]) == {"1", "25", "200", "750", "2500"}
    assert figures["order_check"] == {"queries": 100, "leaves": figures["cells"][-1], "differing": 0}
    assert figures["oracle_cell"]["median_km"] < figures["random"]["median_km"]
    # The report's own arithmetic and the product's evaluator come to the same.
    assert f"100 photos, median {figures['ours']['median_km']:.1f} km" in done.stdout
    assert (out / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_each_command_is_shown_so_that_it_can_be_repeated(
    quick: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    _, done = quick
    shown = [line.split("$ python ", 1)[1].split() for line in done.stdout.splitlines() if "] $ python " in line]
    assert [words[1:3] for words in shown] == [
        ["indexer", "partition"],
        ["training", "fit"],
        ["indexer", "build"],
        ["encoder", "embed"],
        ["encoder", "embed"],
        ["search", "calibrate"],
        ["search", "run"],
        ["search", "evaluate"],
        ["search", "query"],
    ]
    again = subprocess.run([sys.executable, *shown[7]], cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert again.stdout.strip() in done.stdout


@pytest.mark.slow
def test_what_answers_say_of_themselves_is_measured(
    quick: tuple[Path, subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    report = Report("world-trust")
    trust.measure(report, quick[0], tmp_path / "work")
    rows = {row["what"]: row for row in report.rows}
    before, after = rows["calibration error, as fitted"], rows["calibration error, calibrated"]
    assert before["photos"] == after["photos"] == 100
    assert before["right"] == after["right"]
    for point in ("medoid", "mass", "reference"):
        assert rows[f"--point {point}"]["usual_km"] > 0
    for point in ("cell", "medoid", "mass", "reference"):
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
    assert demo("--quick", "--out", str(tmp_path)).returncode == InputError.exit_code


def test_a_failing_step_names_the_command_to_repeat(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with Path(os.devnull).open("w") as quiet:
        run = Demo(QUICK, tmp_path, Console(file=quiet))
        with pytest.raises(StepFailed, match="python -m search evaluate --predictions nowhere") as failure:
            run.command("search", "evaluate", "--predictions", "nowhere", "--truth", "nothing.parquet")
    assert failure.value.exit_code == 1
    assert "nothing.parquet" in capfd.readouterr().err
