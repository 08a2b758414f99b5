"""How far from an answer the photo may have been taken: radii of discs that hold a share of the posterior.

A leaf's probability is spread over where its photos are, not put on one point: evenly over all distances from its point
up to its farthest photo, in all directions. So seen from an answer at distance a, a leaf of radius r holds evenly what
lies from |a - r| (or 0 inside of it) to a + r away. That makes what is held within a distance a sum of straight lines,
and a radius that holds a share is found exactly.

What share makes a radius true for nine in ten photos is calibrated (`search.calibrate`): that is where the rest of what
this picture of a leaf leaves out is made up for.
"""

from dataclasses import dataclass

import numpy as np

from indexer.geo import EARTH_RADIUS_KM, FARTHEST_KM, unit_vectors
from indexer.hierarchy import Level
from search.posterior import Posterior

_LEAST_RADIUS_KM = 0.05  # of a leaf whose photos were all taken at one point: about what a GPS is off


@dataclass(frozen=True, slots=True, eq=False)
class LeafDiscs:
    """Where the photos of each leaf are."""

    points: np.ndarray  # (leaves, 3) float64 unit vectors
    radius_km: np.ndarray  # (leaves,) float64

    @classmethod
    def of(cls, leaves: Level) -> "LeafDiscs":
        """Those of a hierarchy's finest level."""
        return cls(unit_vectors(leaves.lat_deg, leaves.lng_deg), np.maximum(leaves.radius_km, _LEAST_RADIUS_KM))

    def spans_km(self, leaf: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How near to points (M, 3) leaves (M,) begin, and how far away they end: (M,) float64 each."""
        chord = np.linalg.norm(self.points[leaf] - points, axis=1)
        apart = 2 * EARTH_RADIUS_KM * np.arcsin(np.minimum(chord / 2, 1.0))
        radius = self.radius_km[leaf]
        return np.maximum(apart - radius, 0.0), np.minimum(apart + radius, FARTHEST_KM)


def radii_km(
    posterior: Posterior, discs: LeafDiscs, lat_deg: np.ndarray, lng_deg: np.ndarray, shares: tuple[float, ...]
) -> np.ndarray:
    """Radii of the discs around one point for each query that hold these shares of its posterior: (Q, S) float64.

    lat_deg, lng_deg: (Q,) float64. Where the listed leaves do not hold as much, it is the farthest there is.
    """
    query = posterior.query
    near, far = discs.spans_km(posterior.leaf, unit_vectors(lat_deg, lng_deg)[query])
    rate = posterior.probability / (far - near)
    # Going outwards, each leaf adds its rate where it begins and takes it away where it ends.
    of, at, change = np.concatenate([query, query]), np.concatenate([near, far]), np.concatenate([rate, -rate])
    order = np.lexsort((at, of))
    of, at, change = of[order], at[order], change[order]
    step = np.diff(at, prepend=0.0)
    step[of != np.concatenate([[-1], of[:-1]])] = 0.0  # nothing is held before a query's first leaf begins
    flowing = np.cumsum(change)  # what was added is taken away again before the next query
    held = np.cumsum(np.concatenate([[0.0], flowing[:-1]])[: len(step)] * step)
    ends = 2 * posterior.begins
    before = np.concatenate([[0.0], held])[ends[:-1]]  # all that the queries before hold
    result = np.full((len(posterior), len(shares)), FARTHEST_KM)
    for column, share in enumerate(shares):
        place = np.searchsorted(held, before + share)
        inside = np.flatnonzero(place < ends[1:])
        last = place[inside]
        missing = held[last] - (before + share)[inside]
        slope = np.concatenate([[0.0], flowing[:-1]])[last]
        result[inside, column] = at[last] - np.where(slope > 0, missing / np.where(slope > 0, slope, 1.0), 0.0)
    return np.maximum(result, 0.0)


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
    for query, own in enumerate(map(slice, posterior.begins[:-1], posterior.begins[1:])):
        leaves, probability = posterior.leaf[own], posterior.probability[own]
        tried = leaves[np.lexsort((leaves, -probability))[:candidates]]
        near, far = discs.spans_km(np.tile(leaves, len(tried)), np.repeat(discs.points[tried], len(leaves), axis=0))
        inside = np.clip((within_km - near) / (far - near), 0.0, 1.0).reshape(len(tried), -1)
        result[query] = tried[(inside @ probability).argmax()]
    return result
