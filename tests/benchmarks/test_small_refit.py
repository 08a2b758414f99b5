"""The benchmark of refits of few photos: its photos can be placed, and a refit worse than its start is missed."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import harness, small_refit
from benchmarks.harness import Report
from benchmarks.small_refit import SETTINGS, Trial, compare, draw, measure, report_trials

CITY = SETTINGS[0]


def trials(gains: list[float]) -> list[Trial]:
    return [Trial(150, "fitted", 0.2, 0.2, gain, gain - 0.01, gain + 0.01, 1.0) for gain in gains]


@pytest.mark.parametrize(
    ("gains", "holds"),
    [
        ([0.0] * 6, True),  # means that were kept
        ([0.01, 0.02, 0.01], True),
        ([0.02, -0.03, 0.01, -0.01], True),  # chance
        ([-0.02, -0.03, -0.025, -0.021], False),
    ],
)
def test_a_refit_that_is_worse_by_more_than_chance_is_missed(
    gains: list[float], holds: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report("small-refit")
    report_trials(report, "city", trials(gains), photos=600)
    assert report.rows[0]["holds"] is holds
    assert report.missed == (not holds)
    assert "600 photos, 150 leaves" in capsys.readouterr().out


def test_photos_can_be_placed_by_their_vectors_and_not_all_too_well() -> None:
    photos = draw(replace(CITY, photos=1500), seed=0)
    assert photos.vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(photos.vectors, axis=1), 1, atol=1e-6)
    span = CITY.span_km * 1.2 / 111
    assert (np.abs(photos.lat_deg - 48) < span).all()
    # One direction is shared by all, and the strongest of the others say nothing of the place.
    centred = photos.vectors - photos.vectors.mean(axis=0)
    assert np.linalg.norm(photos.vectors.mean(axis=0)) > 0.4
    share = np.linalg.svd(centred, compute_uv=False) ** 2
    assert share[:8].sum() > 0.8 * share.sum()
    trial = compare(photos, np.arange(600), CITY.tau_max, seed=0)
    assert 100 < trial.leaves < 200
    assert 0.05 < trial.means_km < 1
    assert trial.low <= trial.gain <= trial.high
    assert trial.high >= 0


def test_every_step_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "benchmarks" / "results")
    harness.RESULTS.mkdir(parents=True)
    monkeypatch.setattr(small_refit, "SPLITS", 2)
    assert measure(1, [replace(CITY, photos=700, known=200, tau_max=(40, 8))], None) == 0
    line = json.loads((harness.RESULTS / "small-refit.jsonl").read_text())
    assert [row["what"] for row in line["rows"]] == ["city"]
    assert len(line["rows"][0]["trials"]) == 2
