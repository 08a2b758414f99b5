"""Whether probabilities mean what they say: reliability, its error, and how often radii hold the true place.

The event is that the true place lies in the cell that was answered. Photos are put into bins of equal width by the
probability they were given; in each the share that came true stands beside the mean that was promised. Their distance,
averaged over photos, is the expected calibration error (Naeini et al. 2015; Guo et al., On Calibration of Modern Neural
Networks, ICML 2017). Chance alone makes it larger than 0, so it comes with an interval: photos are drawn again, and by
how much the error of such draws is above that of the sample is taken off again (the basic bootstrap). Photos of an
album share an answer: there albums are drawn, and count for the intervals of coverages (`search.evaluation.bootstrap`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from search.evaluation.bootstrap import Interval, draws, middle, share_interval
from search.evaluation.options import Resampling

_BINS = 15


@dataclass(frozen=True, slots=True)
class Bin:
    """Photos that were given about the same probability."""

    photos: int
    promised: float  # their mean probability
    came_true: float  # share whose true place lies in the answered cell


@dataclass(frozen=True, slots=True)
class Reliability:
    """How probabilities and what came true compare."""

    photos: int
    right: float  # share whose true place lies in the answered cell
    error: float  # expected calibration error, 0 to 1
    interval: Interval | None  # of that; None without resampling
    bins: Sequence[Bin]  # those with photos, by probability


@dataclass(frozen=True, slots=True)
class Coverage:
    """How often the true place lies within the radius of an answer."""

    promised: float  # 0.5 or 0.9
    photos: int
    found: float  # share
    interval: Interval  # as of `share_interval`, at 95 %
    median_km: float  # of the radii


def reliability(
    probability: np.ndarray, right: np.ndarray, resampling: Resampling, *, albums: np.ndarray | None = None
) -> Reliability:
    """Compare the probabilities of answers (N,) float64 with whether each is right, (N,) bool; N at least 1.

    albums: (N,) integers, which album each photo belongs to; None: each is one of its own.
    """
    which = np.minimum((probability * _BINS).astype(np.int64), _BINS - 1)
    counts = np.bincount(which, minlength=_BINS)
    promised, true = (np.bincount(which, values, minlength=_BINS) for values in (probability, right.astype(np.float64)))
    bins = [
        Bin(int(n), float(mean / n), float(came / n)) for n, mean, came in zip(counts, promised, true, strict=True) if n
    ]
    error = float(np.abs(promised - true).sum() / len(right))
    ends = _interval(which, probability - right, error, resampling, albums)
    return Reliability(len(right), float(right.mean()), error, ends, bins)


def coverage(
    promised: float, radius_km: np.ndarray, distance_km: np.ndarray, *, albums: np.ndarray | None = None
) -> Coverage:
    """How often places at these distances (N,) lie within radii (N,) that promise to hold this share; N at least 1.

    albums: (N,), as for `reliability`.
    """
    inside = distance_km <= radius_km
    ends = share_interval(inside, albums=albums)
    return Coverage(promised, len(inside), float(inside.mean()), ends, float(np.median(radius_km)))


def _interval(
    which: np.ndarray, gap: np.ndarray, error: float, resampling: Resampling, albums: np.ndarray | None
) -> Interval | None:
    """Of the calibration error; gap: (N,) probability minus what came true."""
    if not resampling.resamples:
        return None
    of_bin = np.where(which[:, None] == np.arange(_BINS), gap[:, None], 0.0)
    errors = [
        np.abs(times @ of_bin).sum(axis=1) / times.sum(axis=1)
        for times in draws(len(gap), 1, resampling, albums=albums)
    ]
    ends = middle(np.concatenate(errors))
    return Interval(max(0.0, 2 * error - ends.high), max(0.0, 2 * error - ends.low))
