"""The benchmark of refitting: its photos can be placed by their vectors, and its extrapolation is plain arithmetic."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import refit_scale
from benchmarks.harness import Report
from benchmarks.partition import MP16_PHOTOS, photo_places
from benchmarks.place_vectors import PlaceVectors
from benchmarks.refit_scale import Refit, extrapolate, write_features
from indexer.cells.hierarchy import build_hierarchy, sorted_ids
from indexer.cells.partition import PartitionRule
from indexer.vectors.features import open_features
from indexer.vectors.prototypes import Placement, prototypes
from training.config import RefitConfig


def test_photos_are_where_their_vectors_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refit_scale, "_SHARD", 1500)
    rule = PartitionRule(tau_max=(400, 100), tau_min=20)
    hierarchy = build_hierarchy(sorted_ids(photo_places(4000, seed=0)), rule=rule)
    write_features(tmp_path / "F", 4000, hierarchy, width=32, seed=0)
    features = open_features(tmp_path / "F")
    batches = list(features)
    assert sum(len(batch) for batch in batches) == features.rows == 4000
    assert len({name for batch in batches for name in batch.photo}) == 4000
    means = prototypes(features, Placement(hierarchy), shrinkage=0.5).geocells
    batch = batches[0]
    leaf = hierarchy.locate(batch.lat_deg, batch.lng_deg)[:, -1]
    inside = leaf >= 0
    found = (means.compared(batch.embedding) @ means.vectors[-1].T).argmax(axis=1)
    assert np.mean((found == leaf)[inside]) > 0.3  # of some 60 cells
    raw = batch.embedding @ PlaceVectors(32, seed=0).geocells(hierarchy).vectors[-1].T
    assert np.mean((raw.argmax(axis=1) == leaf)[inside]) < 0.9  # not a task that solves itself


def test_mp16_is_on_the_line_through_both_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    """Times and memory of a refit that takes a fixed part and so much for each photo, step and look."""

    def refit(photos: int, steps: int, byte: float = 900) -> Refit:
        return Refit(photos, steps, 5 + 1e-4 * photos, 2 + 1e-5 * photos, 0.5 * steps + 2 * 4, int(1e9 + byte * photos))

    report = Report("refit-scale")
    extrapolate(report, refit(200_000, 8), refit(400_000, 24))
    memory, time = report.rows
    assert memory["holds"]
    assert memory["peak_bytes"] == pytest.approx(1e9 + 900 * MP16_PHOTOS)
    expected = {
        "start_s": 5 + 1e-4 * MP16_PHOTOS,
        "lay_out_s": 2 + 1e-5 * MP16_PHOTOS,
        "step_s": 0.5,
        "look_s": 8,
    }  # at twice as many photos
    assert {name: time[name] for name in expected} == pytest.approx(expected)
    # The fit that is chosen, the vectors laid out again, and as many steps with all of them.
    laid_out = 2 + 1e-5 * MP16_PHOTOS
    assert time["most_s"] == pytest.approx(RefitConfig.epochs * (2 * 0.5 * 489 + 8) + laid_out)
    assert time["least_s"] == pytest.approx(RefitConfig.patience * (0.5 * 489 + 8))
    extrapolate(report, refit(200_000, 8, byte=2000), refit(400_000, 24, byte=2000))
    assert report.missed == 1
    assert "MISSED" in capsys.readouterr().out
