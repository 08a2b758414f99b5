"""Where an answer points: the densest place, the best cell's own point, or another place that may be nearer.

In: the best leaf of each query, the kind of point, the posterior, and what photos say where they count. Out: a place
for each, with its names, and how large discs around it are. What share of a posterior or of a density lies near such a
place is calibrated for each kind of point apart (`search.calibration.calibrate`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from indexer.bundles.bundle import Bundle
from indexer.cells.hierarchy import Hierarchy
from indexer.earth import s2
from indexer.earth.geo import chords_to_km, lat_lng, unit_vectors
from indexer.earth.places import nearest_cities
from search.answers.options import CAP, PointName
from search.answers.photo_evidence import PhotoEvidence
from search.answers.precision_cap import CoarseCells
from search.answers.radii import LeafDiscs, heaviest_leaves, radii_km, share_within
from search.retrieval.posterior import Posterior

_CANDIDATES = 32  # likeliest cells of a query around which most of the probability may lie


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where Q answers point."""

    lat_deg: np.ndarray  # (Q,) float64
    lng_deg: np.ndarray  # (Q,) float64
    city: np.ndarray  # (Q,) str, the city nearest to that
    country: np.ndarray  # (Q,) str, its ISO 3166 code


class AnswerPoints:
    """One kind of point, for answers from one bundle that has what it takes (`SearchOptions.check`).

    mass_km: distance that `mass` looks at; None: half the width of the median leaf.
    """

    def __init__(self, bundle: Bundle, kind: PointName, *, mass_km: float | None = None) -> None:
        self.kind = kind
        self.mass_km = usual_mass_km(bundle.hierarchy) if mass_km is None else mass_km
        self._leaves, self._medoids = bundle.hierarchy.leaves, bundle.hierarchy.medoids

    @cached_property
    def discs(self) -> LeafDiscs:
        """Where the photos of the bundle's leaves are."""
        return LeafDiscs.of(self._leaves)

    def leaves(self, leaf: np.ndarray, posterior: Posterior | None, evidence: PhotoEvidence | None) -> np.ndarray:
        """The leaves that answers point into, (Q,) int64, of those that are best, (Q,) int64."""
        if self.kind != "mass":
            return leaf
        assert posterior is not None, "this kind needs it"
        if evidence is None:
            return heaviest_leaves(posterior, self.discs, within_km=self.mass_km, candidates=_CANDIDATES)
        tried = posterior.likeliest(_CANDIDATES)[0]
        held = np.full(tried.shape, -1.0)
        for column in range(_CANDIDATES):
            there = tried[:, column] >= 0
            middles = self.discs.points[tried[:, column]]
            within = evidence.density.within(middles, np.full(len(tried), self.mass_km))
            held[there, column] = within[there]
        return np.asarray(np.take_along_axis(tried, held.argmax(axis=1)[:, None], axis=1)[:, 0])

    def __call__(self, leaf: np.ndarray, posterior: Posterior | None, evidence: PhotoEvidence | None = None) -> Places:
        """Where answers point whose best leaves are these, (Q,) int64."""
        leaves = self._leaves
        if self.kind in ("cell", "mass"):
            leaf = self.leaves(leaf, posterior, evidence)
            return Places(leaves.lat_deg[leaf], leaves.lng_deg[leaf], leaves.city[leaf], leaves.country[leaf])
        if self.kind == "medoid":
            lat, lng = self._medoids[leaf].T
        else:
            assert evidence is not None, "this kind needs it"
            densest = np.where(evidence.there, lat_lng(np.nan_to_num(evidence.points)), np.nan)
            lat = np.where(evidence.there, densest[0], leaves.lat_deg[leaf])
            lng = np.where(evidence.there, densest[1], leaves.lng_deg[leaf])
        return Places(lat, lng, *nearest_cities(lat, lng))

    def radii_km(
        self, at: Places, posterior: Posterior, evidence: PhotoEvidence | None, shares: tuple[float, ...]
    ) -> np.ndarray:
        """Radii of the discs around places that hold these shares: (Q, S) float64."""
        if evidence is None:
            return radii_km(posterior, self.discs, at.lat_deg, at.lng_deg, shares)
        return evidence.density.radii_km(unit_vectors(at.lat_deg, at.lng_deg), shares)

    def share_within(
        self, at: Places, posterior: Posterior, evidence: PhotoEvidence | None, km: np.ndarray
    ) -> np.ndarray:
        """What the discs around places hold that are so large, (Q,) float64: (Q,) float64."""
        if evidence is None:
            return share_within(posterior, self.discs, at.lat_deg, at.lng_deg, km)
        return evidence.density.within(unit_vectors(at.lat_deg, at.lng_deg), km)


class CapPoints:
    """Where answers point under a precision cap: at the centre of the likeliest of its cells.

    What lies around it is what these cells hold, each spread evenly over the distances from its centre to its farthest
    corner: of how the leaves inside share it, radii tell nothing.
    """

    def __init__(self, cells: CoarseCells) -> None:
        self.cells = cells

    @cached_property
    def discs(self) -> LeafDiscs:
        """Where the places of each of the cells are."""
        cells = self.cells
        assert cells.s2_ids is not None, "a cap has S2 cells"
        centres = unit_vectors(cells.lat_deg, cells.lng_deg)
        apart = np.linalg.norm(s2.outlines(cells.s2_ids, 1) - centres[:, None], axis=2)
        return LeafDiscs(centres, chords_to_km(apart.max(axis=1)))

    def at(self, cell: np.ndarray) -> Places:
        """The centres of cells (Q,) int64."""
        cells = self.cells
        return Places(cells.lat_deg[cell], cells.lng_deg[cell], cells.city[cell], cells.country[cell])

    def __call__(self, leaf: np.ndarray, posterior: Posterior | None, evidence: PhotoEvidence | None = None) -> Places:
        """Where answers point, by the posterior over leaves; the best leaf (Q,) need not lie in the likeliest cell."""
        assert posterior is not None, "a cap needs it"
        return self.at(self.cells.posterior(posterior).likeliest(1)[0][:, 0])

    def radii_km(
        self, at: Places, posterior: Posterior, evidence: PhotoEvidence | None, shares: tuple[float, ...]
    ) -> np.ndarray:
        """Radii of the discs around places that hold these shares: (Q, S) float64. posterior: over leaves."""
        return radii_km(self.cells.posterior(posterior), self.discs, at.lat_deg, at.lng_deg, shares)

    def share_within(
        self, at: Places, posterior: Posterior, evidence: PhotoEvidence | None, km: np.ndarray
    ) -> np.ndarray:
        """What the discs around places hold that are so large, (Q,) float64: (Q,) float64."""
        return share_within(self.cells.posterior(posterior), self.discs, at.lat_deg, at.lng_deg, km)


def usual_mass_km(hierarchy: Hierarchy) -> float:
    """The distance that `mass` looks at where none is given: half the width of the median leaf."""
    return hierarchy.leaves.median_width_km / 2


def points_of_bundle(bundle: Bundle, *, photos: bool) -> Mapping[str, AnswerPoints | CapPoints]:
    """All kinds of points that answers from a bundle can have, where photos count beside cells or do not.

    CAP are those of its own precision cap, if it has one.
    """
    kinds: list[PointName] = ["cell", "mass", "medoid"]
    if photos:
        kinds.append("density")
    points: dict[str, AnswerPoints | CapPoints] = {kind: AnswerPoints(bundle, kind) for kind in kinds}
    if bundle.precision_cap_km is not None:
        points[CAP] = CapPoints(CoarseCells(bundle.hierarchy.leaves, bundle.precision_cap_km))
    return points
