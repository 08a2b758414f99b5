"""How photos of known places count beside cells: the numbers of `PhotoFit`, fitted to held-out queries.

In: held-out queries, a gallery, the temperature of cells alone. Out: the numbers, and the temperature of the cells'
part, under which the true leaf and the true place are likeliest: the sum of the mean log losses of both is least. For
the fit alone a thousandth of the mass is spread evenly over leaves, and over the Earth: no single query decides.

All numbers are tried in turn, each on a grid, until none gets better. What does not depend on them (which photos are
near, how far their places and the cells' points are from the true place) is looked up once.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from indexer.bundles.gallery import Gallery
from indexer.cells.hierarchy import Level
from indexer.earth.geo import EARTH_RADIUS_KM, bell_density, unit_vectors
from indexer.vectors.calibration import PhotoFit
from search.answers.photo_properties import PhotoProperties
from search.answers.radii import LeafDiscs
from search.calibration.held_out import HeldOutQueries
from search.retrieval.exact import ExactSearch
from search.retrieval.gallery_lists import NearPhotos

_FLOOR = 1e-3  # of the mass, spread evenly for the fit alone
_REACH = 6.0  # widths of a bell from its middle, beyond which nothing of it counts
_ROUNDS = 6
_GRIDS: dict[str, Sequence[float]] = {
    "similarity": np.geomspace(0.005, 0.16, 21).tolist(),
    "gamma": (0.0, 0.01, 0.02, 0.035, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5),
    "cells": (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0),
    "near": (10, 20, 50, 100, 200),
    "growth": (0.0, 0.25, 0.5, 0.75, 1.0),
}
_WIDTHS = np.geomspace(1 / 16, 8, 29)  # of bells around photos, in those of the median leaf
_TEMPERATURES = np.geomspace(0.5, 2, 9)  # of the cells' part, in that of cells alone
_AFTER_WEIGHTS = ("cells", "width_km")  # numbers that the photos' weights do not depend on
MOST_NEAR = int(max(_GRIDS["near"]))


@dataclass(frozen=True, slots=True, eq=False)
class CellsPart:
    """What cells say of N queries at one temperature."""

    of_true_leaf: np.ndarray  # (N,) float64, c; 0 where the true place lies in no leaf
    share: np.ndarray  # (N,) float64, S
    density: np.ndarray  # (N, 2) float64, per km2 at the true place, of leaves without and with photos


@dataclass(frozen=True, slots=True, eq=False)
class LossTerms:
    """What the loss of N queries is made of, with w the weights of their near photos.

    The loss is - leaf_weight log(sum of w own + own_by_cells) - log(sum of w bells + density_by_cells).
    """

    own: np.ndarray  # (N, near) float64, what a photo of the true leaf gives to it
    own_by_cells: np.ndarray  # (N,) float64, what cells give to it
    bells: np.ndarray  # (N, near) float64, what a photo gives to the density at the true place, per km2
    density_by_cells: np.ndarray  # (N,) float64
    leaf_weight: np.ndarray  # (N,) float64: 0 where the true place lies in no leaf; the mean is 1


class PhotoSample:
    """Held-out queries with all that a fit looks at.

    Args:
        sample: the queries.
        near: the photos most like them, MOST_NEAR or fewer.
        leaf_score: (N, near) float64, of the photos' leaves.
        gallery: whose photos they are.
        leaves: all of the bundle.
        with_photos: (leaves,) bool, whose lists hold photos.
        search: of cells.
    """

    def __init__(
        self,
        sample: HeldOutQueries,
        *,
        near: NearPhotos,
        leaf_score: np.ndarray,
        gallery: Gallery,
        leaves: Level,
        with_photos: np.ndarray,
        search: ExactSearch,
    ) -> None:
        self.albums = bool((sample.n_photos > 1).any())
        self._queries, self._n_photos, self._leaf = sample.queries, sample.n_photos, sample.leaf
        self._near, self._leaf_score, self._search = near, leaf_score, search
        self._with_photos, self._n_leaves = with_photos, len(leaves)
        self._gallery, self._leaves = gallery, leaves
        row = np.maximum(near.row, 0)
        self._stands_for = gallery.stands_for[row]
        self._places = unit_vectors(sample.lat_deg, sample.lng_deg)
        photos = unit_vectors(gallery.lat_deg[row], gallery.lng_deg[row])
        self._apart = np.square(photos - self._places[:, None]).sum(axis=2)  # (N, near), of squared chords
        self._own = near.leaf == sample.leaf[:, None]
        discs = LeafDiscs.of(leaves)
        self._middles, self._widths = discs.points, discs.bell_width_km

    def __len__(self) -> int:
        return len(self._queries)

    def cells_part(self, temperature: float, growth: float) -> CellsPart:
        """What cells say, posteriors being softmax of score / (T n**growth)."""
        n = len(self)
        own, share, density = np.zeros(n), np.empty(n), np.zeros((n, 2))
        without = torch.from_numpy(np.flatnonzero(~self._with_photos))
        for block, scores in self._search.scores(self._queries):
            divisor = temperature * self._n_photos[block].astype(np.float64) ** growth
            logs = scores.cpu().double().div_(torch.from_numpy(divisor)[:, None]).log_softmax(dim=1)
            share[block] = 1 - logs.index_select(1, without).exp().sum(dim=1).numpy()
            cells = logs.numpy()
            there = np.flatnonzero(self._leaf[block] >= 0)
            own[block][there] = np.exp(cells[there, self._leaf[block][there]])
            for number, place in enumerate(self._places[block]):
                apart = np.square(self._middles - place).sum(axis=1)
                close = np.flatnonzero(apart < (_REACH * self._widths / EARTH_RADIUS_KM) ** 2)
                held = np.exp(cells[number, close]) * bell_density(apart[close], self._widths[close])
                which = self._with_photos[close].astype(np.int64)
                density[block.start + number] = np.bincount(which, held, minlength=2)
        return CellsPart(own, share, density)

    def loss(self, fit: PhotoFit, cells: CellsPart, reranked: np.ndarray | None = None) -> float:
        """The sum of the mean log losses of the true leaf, of queries that have one, and of the true place.

        reranked: as in `losses`.
        """
        return float(self.losses(fit, cells, reranked).mean())

    def losses(self, fit: PhotoFit, cells: CellsPart, reranked: np.ndarray | None = None) -> np.ndarray:
        """What each query adds to that sum, times their number: (N,) float64.

        reranked: (N, near) float64, what a reranker adds to the evidence of the near photos; None: nothing.
        """
        near = slice(None, fit.near)
        weight = fit.weights(
            self._near.similarity[:, near],
            self._leaf_score[:, near],
            self._stands_for[:, near],
            self._n_photos,
            reranked=reranked,
        )
        terms = self.terms(fit, cells)
        right = (weight * terms.own).sum(axis=1) + terms.own_by_cells
        density = (weight * terms.bells).sum(axis=1) + terms.density_by_cells
        inside = terms.leaf_weight > 0
        result = -np.log(density)
        result[inside] -= terms.leaf_weight[inside] * np.log(right[inside])
        return result

    def terms(self, fit: PhotoFit, cells: CellsPart) -> LossTerms:
        """What the loss is made of but for the weights of photos."""
        near = slice(None, fit.near)
        there = np.isfinite(self._near.similarity[:, 0])
        share = (1 - _FLOOR) * (1 - fit.cells) * np.where(there, cells.share, 0.0)
        kept = np.where(there, fit.cells, 1.0)  # a, of leaves whose lists hold photos
        of_leaf = np.where(self._leaf >= 0, self._with_photos[self._leaf], False)
        own_by_cells = np.where(of_leaf, kept, 1.0) * cells.of_true_leaf
        density_by_cells = cells.density[:, 0] + kept * cells.density[:, 1]
        inside, area = self._leaf >= 0, 4 * np.pi * EARTH_RADIUS_KM**2
        return LossTerms(
            share[:, None] * self._own[:, near],
            (1 - _FLOOR) * own_by_cells + _FLOOR / self._n_leaves,
            share[:, None] * bell_density(self._apart[:, near], fit.width_km),
            (1 - _FLOOR) * density_by_cells + _FLOOR / area,
            inside * len(inside) / max(inside.sum(), 1),
        )

    def evidence(self, fit: PhotoFit) -> np.ndarray:
        """Of the near photos, before reranking: (N, near) float64, minus infinity for no photo."""
        near = slice(None, fit.near)
        return fit.evidence(
            self._near.similarity[:, near], self._leaf_score[:, near], self._stands_for[:, near], self._n_photos
        )

    def properties(self, fit: PhotoFit) -> np.ndarray:
        """What a reranker sees of the near photos: (N, near, P) float32."""
        near = slice(None, fit.near)
        photos = NearPhotos(*(each[:, near] for each in (self._near.row, self._near.leaf, self._near.similarity)))
        return PhotoProperties(self._gallery, self._leaves, fit=fit)(photos, self._leaf_score[:, near], self._n_photos)


def fit_photos(
    sample: PhotoSample,
    start: PhotoFit,
    *,
    temperature: float,
    growth: float,
    leaf_width_km: float,
    reranked: np.ndarray | None = None,
    fixed: Collection[str] = (),
) -> tuple[PhotoFit, float]:
    """The numbers under which the loss is least, and the temperature of the cells' part.

    start: where it begins. temperature, growth: of cells alone. leaf_width_km: the median over leaves. reranked: what a
    reranker adds to the evidence by the numbers of `start`; then only those numbers are fitted that evidence is not
    made of. fixed: names of numbers that stay as they are in `start`.
    """
    grids = {**_GRIDS, "width_km": np.maximum(leaf_width_km * _WIDTHS, 0.02).tolist()}
    if not sample.albums:
        del grids["growth"]
    if reranked is not None:
        grids = {name: values for name, values in grids.items() if name in _AFTER_WEIGHTS}
    grids = {name: values for name, values in grids.items() if name not in fixed}
    parts = {value: sample.cells_part(value, growth) for value in (temperature * _TEMPERATURES).tolist()}
    best_temperature = min(parts, key=lambda value: abs(value - temperature))
    fit, least = start, sample.loss(start, parts[best_temperature], reranked)
    for _ in range(_ROUNDS):
        before = least
        for name, values in grids.items():
            for value in values:
                numbers = asdict(fit) | {name: int(value) if name == "near" else float(value)}
                other = PhotoFit(**numbers)
                loss = sample.loss(other, parts[best_temperature], reranked)
                if loss < least:
                    fit, least = other, loss
        for value, part in parts.items():
            loss = sample.loss(fit, part, reranked)
            if loss < least:
                best_temperature, least = value, loss
        if before - least < 1e-6:
            break
    return fit, best_temperature
