"""Bootstrap: against the loop it stands for, and against what statistics knows."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from indexer.errors import InputError
from search.evaluation import bootstrap
from search.evaluation.bootstrap import Interval, intervals, mean_interval, paired_intervals
from search.evaluation.metrics import figures
from search.evaluation.options import Resampling

LIMITS = (25.0, 750.0)


def distances(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    errors = rng.lognormal(5, 2, n).clip(0, 20000)
    errors[rng.random(n) < 0.1] = np.nan
    return errors


@pytest.mark.parametrize("n", [1, 2, 7, 50])
def test_draws_have_the_figures_of_the_photos_in_them(n: int) -> None:
    errors, resampling = distances(n, 0), Resampling(100, 3)
    values = bootstrap._resampled([errors], LIMITS, resampling)[0]
    rng = np.random.default_rng(3)
    for draw in values:
        expected = figures(errors[rng.integers(0, n, n)], LIMITS)  # the same draws, one at a time
        shares = list(expected.within.values())
        np.testing.assert_allclose(draw, [expected.median_km, expected.mean_km, expected.geoscore, *shares])


def test_memory_is_bounded_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = distances(40, 1)
    whole = intervals(errors, LIMITS, Resampling(200))
    monkeypatch.setattr(bootstrap, "_BLOCK", 130)  # three draws at a time
    assert intervals(errors, LIMITS, Resampling(200)) == whole


def test_same_seed_same_bits_other_seed_others() -> None:
    errors = distances(60, 2)
    assert intervals(errors, LIMITS, Resampling(100, 5)) == intervals(errors, LIMITS, Resampling(100, 5))
    assert intervals(errors, LIMITS, Resampling(100, 5)) != intervals(errors, LIMITS, Resampling(100, 6))


def test_the_interval_of_a_share_is_the_binomials() -> None:
    n, share = 400, 0.3
    errors = np.where(np.arange(n) < share * n, 1.0, 1000.0)
    ends = intervals(errors, (25.0,), Resampling(4000)).within["25"]
    half = 1.96 * math.sqrt(share * (1 - share) / n)
    assert ends.low == pytest.approx(100 * (share - half), abs=0.6)
    assert ends.high == pytest.approx(100 * (share + half), abs=0.6)


def test_none_or_all_of_a_few_photos_is_not_certain() -> None:
    ends = intervals(np.full(7, 100.0), (25.0, 750.0), Resampling(100)).within
    assert (ends["25"].low, ends["750"].high) == (0, 100)
    exact = binomtest(0, 7).proportion_ci(0.95, method="exact")
    assert ends["25"].high == pytest.approx(100 * exact.high)
    assert ends["750"].low == pytest.approx(100 - 100 * exact.high)


def test_a_system_is_not_distinguishable_from_itself() -> None:
    errors = distances(80, 3)
    zero = Interval(0.0, 0.0)
    ends = paired_intervals(errors, errors, LIMITS, Resampling(200))
    assert (ends.median_km, ends.mean_km, ends.geoscore, *ends.within.values()) == (zero,) * 5


def test_pairing_finds_a_small_difference_that_single_intervals_hide() -> None:
    errors = np.abs(distances(300, 4))
    errors = np.where(np.isnan(errors), 20000.0, errors)
    better = errors * 0.9
    ends = paired_intervals(better, errors, LIMITS, Resampling(500))
    assert ends.geoscore.low > 0
    assert ends.mean_km.high < 0
    one, other = (intervals(e, LIMITS, Resampling(500)).geoscore for e in (better, errors))
    assert one.low < other.high  # apart from each other they overlap


def test_a_run_that_is_there_several_times_says_no_more_than_once(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = distances(50, 5), distances(50, 6)
    ends = paired_intervals(one, other, LIMITS, Resampling(300))
    for copies in (1, 4):
        again = paired_intervals(*(np.tile(errors, (copies, 1)) for errors in (one, other)), LIMITS, Resampling(300))
        assert again.mean_km.low == pytest.approx(ends.mean_km.low)
        assert again.median_km == ends.median_km
        assert again.within["25"].high == pytest.approx(ends.within["25"].high)
    monkeypatch.setattr(bootstrap, "_BLOCK", 130)
    several = (
        np.stack([distances(20, seed) for seed in range(3)]),
        np.stack([distances(20, seed) for seed in (7, 8, 9)]),
    )
    assert paired_intervals(*several, LIMITS, Resampling(200)) == _at_once(several)


def _at_once(several: tuple[np.ndarray, np.ndarray]) -> bootstrap.Intervals:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "_BLOCK", 1 << 21)
        return paired_intervals(*several, LIMITS, Resampling(200))


def test_draws_of_several_runs_are_photos_and_runs_drawn_apart() -> None:
    runs = np.stack([distances(9, seed) for seed in range(3)])
    values = bootstrap._resampled([runs], LIMITS, Resampling(100, 3))[0]
    photos, which = np.random.default_rng(3), np.random.default_rng([3, 1])
    for draw in values:
        drawn = photos.integers(0, 9, 9)
        expected = figures(runs[which.integers(0, 3, 3)][:, drawn].ravel(), LIMITS)
        shares = list(expected.within.values())
        np.testing.assert_allclose(draw, [expected.median_km, expected.mean_km, expected.geoscore, *shares])


def test_runs_that_disagree_leave_more_open_than_their_photos_do() -> None:
    """The same difference on average, once the same in each run, once from one run of three alone."""
    rng = np.random.default_rng(0)
    other = np.abs(rng.lognormal(4, 1, (3, 400)))
    steady, lucky = 0.8 * other, np.concatenate([0.5 * other[:1], 0.95 * other[1:]])
    ends = [paired_intervals(ours, other, LIMITS, Resampling(1000)).mean_km for ours in (steady, lucky)]
    assert ends[0].high < 0
    assert ends[1].high - ends[1].low > 2 * (ends[0].high - ends[0].low)


@given(st.integers(1, 40), st.integers(0, 3))
def test_ends_are_in_order_and_shares_are_percent(n: int, seed: int) -> None:
    ends = intervals(distances(n, seed), LIMITS, Resampling(100))
    for end in (ends.median_km, ends.mean_km, ends.geoscore, *ends.within.values()):
        assert end.low <= end.high
    assert all(0 <= end.low <= end.high <= 100 for end in ends.within.values())


@pytest.mark.parametrize("wrong", [{"draws": -1}, {"draws": 5}, {"level": 1.0}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError):
        dataclasses.replace(Resampling(), **wrong)


def test_the_interval_of_a_mean_is_that_of_the_normal_law() -> None:
    values = np.random.default_rng(3).normal(2.0, 5.0, 4000)
    ends = mean_interval(values, Resampling(draws=2000))
    expected = 1.96 * values.std() / np.sqrt(len(values))
    assert values.mean() - ends.low == pytest.approx(expected, rel=0.1)
    assert ends.high - values.mean() == pytest.approx(expected, rel=0.1)
    assert mean_interval(np.zeros(50), Resampling()) == Interval(0.0, 0.0)
