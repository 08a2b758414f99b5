"""Where the place may be: for each query a density over the Earth, a sum of bells around photos and points of cells.

A bell of width h km around a point is the von Mises-Fisher density of concentration (6371 km / h)^2 there: what the
normal distribution is to the plane. How much of it lies within some distance of another point is worked out as on the
plane, by Rice's distribution of distances: off by 0.003 at most for bells of 140 km, by 0.03 for 500 km.

In: bells with weights, which add up to 1 for each query. Out: densities at places, what discs hold, radii of the discs
that hold a share, and for claimed places the largest density of an area and what is denser than that.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.special import chndtr, ndtr

from indexer.earth.areas import Area
from indexer.earth.geo import EARTH_RADIUS_KM, FARTHEST_KM, bell_density, chords_to_km
from search.answers.radii import LeafDiscs
from search.retrieval.posterior import Posterior

_PAIRS = 1 << 20  # pairs of a place and a bell that are looked at together
_FARTHEST, _STEP = 12.0, 1 / 32  # of the table of Rice's distribution, in widths of a bell
_HALVINGS = 18  # of the bracket around the logarithm of a radius: down to a ten thousandth of it
_LEAST_KM = 1e-3
_ROUNDING = 1e-5  # of itself, that a density may be off where bells are as narrow as a GPS is off
_CLIMBS, _STEPS = 32, 40  # places of an area, the densest ones, and how often each is moved to a still denser one
_STANDS = 1e-12  # of the Earth's radius, that a place is not moved any more


@dataclass(frozen=True, slots=True, eq=False)
class PlaceDensity:
    """The bells of Q queries: those of query q stand from begins[q] to begins[q + 1]."""

    begins: np.ndarray  # (Q + 1,) int64
    points: np.ndarray  # (M, 3) float64, unit vectors
    width_km: np.ndarray  # (M,) float64, h
    weight: np.ndarray  # (M,) float64; those of a query add up to 1

    @classmethod
    def of_cells(cls, posterior: Posterior, discs: LeafDiscs) -> "PlaceDensity":
        """That of cells alone: a bell around the point of each leaf that is listed, by its probability."""
        leaf = posterior.leaf
        return cls(posterior.begins, discs.points[leaf], discs.bell_width_km[leaf], posterior.probability)

    def __len__(self) -> int:
        return len(self.begins) - 1

    @property
    def query(self) -> np.ndarray:
        """The query of each bell: (M,) int64."""
        return np.repeat(np.arange(len(self)), np.diff(self.begins))

    def at(self, points: np.ndarray, query: np.ndarray) -> np.ndarray:
        """The densities per km2 at points (P, 3), each of one query (P,) int64, ascending: (P,) float64."""
        result = np.empty(len(points))
        highest = self.weight * bell_density(np.zeros(len(self.weight)), self.width_km)
        ends = np.searchsorted(query, np.arange(len(self) + 1))
        for number in np.flatnonzero(np.diff(ends)).tolist():
            bells = slice(*self.begins[number : number + 2])
            step = max(1, _PAIRS // max(1, bells.stop - bells.start))
            for begin in range(ends[number], ends[number + 1], step):
                places = slice(begin, min(begin + step, ends[number + 1]))
                result[places] = self._shapes(points[places], bells) @ highest[bells]
        return result

    def _shapes(self, points: np.ndarray, bells: slice) -> np.ndarray:
        """How high some bells are at points (P, 3), of their highest: (P, bells) float64."""
        cosine = points @ self.points[bells].T  # one product of matrices: as exact as chords in float64
        cosine -= 1
        cosine *= (EARTH_RADIUS_KM / self.width_km[bells]) ** 2
        np.minimum(cosine, 0, out=cosine)
        return np.exp(cosine, out=cosine)

    def nonconformity(self, density: np.ndarray) -> np.ndarray:
        """How much of each query lies at places denser than one of its places is, (Q,): (Q,) float64, from 0 to 1.

        Summed over the query's bells. Of a bell that is T dense in its middle, in the plane, 1 - t / T is denser than
        t, as of a normal distribution; T is the density of all bells there. So it is 0 for a place as dense as the
        densest middle, 1 where the density is 0, and tells apart places that all middles are denser than.
        """
        query = self.query
        middle = self.at(self.points, query)
        less = np.divide(density[query], middle, out=np.zeros(len(middle)), where=middle > 0)
        held = np.bincount(query, self.weight * np.maximum(1 - less, 0.0), minlength=len(self))
        total = np.bincount(query, self.weight, minlength=len(self))
        return np.divide(held, total, out=np.ones(len(self)), where=total > 0)

    def largest_in(self, areas: Sequence[Area], query: int) -> float:
        """The largest density per km2 of one query within areas, as far as it is found; 0 where there is no area.

        Looked at are the middles of areas, the middles of bells inside, and for each bell outside the area's point that
        is nearest to it; and what can be climbed to from the densest of these without leaving the area, since bells add
        up between their middles.
        """
        own = slice(*self.begins[query : query + 2])
        begins = np.array([0, own.stop - own.start])
        alone = PlaceDensity(begins, self.points[own], self.width_km[own], self.weight[own])
        most, largest = alone._most_in(areas), 0.0
        for number in np.argsort(-most, kind="stable").tolist():
            if most[number] <= largest:
                break
            largest = max(largest, alone._largest_in_one(areas[number]))
        return largest

    def _most_in(self, areas: Sequence[Area]) -> np.ndarray:
        """What the density of the only query is at most within areas: (A,) float64."""
        if len(areas) == 1:
            return np.full(1, np.inf)
        highest = self.weight * bell_density(np.zeros(len(self.weight)), self.width_km)
        middles, reach = np.array([area.middle for area in areas]), np.array([area.reach_rad for area in areas])
        result, step = np.empty(len(areas)), max(1, _PAIRS // max(1, len(highest)))
        for begin in range(0, len(areas), step):
            part = slice(begin, begin + step)
            cosine = np.clip(middles[part] @ self.points.T, -1.0, 1.0)
            apart = np.maximum(np.arccos(cosine) - reach[part, None] - 1e-7, 0.0)  # rounding takes so much
            chord = 2 * np.sin(apart / 2)
            result[part] = np.exp(-((chord * EARTH_RADIUS_KM / self.width_km) ** 2) / 2) @ highest
        return result * (1 + _ROUNDING)

    def _largest_in_one(self, area: Area) -> float:
        """The largest of the only query within one area."""

        def at(places: np.ndarray) -> np.ndarray:
            return self.at(places, np.zeros(len(places), np.int64))

        if not area.reach_rad:
            return float(at(area.middle[None])[0])
        places = np.concatenate([area.middle[None], area.nearest(self.points)])
        density = at(places)
        places = places[np.argsort(-density, kind="stable")[:_CLIMBS]]
        highest = self.weight * bell_density(np.zeros(len(self.weight)), self.width_km)
        pull = (highest / self.width_km**2)[:, None] * self.points
        for _ in range(_STEPS):
            # The tangent of the logarithm of a sum of bells never lies above it; so where that is highest, which is at
            # the area's point nearest to where the bells pull, the density is no less than it was.
            towards = self._shapes(places, slice(None)) @ pull
            length = np.linalg.norm(towards, axis=1, keepdims=True)
            before, places = places, area.nearest(np.divide(towards, length, out=places.copy(), where=length > 0))
            if np.abs(places - before).max() < _STANDS:
                break
        return float(max(density.max(), at(places).max()))

    def within(self, points: np.ndarray, km: np.ndarray) -> np.ndarray:
        """What the disc of a radius (Q,) around a point (Q, 3) holds of each query's density: (Q,) float64."""
        result = np.empty(len(self))
        for part, pair, bell in self._pairs(np.arange(len(self))):
            apart = _apart_km(points[part][pair], self.points[bell])
            held = self.weight[bell] * share_of_bell(apart, km[part][pair], self.width_km[bell])
            result[part] = np.bincount(pair, held, minlength=part.stop - part.start)
        return np.minimum(result, 1.0)

    def radii_km(self, points: np.ndarray, shares: tuple[float, ...]) -> np.ndarray:
        """Radii of the discs around one point for each query, (Q, 3), that hold these shares: (Q, S) float64."""
        result = np.empty((len(self), len(shares)))
        for part, pair, bell in self._pairs(np.arange(len(self))):
            apart, n = _apart_km(points[part][pair], self.points[bell]), part.stop - part.start
            weight, width = self.weight[bell], self.width_km[bell]
            for column, share in enumerate(shares):
                low, high = np.full(n, np.log(_LEAST_KM)), np.full(n, np.log(FARTHEST_KM))
                for _ in range(_HALVINGS):
                    middle = (low + high) / 2
                    held = np.bincount(pair, weight * share_of_bell(apart, np.exp(middle)[pair], width), minlength=n)
                    low, high = np.where(held < share, middle, low), np.where(held < share, high, middle)
                result[part, column] = np.exp(high)
        return result

    def _pairs(self, query: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Places a few at a time, and all their pairs with a bell of their query: of which place, and which bell."""
        lengths = np.diff(self.begins)[query]
        ends = np.concatenate([[0], np.cumsum(lengths)])
        start = 0
        while start < len(query):
            stop = max(start + 1, int(np.searchsorted(ends, ends[start] + _PAIRS, side="right")) - 1)
            own = lengths[start:stop]
            pair = np.repeat(np.arange(stop - start), own)
            first = np.repeat(self.begins[query[start:stop]] - (ends[start:stop] - ends[start]), own)
            yield slice(start, stop), pair, first + np.arange(len(pair))
            start = stop


def share_of_bell(apart_km: np.ndarray, km: np.ndarray, width_km: np.ndarray) -> np.ndarray:
    """What a disc of a radius holds of a bell whose middle is so far from the disc's: (M,) float64."""
    beyond = apart_km > FARTHEST_KM / 2  # what a disc does not hold is a disc around the antipode, and that is nearer
    a = np.where(beyond, FARTHEST_KM - apart_km, apart_km) / width_km
    b = np.where(beyond, np.maximum(FARTHEST_KM - km, 0.0), km) / width_km
    table = _rice()
    far = (a > _FARTHEST - 1) | (b > _FARTHEST - 1)
    row, column = np.minimum(a / _STEP, len(table) - 2), np.minimum(b / _STEP, len(table) - 2)
    i, j = row.astype(np.int64), column.astype(np.int64)
    u, v = row - i, column - j
    flat, wide = table.ravel(), table.shape[1]
    at = i * wide + j
    near = (1 - u) * ((1 - v) * flat[at] + v * flat[at + 1]) + u * ((1 - v) * flat[at + wide] + v * flat[at + wide + 1])
    # Farther out distances are spread normally around the middle's, which a bell's curvature makes a bit longer.
    held = np.where(far, ndtr(b - np.hypot(a, 1.0)), near)
    return np.where(beyond, 1 - held, held)


@cache
def _rice() -> np.ndarray:
    """Rice's distribution, the distance of two-dimensional normal deviates from a point a away: at a, b in steps."""
    steps = np.arange(0, _FARTHEST + _STEP / 2, _STEP)
    return np.asarray(chndtr(steps[None, :] ** 2, 2.0, steps[:, None] ** 2))


def _apart_km(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    difference = points - others
    return chords_to_km(np.sqrt(np.einsum("ij,ij->i", difference, difference)))
