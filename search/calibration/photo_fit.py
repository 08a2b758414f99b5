"""How photos of known places count beside cells: the numbers of `PhotoFit`, fitted to held-out queries.

In: held-out queries, a gallery, the temperature of cells alone. Out: the numbers, and the temperature of the cells'
part, under which the true leaf and the true place are likeliest: the sum of the mean log losses of both is least. For
the fit alone a thousandth of the mass is spread evenly over leaves, and over the Earth: no single query decides.

All numbers are tried in turn, each on a grid, until none gets better. What does not depend on them (which photos are
near, how far their places and the cells' points are from the true place) is looked up once.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from indexer.bundles.gallery import Gallery
from indexer.cells.hierarchy import Level
from indexer.earth.geo import EARTH_RADIUS_KM, unit_vectors
from indexer.vectors.calibration import PhotoFit
from search.answers.place_density import bell_density
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
MOST_NEAR = int(max(_GRIDS["near"]))


@dataclass(frozen=True, slots=True, eq=False)
class _CellsPart:
    """What cells say of N queries at one temperature."""

    of_true_leaf: np.ndarray  # (N,) float64, c; 0 where the true place lies in no leaf
    share: np.ndarray  # (N,) float64, S
    density: np.ndarray  # (N, 2) float64, per km2 at the true place, of leaves without and with photos


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

    def cells_part(self, temperature: float, growth: float) -> _CellsPart:
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
        return _CellsPart(own, share, density)

    def loss(self, fit: PhotoFit, cells: _CellsPart) -> float:
        """The sum of the mean log losses of the true leaf, of queries that have one, and of the true place."""
        near = slice(None, fit.near)
        weight = fit.weights(
            self._near.similarity[:, near], self._leaf_score[:, near], self._stands_for[:, near], self._n_photos
        )
        there = weight.any(axis=1)
        share = (1 - fit.cells) * np.where(there, cells.share, 0.0)
        kept = np.where(there, fit.cells, 1.0)  # a, of leaves whose lists hold photos
        own = np.where(self._own[:, near], weight, 0.0).sum(axis=1)
        of_leaf = np.where(self._leaf >= 0, self._with_photos[self._leaf], False)
        right = share * own + np.where(of_leaf, kept, 1.0) * cells.of_true_leaf
        bells = (weight * bell_density(self._apart[:, near], fit.width_km)).sum(axis=1)
        density = share * bells + cells.density[:, 0] + kept * cells.density[:, 1]
        inside = self._leaf >= 0
        leaf_loss = -np.log((1 - _FLOOR) * right[inside] + _FLOOR / self._n_leaves).mean() if inside.any() else 0.0
        area = 4 * np.pi * EARTH_RADIUS_KM**2
        return float(leaf_loss - np.log((1 - _FLOOR) * density + _FLOOR / area).mean())


def fit_photos(
    sample: PhotoSample, start: PhotoFit, *, temperature: float, growth: float, leaf_width_km: float
) -> tuple[PhotoFit, float]:
    """The numbers under which the loss is least, and the temperature of the cells' part.

    start: where it begins. temperature, growth: of cells alone. leaf_width_km: the median over leaves.
    """
    grids = {**_GRIDS, "width_km": np.maximum(leaf_width_km * _WIDTHS, 0.02).tolist()}
    if not sample.albums:
        del grids["growth"]
    parts = {value: sample.cells_part(value, growth) for value in (temperature * _TEMPERATURES).tolist()}
    best_temperature = min(parts, key=lambda value: abs(value - temperature))
    fit, least = start, sample.loss(start, parts[best_temperature])
    for _ in range(_ROUNDS):
        before = least
        for name, values in grids.items():
            for value in values:
                numbers = asdict(fit) | {name: int(value) if name == "near" else float(value)}
                other = PhotoFit(**numbers)
                loss = sample.loss(other, parts[best_temperature])
                if loss < least:
                    fit, least = other, loss
        for value, part in parts.items():
            loss = sample.loss(fit, part)
            if loss < least:
                best_temperature, least = value, loss
        if before - least < 1e-6:
            break
    return fit, best_temperature
