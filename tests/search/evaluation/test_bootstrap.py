"""Bootstrap: against the loop it stands for, and against what statistics knows."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from search.evaluation import bootstrap
from search.evaluation.bootstrap import Interval, intervals, mean_interval, paired_intervals, share_interval
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


def test_albums_are_drawn_each_with_all_its_photos() -> None:
    errors, albums = distances(12, 0), np.array([7, 7, 7, 2, 2, 5, 9, 9, 9, 9, 9, 1])
    values = bootstrap._resampled([errors], LIMITS, Resampling(100, 3), albums)[0]
    rng, numbers = np.random.default_rng(3), np.unique(albums)
    for draw in values:
        drawn = [np.flatnonzero(albums == numbers[album]) for album in rng.integers(0, 5, 5)]
        expected = figures(errors[np.concatenate(drawn)], LIMITS)
        shares = list(expected.within.values())
        np.testing.assert_allclose(draw, [expected.median_km, expected.mean_km, expected.geoscore, *shares])


def test_albums_of_one_photo_change_nothing() -> None:
    one, other, alone = distances(40, 1), distances(40, 2), np.arange(40)[::-1] * 3
    assert intervals(one, LIMITS, Resampling(200), albums=np.sort(alone)) == intervals(one, LIMITS, Resampling(200))
    whole = paired_intervals(one, other, LIMITS, Resampling(200), albums=np.sort(alone))
    assert whole == paired_intervals(one, other, LIMITS, Resampling(200))
    inside = one <= 750
    assert share_interval(inside, albums=alone) == share_interval(inside)


def test_copies_of_a_photo_say_as_much_as_one_photo() -> None:
    errors, albums = distances(80, 3), np.arange(80).repeat(5)
    again = intervals(errors.repeat(5), LIMITS, Resampling(300), albums=albums)
    once = intervals(errors, LIMITS, Resampling(300))
    assert again.mean_km.low == pytest.approx(once.mean_km.low)
    assert again.mean_km.high == pytest.approx(once.mean_km.high)
    assert again.within["25"].high == pytest.approx(once.within["25"].high)
    narrow = intervals(errors.repeat(5), LIMITS, Resampling(300))
    for name in ("median_km", "mean_km", "geoscore"):
        wide, other = (getattr(each, name) for each in (again, narrow))
        assert wide.high - wide.low > 1.5 * (other.high - other.low)
    nobody = intervals(np.full(35, 100.0), (25.0,), Resampling(100), albums=np.arange(7).repeat(5)).within["25"]
    assert nobody.high == pytest.approx(100 * binomtest(0, 7).proportion_ci(0.95, method="exact").high)


def test_the_interval_of_a_share_is_exact_and_counts_albums() -> None:
    inside = np.arange(50) < 13
    exact = binomtest(13, 50).proportion_ci(0.95, method="exact")
    assert share_interval(inside) == Interval(pytest.approx(exact.low), pytest.approx(exact.high))
    many, albums = inside.repeat(4), np.arange(50).repeat(4)
    together = share_interval(many, albums=albums)
    assert together.low == pytest.approx(exact.low, abs=0.005)  # 50 less one, as albums' variance is estimated
    assert together.high == pytest.approx(exact.high, abs=0.005)
    mixed = share_interval(np.tile([True, False], 30), albums=np.arange(60) // 2)  # every album has half
    assert mixed == share_interval(np.tile([True, False], 30))
    assert share_interval(np.array([True, False]), albums=np.zeros(2, int)).low < 0.02  # one album says next to nothing


@given(st.integers(1, 40), st.integers(0, 3))
def test_ends_are_in_order_and_shares_are_percent(n: int, seed: int) -> None:
    ends = intervals(distances(n, seed), LIMITS, Resampling(100))
    for end in (ends.median_km, ends.mean_km, ends.geoscore, *ends.within.values()):
        assert end.low <= end.high
    assert all(0 <= end.low <= end.high <= 100 for end in ends.within.values())


def test_the_interval_of_a_mean_is_that_of_the_normal_law() -> None:
    values = np.random.default_rng(3).normal(2.0, 5.0, 4000)
    ends = mean_interval(values, Resampling(2000))
    expected = 1.96 * values.std() / np.sqrt(len(values))
    assert values.mean() - ends.low == pytest.approx(expected, rel=0.1)
    assert ends.high - values.mean() == pytest.approx(expected, rel=0.1)
    assert mean_interval(np.zeros(50), Resampling()) == Interval(0.0, 0.0)
