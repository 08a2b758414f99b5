"""The benchmark of refit against training anew: what holds, what is missed, and that every step works."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import harness
from benchmarks.world.refit import FULL, LINEAGE, PLAIN, QUICK, REFIT, SCRATCH, WHITENED, Way, gain_over, report_ways

ROOT = Path(__file__).parents[2]
ERRORS = np.random.default_rng(0).lognormal(4, 1.5, 2000)
WAYS = {
    PLAIN: Way(5.0, 3 * ERRORS),
    WHITENED: Way(6.0, 1.2 * ERRORS),
    REFIT: Way(15.0, 1.01 * ERRORS),
    LINEAGE: Way(16.0, ERRORS),
    SCRATCH: Way(400.0, ERRORS),
}


def verdicts(
    ways: dict[str, Way], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> tuple[int, dict[str, dict[str, object]]]:
    monkeypatch.setattr(harness, "RESULTS", folder / "benchmarks" / "results")
    harness.RESULTS.mkdir(parents=True, exist_ok=True)
    code = report_ways(ways, FULL, trained_a=380.0, embedding=20.0)
    line = (harness.RESULTS / "world-refit.jsonl").read_text().splitlines()[-1]
    return code, {row["what"]: row for row in json.loads(line)["rows"]}


def test_goals_that_are_reached_hold(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, rows = verdicts(WAYS, monkeypatch, tmp_path)
    assert code == 0
    assert [rows[name]["holds"] for name in WAYS] == [None, None, True, True, None]
    assert rows[REFIT]["speedup"] == pytest.approx(400 / 15)
    assert rows[PLAIN]["points_against_scratch"]["200"] < -10  # type: ignore[index]
    assert "errors -1" in capsys.readouterr().out  # 1.01 / 1.2 is 16 % less, and log(1 + km) a little less than that


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (REFIT, {"seconds": 21.0}),  # 19 times less time than from scratch
        (LINEAGE, {"distance_km": 1.5 * ERRORS}),  # more than two points behind it, and worse than whitened means
    ],
)
def test_goals_that_are_missed_are_told(
    name: str, change: dict[str, object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code, rows = verdicts(WAYS | {name: replace(WAYS[name], **change)}, monkeypatch, tmp_path)  # type: ignore[arg-type]
    assert code == 1
    assert [what for what, row in rows.items() if row["holds"] is False] == [name]


def test_a_refit_that_kept_its_start_is_no_worse_than_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    same = Way(15.0, WAYS[WHITENED].distance_km)
    assert gain_over(WAYS[WHITENED], same).text == "errors +0.0 % (95 %: +0.0 % to +0.0 %), not distinguishable"
    ways = WAYS | {SCRATCH: Way(400.0, same.distance_km), REFIT: same}
    assert verdicts(ways, monkeypatch, tmp_path)[1][REFIT]["holds"]


def test_gains_are_told_in_percent_of_an_error() -> None:
    halved = gain_over(Way(1.0, 2 * ERRORS + 1), Way(1.0, ERRORS))  # log(1 + km) falls by log 2
    assert halved.text == "errors -50.0 % (95 %: -50.0 % to -50.0 %), better"
    assert gain_over(Way(1.0, ERRORS), Way(1.0, 2 * ERRORS + 1)).text.endswith(", worse")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_step_works_on_a_few_photos(tmp_path: Path) -> None:
    assert QUICK.training
    command = [sys.executable, "-m", "benchmarks.world.refit", "--quick", "--out", str(tmp_path / "out")]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in WAYS:
        assert f"\n{name}: median " in done.stdout
