"""Calibration errors by hand and of probabilities that are true by making; coverages beside exact intervals."""

import numpy as np
import pytest

from search.evaluation.options import Resampling
from search.evaluation.reliability import coverage, reliability

NONE = Resampling(0)


def test_by_hand() -> None:
    found = reliability(np.array([0.9, 0.9, 0.9, 0.9, 0.1]), np.array([True, True, True, False, False]), NONE)
    assert found.error == pytest.approx(0.8 * 0.15 + 0.2 * 0.1)
    assert (found.photos, found.right, found.interval) == (5, pytest.approx(0.6), None)
    assert [(each.photos, each.came_true) for each in found.bins] == [(1, 0.0), (4, 0.75)]
    assert found.bins[1].promised == pytest.approx(0.9)


def test_probabilities_at_both_ends_have_a_bin() -> None:
    found = reliability(np.array([0.0, 1.0]), np.array([False, True]), NONE)
    assert (found.error, [each.photos for each in found.bins]) == (0, [1, 1])


def test_true_probabilities_have_an_interval_that_reaches_nothing() -> None:
    rng = np.random.default_rng(0)
    probability = rng.uniform(0, 1, 4000)
    honest = reliability(probability, rng.random(4000) < probability, Resampling(200))
    bold = reliability(probability, rng.random(4000) < probability**2, Resampling(200))
    assert honest.interval is not None
    assert bold.interval is not None
    assert honest.interval.low == 0
    assert honest.interval.high < 0.03
    assert bold.interval.low < bold.error < 0.2
    assert bold.interval.low > 0.12  # a sixth is what it is wrong by on average


def test_photos_that_share_an_answer_leave_more_open() -> None:
    rng = np.random.default_rng(0)
    probability = rng.uniform(0, 1, 300)
    right = rng.random(300) < probability
    albums, many = np.arange(300).repeat(8), (probability.repeat(8), right.repeat(8))
    alone, together = (reliability(*many, Resampling(300), albums=of) for of in (None, albums))
    once = reliability(probability, right, Resampling(300))
    assert alone.error == together.error == pytest.approx(once.error)
    assert alone.interval is not None
    assert together.interval is not None
    assert once.interval is not None
    assert together.interval.low == pytest.approx(once.interval.low)
    assert together.interval.high == pytest.approx(once.interval.high)
    assert alone.interval.high - alone.interval.low < 0.6 * (once.interval.high - once.interval.low)
    radius, away = np.full(2400, 1.0), np.where(many[1], 0.0, 2.0)
    narrow, wide = (coverage(0.5, radius, away, albums=of).interval for of in (None, albums))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_coverage_counts_places_within_and_on_the_radius() -> None:
    radius, away = np.array([10.0, 10, 10, 10]), np.array([5.0, 10, 10.1, np.nan])
    found = coverage(0.5, radius, away)
    assert (found.photos, found.found, found.median_km) == (4, 0.5, 10)
    assert (found.interval.low, found.interval.high) == (
        pytest.approx(0.0676, abs=1e-4),
        pytest.approx(0.9324, abs=1e-4),
    )
    assert coverage(0.9, radius, radius * 0).interval.high == 1
    assert coverage(0.9, radius, radius * 9).interval.low == 0
