"""How far from an answer the photo may have been taken: radii of discs that hold a share of the posterior.

A leaf's probability is spread over where its photos are, not put on one point: evenly over all distances from its point
up to its farthest photo, in all directions. So seen from an answer at distance a, a leaf of radius r holds evenly what
lies from |a - r| (or 0 inside of it) to a + r away. That makes what is held within a distance a sum of straight lines,
and a radius that holds a share is found exactly.

What share makes a radius true for nine in ten photos is calibrated (`search.calibration.calibrate`): that is where the
rest of what this model of a leaf leaves out is made up for.
"""

from dataclasses import dataclass

import numpy as np

from indexer.cells.hierarchy import Level
from indexer.earth.geo import EARTH_RADIUS_KM, FARTHEST_KM, chords_to_km, unit_vectors
from search.retrieval.posterior import Posterior

_LEAST_RADIUS_KM = 0.05  # of a leaf whose photos were all taken at one point: about what a GPS is off
_LISTED = 1 << 17  # leaves of queries looked at together: what is worked out of them stays in a processor's cache
_FIRST_KM, _BINS_AN_OCTAVE = 0.05, 16  # bins of distances, 4 % wide from there on
_N_BINS = int(np.log2(FARTHEST_KM / _FIRST_KM + 1) * _BINS_AN_OCTAVE) + 1


@dataclass(frozen=True, slots=True, eq=False)
class LeafDiscs:
    """Where the photos of each leaf are."""

    points: np.ndarray  # (leaves, 3) float64 unit vectors
    radius_km: np.ndarray  # (leaves,) float64

    @classmethod
    def of(cls, leaves: Level) -> "LeafDiscs":
        """Those of a hierarchy's finest level."""
        points = np.asfortranarray(unit_vectors(leaves.lat_deg, leaves.lng_deg))  # axis by axis, as they are gathered
        return cls(points, np.maximum(leaves.radius_km, _LEAST_RADIUS_KM))

    @property
    def bell_width_km(self) -> np.ndarray:
        """How wide bells around the points are where photos count beside cells: (leaves,) float64, half the radii."""
        return self.radius_km / 2

    def spans_km(self, leaf: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How near to points (M, 3) leaves (M,) begin, and how far away they end: (M,) float64 each."""
        apart = np.zeros(len(leaf))
        for axis in range(3):
            difference = self.points[:, axis].take(leaf)
            difference -= points[:, axis]
            difference *= difference
            apart += difference
        chords_to_km(np.sqrt(apart, out=apart))
        radius = self.radius_km.take(leaf)
        return np.maximum(apart - radius, 0.0), np.minimum(apart + radius, FARTHEST_KM)


def radii_km(
    posterior: Posterior, discs: LeafDiscs, lat_deg: np.ndarray, lng_deg: np.ndarray, shares: tuple[float, ...]
) -> np.ndarray:
    """Radii of the discs around one point for each query that hold these shares of its posterior: (Q, S) float64.

    lat_deg, lng_deg: (Q,) float64. Where the listed leaves do not hold as much, it is the farthest there is.
    """
    result = np.empty((len(posterior), len(shares)))
    points = unit_vectors(lat_deg, lng_deg)
    ends = np.searchsorted(posterior.begins, np.arange(_LISTED, posterior.begins[-1] + _LISTED, _LISTED), side="left")
    begin = 0
    for end in np.unique(np.append(ends.clip(max=len(posterior)), len(posterior))).tolist():
        if end > begin:
            result[begin:end] = _radii_km(posterior.take(np.arange(begin, end)), discs, points[begin:end], shares)
        begin = end
    return result


def _radii_km(posterior: Posterior, discs: LeafDiscs, points: np.ndarray, shares: tuple[float, ...]) -> np.ndarray:
    """The same for as many queries as fit in a processor's cache, with points (Q, 3)."""
    n, query = len(posterior), posterior.query
    near, far = discs.spans_km(posterior.leaf, points[query])
    # Most leaves lie wholly within a radius or wholly beyond it. Masses by distance, in bins, tell which ones.
    first, last = _bins(near), _bins(far)
    begun, ended = (
        np.cumsum(np.bincount(query * _N_BINS + bins, posterior.probability, n * _N_BINS).reshape(n, _N_BINS), axis=1)
        for bins in (first, last)
    )
    result = np.empty((n, len(shares)))
    for column, share in enumerate(shares):
        low, high = ((mass < share).sum(axis=1) for mass in (begun, ended))  # bins that the radius lies between
        within = np.where(low > 0, np.take_along_axis(ended, np.maximum(low - 1, 0)[:, None], axis=1)[:, 0], 0.0)
        open_ = np.flatnonzero((last >= low[query]) & (first <= high[query]))
        km = _crossings_km(query[open_], near[open_], far[open_], posterior.probability[open_], share - within)
        # NaN is what rounding made of a share that is just reached, or one that the listed leaves do not hold.
        end_km = _FIRST_KM * 2.0 ** ((high + 1) / _BINS_AN_OCTAVE) - _FIRST_KM  # of that bin
        result[:, column] = np.where(np.isnan(km), np.minimum(end_km, FARTHEST_KM), km)
    return result


def _crossings_km(
    query: np.ndarray, near: np.ndarray, far: np.ndarray, probability: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    """Where each of Q queries holds what is wanted, (Q,), of leaves that begin and end somewhere; NaN if nowhere."""
    rate = probability / (far - near)
    # Going outwards, each leaf adds its rate where it begins and takes it away where it ends.
    of, at, change = np.concatenate([query, query]), np.concatenate([near, far]), np.concatenate([rate, -rate])
    order = np.lexsort((at, of))
    of, at, change = of[order], at[order], change[order]
    step = np.diff(at, prepend=0.0)
    step[of != np.concatenate([[-1], of[:-1]])] = 0.0  # nothing is held before a query's first leaf begins
    # What was added is taken away again before the next query.
    flowing = np.concatenate([[0.0], np.cumsum(change)[:-1]])[: len(step)]
    held = np.cumsum(flowing * step)
    ends = np.concatenate([[0], np.cumsum(np.bincount(of, minlength=len(wanted)))])
    until = np.concatenate([[0.0], held])[ends[:-1]] + wanted  # with all that the queries before hold
    place = np.searchsorted(held, until)
    result = np.full(len(wanted), np.nan)
    inside = np.flatnonzero(place < ends[1:])
    last, missing = place[inside], held[place[inside]] - until[inside]
    slope = flowing[last]
    result[inside] = np.maximum(at[last] - np.where(slope > 0, missing / np.where(slope > 0, slope, 1.0), 0.0), 0.0)
    return result


def _bins(km: np.ndarray) -> np.ndarray:
    """The bin of each distance (M,), in the order of distances."""
    return np.asarray((np.log2(km + _FIRST_KM) - np.log2(_FIRST_KM)) * _BINS_AN_OCTAVE).astype(np.int64)


def share_within(
    posterior: Posterior, discs: LeafDiscs, lat_deg: np.ndarray, lng_deg: np.ndarray, km: np.ndarray
) -> np.ndarray:
    """What the disc around one point for each query holds of its posterior, of its own radius each: (Q,) float64.

    lat_deg, lng_deg, km: (Q,) float64.
    """
    query = posterior.query
    near, far = discs.spans_km(posterior.leaf, unit_vectors(lat_deg, lng_deg)[query])
    inside = np.clip((km[query] - near) / (far - near), 0.0, 1.0)
    return np.asarray(np.bincount(query, posterior.probability * inside, minlength=len(posterior)))


def heaviest_leaves(posterior: Posterior, discs: LeafDiscs, *, within_km: float, candidates: int) -> np.ndarray:
    """For each query the leaf within a distance of whose point lies most of the posterior: (Q,) int64.

    candidates: how many of a query's likeliest leaves are tried; of equals the likeliest is taken.
    """
    result = np.empty(len(posterior), np.int64)
    # A leaf that begins farther away than that holds nothing within it. Most do, as their cosines tell, with some to
    # spare for rounding; distances are only worked out of the others.
    least_cosine = np.cos(np.minimum((within_km + discs.radius_km) / EARTH_RADIUS_KM, np.pi)) - 1e-12
    for query, own in enumerate(map(slice, posterior.begins[:-1], posterior.begins[1:])):
        leaves, probability = posterior.leaf[own], posterior.probability[own]
        tried = leaves[np.lexsort((leaves, -probability))[:candidates]]
        cosines = discs.points[tried] @ discs.points[leaves].T
        row, column = np.nonzero(cosines >= least_cosine[leaves])
        near, far = discs.spans_km(leaves[column], discs.points[tried[row]])
        inside = np.clip((within_km - near) / (far - near), 0.0, 1.0)
        held = np.bincount(row, inside * probability[column], minlength=len(tried))
        result[query] = tried[held.argmax()]
    return result
