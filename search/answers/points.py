"""Where an answer points: the best cell's own point, or another place that may be nearer.

In: the best leaf of each query, the kind of point, the posterior. Out: a place for each, with its names. What share of
a posterior lies near such a place is calibrated for each kind of point apart (`search.evaluation.calibrate`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from indexer.bundles.bundle import Bundle
from indexer.earth.places import nearest_cities
from search.answers.options import WITHIN_KM, PointName
from search.answers.radii import LeafDiscs, heaviest_leaves
from search.answers.references import ReferencePhotos, SimilarPhotos
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
    """One kind of point, for answers from one bundle that has what it takes (`SearchOptions.check`)."""

    def __init__(
        self,
        bundle: Bundle,
        kind: PointName,
        *,
        within_km: float = WITHIN_KM,
        photos: ReferencePhotos | None = None,
    ) -> None:
        """photos: the bundle's, where somebody has them already."""
        self.kind, self._within_km = kind, within_km
        self._leaves, self._medoids = bundle.hierarchy.leaves, bundle.hierarchy.medoids
        self._photos = photos if photos is not None or kind != "reference" else ReferencePhotos(bundle)

    @cached_property
    def discs(self) -> LeafDiscs:
        """Where the photos of the bundle's leaves are."""
        return LeafDiscs.of(self._leaves)

    def leaves(self, leaf: np.ndarray, posterior: Posterior | None) -> np.ndarray:
        """The leaves that answers point into, (Q,) int64, of those that are best, (Q,) int64."""
        if self.kind != "mass":
            return leaf
        assert posterior is not None, "this kind needs it"
        return heaviest_leaves(posterior, self.discs, within_km=self._within_km, candidates=_CANDIDATES)

    def __call__(
        self,
        queries: np.ndarray,
        leaf: np.ndarray,
        posterior: Posterior | None,
        *,
        similar: SimilarPhotos | None = None,
    ) -> Places:
        """Where answers point whose best leaves are these, (Q,) int64.

        queries: (Q, D) float32, as they meet geocells. similar: reference photos of these leaves, where they are known.
        """
        leaf, leaves = self.leaves(leaf, posterior), self._leaves
        if self.kind in ("cell", "mass"):
            return Places(leaves.lat_deg[leaf], leaves.lng_deg[leaf], leaves.city[leaf], leaves.country[leaf])
        if self.kind == "medoid":
            assert self._medoids is not None, "every hierarchy has them"
            lat, lng = self._medoids[leaf].T
        else:
            assert self._photos is not None, "they are there for this kind"
            known = similar or self._photos.most_similar(queries, leaf, 1)
            there = ~np.isnan(known.cosine[:, 0])  # a leaf without reference photos keeps its point
            lat = np.where(there, known.lat_deg[:, 0], leaves.lat_deg[leaf])
            lng = np.where(there, known.lng_deg[:, 0], leaves.lng_deg[leaf])
        return Places(lat, lng, *nearest_cities(lat, lng))


def points_of_bundle(bundle: Bundle) -> Mapping[PointName, AnswerPoints]:
    """All kinds of points that a bundle has."""
    kinds: list[PointName] = ["cell", "mass", "medoid"]
    if bundle.references is not None:
        kinds.append("reference")
    return {kind: AnswerPoints(bundle, kind) for kind in kinds}
