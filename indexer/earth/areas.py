"""Areas of the sphere that a place may be claimed to lie in: discs and S2 cells.

In: a middle and a radius, or the ids of cells. Out: which point of an area is nearest to others. Points are unit
vectors.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from indexer.earth import s2
from indexer.earth.geo import EARTH_RADIUS_KM, unit_vectors
from indexer.errors import InputError

_MOST_CELLS = 1 << 14  # that an area is made of


class Area(Protocol):
    """A closed part of the sphere in which a line of least length between two points stays."""

    @property
    def middle(self) -> np.ndarray:
        """A point of it: (3,) float64."""

    @property
    def reach_rad(self) -> float:
        """The angle from the middle to its farthest point."""

    def nearest(self, points: np.ndarray) -> np.ndarray:
        """Its points that are nearest to points (N, 3): (N, 3) float64, those that lie in it unchanged."""


@dataclass(frozen=True, slots=True, eq=False)
class Disc:
    """All that is no farther from a middle than a radius; with 0 the middle alone."""

    middle: np.ndarray  # (3,) float64
    reach_rad: float

    @classmethod
    def around(cls, lat_deg: float, lng_deg: float, km: float) -> "Disc":
        """The disc of a radius in km around a point in degrees."""
        return cls(unit_vectors(np.array([lat_deg]), np.array([lng_deg]))[0], min(km / EARTH_RADIUS_KM, np.pi))

    def nearest(self, points: np.ndarray) -> np.ndarray:
        """As `Area`. Of a point that is at the antipode of the middle it is any at the border."""
        along = points @ self.middle
        aside = points - along[:, None] * self.middle  # the part that is at right angles to the middle
        length = np.linalg.norm(aside, axis=1, keepdims=True)
        angle = np.arctan2(length[:, 0], along)
        anywhere = np.cross(self.middle, np.eye(3)[np.abs(self.middle).argmin()])
        outwards = np.where(length > 0, aside / np.where(length > 0, length, 1.0), anywhere / np.linalg.norm(anywhere))
        border = np.cos(self.reach_rad) * self.middle + np.sin(self.reach_rad) * outwards
        return np.where((angle <= self.reach_rad)[:, None], points, border)


@dataclass(frozen=True, slots=True, eq=False)
class CellArea:
    """One S2 cell."""

    middle: np.ndarray  # (3,) float64
    corners: np.ndarray  # (4, 3) float64, counterclockwise

    @classmethod
    def of(cls, s2_ids: np.ndarray) -> list["CellArea"]:
        """The areas of cells (C,) uint64."""
        parts = zip(s2.directions(s2_ids).T, s2.outlines(s2_ids, 1), strict=True)
        return [cls(*each) for each in parts]

    @property
    def reach_rad(self) -> float:
        """As `Area`."""
        return float(_angles(self.corners, self.middle).max())

    def nearest(self, points: np.ndarray) -> np.ndarray:
        """As `Area`."""
        best, cosine = points.copy(), np.full(len(points), -np.inf)
        outside = np.zeros(len(points), bool)
        for begin, end in zip(self.corners, np.roll(self.corners, -1, axis=0), strict=True):
            across = np.cross(begin, end)
            across /= np.linalg.norm(across)
            outside |= points @ across < 0
            on = points - (points @ across)[:, None] * across  # on the great circle of the edge
            length = np.linalg.norm(on, axis=1, keepdims=True)
            on = np.divide(on, length, out=np.tile(begin, (len(points), 1)), where=length > 0)
            between = (np.cross(begin, on) @ across >= 0) & (np.cross(on, end) @ across >= 0)
            nearer = np.where((points @ begin >= points @ end)[:, None], begin, end)
            on = np.where(between[:, None], on, nearer)
            along = np.einsum("ij,ij->i", points, on)
            better = along > cosine
            best[better], cosine[better] = on[better], along[better]
        return np.where(outside[:, None], best, points)


def cells_around(middle: np.ndarray, km: float, *, s2_level: int) -> np.ndarray:
    """The cells of an S2 level that may come within so many km of a point (3,): (C,) uint64, ascending.

    All that do are there, and others whose corners lie farther from their centre than they come short of it.

    Raises:
        InputError: they are more than sixteen thousand.
    """
    cells = s2.cells_of_level(0)
    for level in range(s2_level + 1):
        if level:
            cells = s2.children(cells).ravel()
        centres = s2.directions(cells).T
        reach = _angles(s2.outlines(cells, 1), centres[:, None]).max(axis=1)
        cells = cells[_angles(centres, middle) - reach <= km / EARTH_RADIUS_KM]
        if len(cells) > _MOST_CELLS:
            raise InputError(
                f"`within_km`: within {km:g} km there are more than {_MOST_CELLS:,} cells of the precision cap, each "
                "of which would be looked at. Give a shorter distance."
            )
    return np.sort(cells)


def _angles(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Angles between unit vectors (..., 3): (...) float64."""
    return np.asarray(2 * np.arcsin(np.minimum(np.linalg.norm(points - others, axis=-1) / 2, 1.0)))
