"""The benchmark of rerankers: one that makes answers worse is missed, and its small worlds are sound."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import harness, reranker
from benchmarks.harness import Report
from benchmarks.reranker import Comparison, measure, report_comparisons, small_world
from benchmarks.small_refit import SETTINGS
from search.calibration import photo_fit, photo_numbers, reranker_fit

CITY = SETTINGS[0]


@pytest.mark.parametrize(
    ("gains", "holds"),
    [
        ([0.0] * 4, True),  # none was kept
        ([0.04], True),
        ([-0.005], True),  # chance
        ([-0.02], False),
        ([0.02, -0.03, 0.01, -0.01], True),
        ([-0.02, -0.03, -0.025, -0.021], False),
    ],
)
def test_a_reranker_that_makes_answers_worse_by_more_than_chance_is_missed(
    gains: list[float], holds: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report("reranker")
    found = [Comparison(gain != 0, 0.1, 0.2, 0.2, gain, gain - 0.01, gain + 0.01, 1.3) for gain in gains]
    report_comparisons(report, "city", found)
    assert report.rows[0]["holds"] is holds
    out = capsys.readouterr().out
    assert f"kept in {sum(gain != 0 for gain in gains)} of {len(gains)}" in out
    assert "1.30 times as long" in out


def test_a_small_world_is_measured_and_nobody_is_in_it_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "benchmarks" / "results")
    monkeypatch.setattr(reranker, "_HELD_OUT", 110)
    monkeypatch.setattr(reranker, "_UNSEEN", 100)
    monkeypatch.setattr(reranker, "_RUNS", 1)
    monkeypatch.setattr(reranker_fit, "_STEPS", 20)
    monkeypatch.setattr(photo_fit, "_GRIDS", {"similarity": (0.02, 0.08), "near": (20,), "growth": (0.5,)})
    monkeypatch.setattr(photo_fit, "_TEMPERATURES", np.ones(1))
    monkeypatch.setattr(photo_fit, "_WIDTHS", np.array([0.25, 1.0]))
    monkeypatch.setattr(photo_numbers, "_POINT_WIDTHS", np.array([1.0]))
    few = replace(CITY, known=200)
    (tmp_path / "W").mkdir()
    bundle, held, unseen = small_world(few, tmp_path / "W", seed=0)
    assert bundle.gallery is not None
    assert (len(bundle.gallery), len(held), len(unseen)) == (200, 110, 100)
    queries = np.concatenate([bundle.gallery.vectors(0, 200), held.queries, unseen.queries])
    assert len(set(held.name)) == len(held)
    similarity = queries @ queries.T - 2 * np.eye(len(queries))
    assert similarity.max() < 0.99999
    (tmp_path / "benchmarks").mkdir()
    assert measure(1, [few], None) in (0, 1)
    line = json.loads((harness.RESULTS / "reranker.jsonl").read_text())
    (row,) = line["rows"]
    (found,) = row["comparisons"]
    assert found["low"] <= found["gain"] <= found["high"]
    assert (found["cost"] is not None) == found["kept"]
    assert found["kept"] or found["gain"] == 0
