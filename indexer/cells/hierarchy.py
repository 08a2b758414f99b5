"""The hierarchy: partitions from coarse to fine, tied together by which cell lies in which (paper section III-A).

In: photos and a way to divide them, S2 cells that follow their density (`build_hierarchy`) or labels of any kind
(`indexer.cells.labels`). Out: per level the cells with their counts, points and radii, and for every finest cell (leaf)
its ancestors. Levels are numbered 0 (coarsest) to L-1 (finest); cells by their rank in S2 order, or in the order of
label paths: either way the cells below a cell are one contiguous range.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from indexer.cells.extent import PhotoRanges, extents, medoids
from indexer.cells.partition import PartitionRule, partition_cells, photo_ranges
from indexer.earth import s2
from indexer.earth.places import nearest_cities
from indexer.errors import InputError

SEPARATOR = "/"  # between the labels of a path
_ONE_PLACE_KM = 1e-4  # what rounding may make of no distance


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """One partition. Arrays have one entry per cell, in the hierarchy's order."""

    tau_min: int
    tau_max: int | None  # None where cells are labels
    label: str | None  # the column the labels come from; None where cells are S2's
    coverage: float  # share of the photos that fall in a cell of this level
    keys: np.ndarray  # (C,) str, unique: S2 tokens, or label paths such as 'Europe/France'
    s2_ids: np.ndarray | None  # (C,) uint64, strictly increasing, disjoint; None where cells are labels
    n_photos: np.ndarray  # (C,) int64
    lat_deg: np.ndarray  # (C,) float64, the mean direction of the cell's photos
    lng_deg: np.ndarray  # (C,) float64
    radius_km: np.ndarray  # (C,) float64, the largest distance of a photo from that point
    leaf_begin: np.ndarray  # (C,) int64; leaves leaf_begin <= leaf < leaf_end descend from the cell
    leaf_end: np.ndarray  # (C,) int64
    city: np.ndarray  # (C,) str, the city nearest to the cell's point
    country: np.ndarray  # (C,) str, its ISO 3166 two-letter country code

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def width_km(self) -> np.ndarray:
        """How wide its cells are: the edge of a square of a cell's mean area, (C,) float64.

        Of labels that of a square as large as the disc that holds a cell's photos.
        """
        if self.s2_ids is None:
            return np.asarray(np.sqrt(np.pi) * self.radius_km)
        return s2.widths_km(s2.levels(self.s2_ids))

    @property
    def median_width_km(self) -> float:
        """The median of these widths."""
        return float(np.median(self.width_km))

    @property
    def name(self) -> str:
        """What people call the level."""
        return f"tau_max {self.tau_max}" if self.label is None else self.label


@dataclass(frozen=True, slots=True, eq=False)
class Hierarchy:
    """Partitions from coarse to fine. The cells of the last level are the leaves."""

    levels: Sequence[Level]
    ancestors: np.ndarray  # (leaves, L) int64: the cell of each level that contains the leaf; last column 0, 1, 2, ...
    medoids: np.ndarray  # (leaves, 2) float64, latitude and longitude of each leaf's most central photo

    @property
    def digest(self) -> str:
        """Digest of the cells and their order: what rows of geocell vectors are tied to."""
        digest = hashlib.sha256()
        for level in self.levels:
            digest.update(f"{len(level)};".encode())
            for key in level.keys:
                digest.update(f"{len(key)}:{key}".encode())
        return digest.hexdigest()

    @property
    def leaves(self) -> Level:
        """The finest level."""
        return self.levels[-1]

    @property
    def is_s2(self) -> bool:
        """Whether cells are S2's, so that coordinates say which cell a point is in."""
        return all(level.s2_ids is not None for level in self.levels)

    @property
    def is_of_places(self) -> bool:
        """Whether each leaf is one place with a name, so that a photo belongs to the place that is nearest."""
        return not self.is_s2 and bool((self.leaves.radius_km < _ONE_PLACE_KM).all())

    def parents(self, level: int) -> np.ndarray:
        """For each cell of a level but the coarsest, the cell of the level above that contains it: (C,) int64."""
        above, below = self.levels[level - 1], self.levels[level]
        if above.s2_ids is not None and below.s2_ids is not None:
            return s2.locate(above.s2_ids, below.s2_ids)
        # A label path is its parent's with one more label.
        rank = {key: cell for cell, key in enumerate(above.keys.tolist())}
        return np.array([rank[key.rpartition(SEPARATOR)[0]] for key in below.keys.tolist()], np.int64)

    def parents_by_level(self) -> list[np.ndarray]:
        """`parents` of every level: (N_l,) int64 each; -1 throughout at the coarsest."""
        above = [self.parents(level) for level in range(1, len(self.levels))]
        return [np.full(len(self.levels[0]), -1), *above]

    def locate(self, lat_deg: np.ndarray, lng_deg: np.ndarray) -> np.ndarray:
        """The cell of each level that contains each point, or -1: (N, L) int64; raises what `s2_ids_of` does."""
        ids = s2.point_ids(lat_deg, lng_deg)
        return np.stack([s2.locate(s2_ids_of(level), ids) for level in self.levels], axis=1)

    def describe(self) -> list[dict[str, Any]]:
        """What people compare partitions by: cells, coverage, photos per cell and S2 levels used, for each level."""
        return [
            {
                "level": number,
                "name": level.name,
                "tau_max": level.tau_max,
                "tau_min": level.tau_min,
                "cells": len(level),
                "coverage": level.coverage,
                "photos_per_cell": {
                    "smallest": int(level.n_photos.min()),
                    "median": float(np.median(level.n_photos)),
                    "largest": int(level.n_photos.max()),
                },
                "s2_levels": [] if level.s2_ids is None else np.unique(s2.levels(level.s2_ids)).tolist(),
                "median_radius_km": float(np.median(level.radius_km)),
            }
            for number, level in enumerate(self.levels)
        ]


def s2_ids_of(level: Level) -> np.ndarray:
    """The S2 ids of a level's cells; an InputError where they have none: the cells are labels."""
    if level.s2_ids is None:
        raise InputError(
            f"The cells of this hierarchy are labels ({level.label}), not S2 cells, so coordinates do not say which "
            "cell a point is in. Give a table with the label columns, or a hierarchy of S2 cells."
        )
    return level.s2_ids


def sorted_ids(batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Point ids (N,) uint64, ascending, of photos that come in batches of latitudes and longitudes.

    Beside a batch, the ids are all that is held.
    """
    ids = np.empty(0, np.uint64)
    count = 0
    for lat_deg, lng_deg in batches:
        if count + len(lat_deg) > len(ids):
            # In place: growing by copying would hold the ids twice.
            ids.resize(max(count + len(lat_deg), len(ids) + len(ids) // 4), refcheck=False)
        ids[count : count + len(lat_deg)] = s2.point_ids(lat_deg, lng_deg)
        count += len(lat_deg)
    ids.resize(count, refcheck=False)
    ids.sort()
    return ids


def build_hierarchy(ids: np.ndarray, *, rule: PartitionRule) -> Hierarchy:
    """Divide the Earth at every granularity of the rule; an InputError where a level would have no cell.

    ids: (N,) uint64 point ids of photos, ascending (`sorted_ids`).
    """
    cells = [partition_cells(ids, rule, tau_max=tau_max) for tau_max in rule.tau_max]
    for tau_max, level in zip(rule.tau_max, cells, strict=True):
        if not level.size:
            raise InputError(
                f"No cell holds more than tau_min = {rule.tau_min} of the {len(ids)} photos at tau_max = {tau_max}. "
                "Lower `tau_min`, or give more photos."
            )
    ancestors = np.stack([s2.locate(level, cells[-1]) for level in cells], axis=1)
    # Follows from one tau_min and falling tau_max: a cell that holds a kept leaf holds more photos than tau_min.
    assert (ancestors >= 0).all(), "a finest cell without an ancestor"
    levels = [
        partial(Level, tau_min=rule.tau_min, tau_max=tau_max, label=None, keys=np.array(s2.tokens(level)), s2_ids=level)
        for level, tau_max in zip(cells, rule.tau_max, strict=True)
    ]
    return tie(levels, [photo_ranges(ids, level) for level in cells], ancestors, ids=ids)


def tie(
    levels: Sequence[Callable[..., Level]],
    ranges: Sequence[PhotoRanges],
    ancestors: np.ndarray,
    *,
    ids: np.ndarray,
    counts: np.ndarray | None = None,
) -> Hierarchy:
    """Put a hierarchy together.

    levels: coarsest first, each waiting for what follows from its photos. ranges: of each level. ancestors: (leaves, L)
    int64, columns ascending. ids: (N,) uint64 point ids of the photos, in the order that the ranges count in. counts:
    (N,) int64, how many photos stand behind each of these; None: one. Points and radii know nothing of it.
    """
    tied = []
    before = np.arange(len(ids) + 1) if counts is None else np.concatenate([[0], np.cumsum(counts)])
    for level, own, extent, ancestor in zip(levels, ranges, extents(ids, ranges), ancestors.T, strict=True):
        lat_deg, lng_deg, radius_km = extent
        city, country = nearest_cities(lat_deg, lng_deg)
        numbers, n_photos = np.arange(len(lat_deg)), before[own.end] - before[own.begin]
        tied.append(
            level(
                coverage=float(n_photos.sum() / before[-1]),
                n_photos=n_photos,
                lat_deg=lat_deg,
                lng_deg=lng_deg,
                radius_km=radius_km,
                leaf_begin=np.searchsorted(ancestor, numbers, side="left"),
                leaf_end=np.searchsorted(ancestor, numbers, side="right"),
                city=city,
                country=country,
            )
        )
    return Hierarchy(tied, ancestors, np.stack(medoids(ids, ranges[-1]), axis=1))
