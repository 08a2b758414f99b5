"""How sure figures are: percentile bootstrap over photos, of one system or of the difference between two.

Photos are drawn with replacement, as many as there are, again and again; the figures of every draw are computed, and
the middle 95 % of them are the interval (Efron 1979). For two systems each draw takes the same photos of both, so what
is hard about a photo cancels out (a paired bootstrap). Where systems were trained several times, a draw takes as many
of these runs, with replacement too, and its photos in each of them: photos and runs are drawn apart, because a photo
that is hard is so in every run. Where photos were answered in albums, albums are drawn, each with all its photos: those
of one album share an answer and its error, and say little more than one of them does. Nothing loops over photos or
draws in Python: a draw is how often each photo is in it, and every mean is one matrix product.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import beta

from indexer.earth.geo import FARTHEST_KM
from search.evaluation.metrics import geoscore
from search.evaluation.options import LEVEL, Resampling

_TAIL = (1 - LEVEL) / 2  # share of draws beyond each end
_BLOCK = 1 << 21  # draws held at once: 16 MB an array


@dataclass(frozen=True, slots=True)
class Interval:
    """Two ends, both inside."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Intervals:
    """An interval for each figure; `within` by threshold, as in `Figures`."""

    median_km: Interval
    mean_km: Interval
    geoscore: Interval
    within: Mapping[str, Interval]


def intervals(
    distance_km: np.ndarray,
    thresholds_km: Sequence[float],
    resampling: Resampling,
    *,
    albums: np.ndarray | None = None,
) -> Intervals:
    """Intervals of the figures of errors (N,) in km, NaN where there is no answer. Same seed, same bits.

    albums: (N,) integers, which album each photo belongs to; None: each is one of its own.

    Where all photos or none are within a distance, every draw says the same, and the bootstrap has no width. The ends
    are then those of `share_interval`: none of 7 photos is 0 to 41 %, not 0 to 0.
    """
    ends = _ends(_resampled([distance_km], thresholds_km, resampling, albums)[0], thresholds_km)
    within = dict(ends.within)
    for limit in thresholds_km:
        inside = distance_km <= limit
        if inside.all() or not inside.any():
            share = share_interval(inside, albums=albums)
            within[f"{limit:g}"] = Interval(100 * share.low, 100 * share.high)
    return replace(ends, within=within)


def paired_intervals(
    distance_km: np.ndarray,
    other_km: np.ndarray,
    thresholds_km: Sequence[float],
    resampling: Resampling,
    *,
    albums: np.ndarray | None = None,
) -> Intervals:
    """Intervals of the differences, one system's figures minus another's.

    distance_km, other_km: (N,) errors of the same photos in the same order, NaN where there is no answer; or (S, N), of
    S runs of each, where runs of one number belong together, such as those from one seed. albums: (N,), as for
    `intervals`.
    """
    one, other = _resampled([distance_km, other_km], thresholds_km, resampling, albums)
    return _ends(one - other, thresholds_km)


def share_interval(inside: np.ndarray, *, albums: np.ndarray | None = None) -> Interval:
    """Interval of a share that is true of some of N photos, (N,) bool, at least one: exact binomial ends.

    Those of Clopper and Pearson (1934). albums: (N,), as for `intervals`. Photos of albums count as so many as would
    say as much if each was taken apart: N over the design effect of a mean over clusters, at most N (Korn and Graubard
    1998); where all or none are inside, as many as there are albums.
    """
    share, n = float(inside.mean()), _taken_apart(inside.astype(np.float64), albums)
    found = share * n
    low = 0.0 if share == 0 else float(beta.ppf(_TAIL, found, n - found + 1))
    return Interval(low, 1.0 if share == 1 else float(beta.ppf(1 - _TAIL, found + 1, n - found)))


def _taken_apart(values: np.ndarray, albums: np.ndarray | None) -> float:
    """How many photos, each of an album of its own, would say as much of the mean of values (N,) as these do."""
    n = len(values)
    if albums is None:
        return n
    _, album = np.unique(albums, return_inverse=True)
    n_albums, gaps = int(album.max()) + 1, values - values.mean()
    if n_albums in (1, n) or not gaps.any():
        return n_albums
    sums = np.bincount(album, gaps)  # of each album
    of_albums = n_albums / (n_albums - 1) * float(sums @ sums)  # N^2 times the variance of the mean
    of_photos = n / (n - 1) * float(gaps @ gaps)
    return n if of_albums <= of_photos else max(1.0, n * of_photos / of_albums)


def mean_interval(values: np.ndarray, resampling: Resampling) -> Interval:
    """Interval of the mean of values (N,), one for each photo: such as what each gains from one system to another."""
    return middle(np.concatenate([times @ values for times in draws(len(values), 1, resampling)]) / len(values))


def middle(values: np.ndarray) -> Interval:
    """What the middle 95 % of draws (B,) lie in."""
    return Interval(*np.quantile(values, [_TAIL, 1 - _TAIL]).tolist())


def _resampled(
    systems: Sequence[np.ndarray],
    thresholds_km: Sequence[float],
    resampling: Resampling,
    albums: np.ndarray | None = None,
) -> np.ndarray:
    """Figures of every draw: (systems, draws, figures) float64; median, mean, GeoScore, then percent within each."""
    assert all(errors.shape == systems[0].shape for errors in systems), "systems answered different photos"
    n_photos, n_errors = systems[0].shape[-1], systems[0].size
    ready = []
    for errors in map(np.ravel, systems):
        km = np.where(np.isnan(errors), FARTHEST_KM, errors)
        within = [100.0 * (errors <= limit) for limit in thresholds_km]  # NaN is within nothing
        ready.append((np.stack([km, geoscore(errors), *within], axis=1), np.argsort(km, kind="stable"), np.sort(km)))
    result = np.empty((len(systems), resampling.resamples, 3 + len(thresholds_km)))
    done = 0
    for times in draws(n_photos, n_errors // n_photos, resampling, albums=albums):
        part, drawn = slice(done, done + len(times)), times.sum(axis=1)  # albums differ in how many photos they have
        for system, (values, order, in_order) in enumerate(ready):
            result[system, part, 0] = _medians(times[:, order], in_order)
            result[system, part, 1:] = times @ values / drawn[:, None]
        done += len(times)
    return result


def draws(
    n_photos: int, n_runs: int, resampling: Resampling, *, albums: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """How often each photo of each run is in each draw, a block of draws at a time: (B, n_runs * n_photos) float64.

    albums: (n_photos,), as for `intervals`: a draw has as many albums as there are, each with all its photos.
    """
    photos, runs = np.random.default_rng(resampling.seed), np.random.default_rng([resampling.seed, 1])
    album = np.arange(n_photos) if albums is None else np.unique(albums, return_inverse=True)[1]
    n_albums = int(album.max()) + 1
    rows = max(1, _BLOCK // (n_photos * n_runs))
    for first in range(0, resampling.resamples, rows):
        block = min(rows, resampling.resamples - first)
        of_albums, of_runs = _counts(photos, block, n_albums), _counts(runs, block, n_runs)
        of_photos = of_albums if albums is None else np.take(of_albums, album, axis=1)
        yield (of_runs[:, :, None] * of_photos[:, None, :]).reshape(block, -1)


def _counts(rng: np.random.Generator, block: int, n: int) -> np.ndarray:
    """How often each of n comes up in n draws with replacement, `block` times over: (block, n) float64."""
    drawn = rng.integers(0, n, (block, n)) + n * np.arange(block)[:, None]
    return np.bincount(drawn.ravel(), minlength=block * n).reshape(block, n).astype(np.float64)


def _medians(times: np.ndarray, in_order: np.ndarray) -> np.ndarray:
    """Median of each draw, from how often each value, in rising order, is in it."""
    below = np.cumsum(times, axis=1)
    n = below[:, -1:]
    lower, upper = ((below > rank).argmax(axis=1) for rank in ((n - 1) // 2, n // 2))
    return (in_order[lower] + in_order[upper]) / 2


def _ends(values: np.ndarray, thresholds_km: Sequence[float]) -> Intervals:
    median, mean, points, *within = map(middle, values.T)
    limits = (f"{limit:g}" for limit in thresholds_km)
    return Intervals(median, mean, points, dict(zip(limits, within, strict=True)))
