"""The hierarchy: partitions from coarse to fine, tied together by which cell lies in which (paper section III-A).

In: coordinates of photos and a rule. Out: per level the cells with their counts, points and radii, and for every finest
cell (leaf) its ancestors. Levels are numbered 0 (coarsest) to L-1 (finest); cells by their rank in S2 order.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from indexer import geo, s2
from indexer.errors import InputError
from indexer.partition import partition, photo_ranges
from indexer.places import nearest_cities
from indexer.rule import PartitionRule


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """One partition. Arrays have one entry per cell, in S2 order."""

    tau_min: int
    tau_max: int
    coverage: float  # share of the photos that fall in a cell of this level
    s2_ids: np.ndarray  # (C,) uint64, strictly increasing, disjoint
    n_photos: np.ndarray  # (C,) int64
    lat_deg: np.ndarray  # (C,) float64, the mean direction of the cell's photos
    lng_deg: np.ndarray  # (C,) float64
    radius_km: np.ndarray  # (C,) float64, the largest distance of a photo from that point
    leaf_begin: np.ndarray  # (C,) int64; leaves leaf_begin <= leaf < leaf_end descend from the cell
    leaf_end: np.ndarray  # (C,) int64
    city: np.ndarray  # (C,) str, the city nearest to the cell's point
    country: np.ndarray  # (C,) str, its ISO 3166 two-letter country code

    def __len__(self) -> int:
        return len(self.s2_ids)


@dataclass(frozen=True, slots=True, eq=False)
class Hierarchy:
    """Partitions from coarse to fine. The cells of the last level are the leaves."""

    levels: Sequence[Level]
    ancestors: np.ndarray  # (leaves, L) int64: the cell of each level that contains the leaf; last column 0, 1, 2, ...

    @property
    def digest(self) -> str:
        """Digest of the cells and their order: what rows of geocell vectors are tied to."""
        digest = hashlib.sha256()
        for level in self.levels:
            digest.update(f"{len(level)};".encode())
            digest.update(level.s2_ids.astype("<u8").tobytes())
        return digest.hexdigest()

    @property
    def leaves(self) -> Level:
        """The finest level."""
        return self.levels[-1]

    def locate(self, lat_deg: np.ndarray, lng_deg: np.ndarray) -> np.ndarray:
        """The cell of each level that contains each point, or -1: (N, L) int64."""
        ids = s2.leaf_ids(lat_deg, lng_deg)
        return np.stack([s2.locate(level.s2_ids, ids) for level in self.levels], axis=1)


def build_hierarchy(lat_deg: np.ndarray, lng_deg: np.ndarray, *, rule: PartitionRule) -> Hierarchy:
    """Divide the Earth at every granularity of the rule.

    lat_deg, lng_deg: (N,) float64 coordinates of photos, in any order, checked.

    Raises:
        InputError: a level would have no cell.
    """
    ids = s2.leaf_ids(lat_deg, lng_deg)
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    points = geo.unit_vectors(lat_deg[order], lng_deg[order])
    cells = [partition(ids, rule, tau_max=tau_max) for tau_max in rule.tau_max]
    for tau_max, level in zip(rule.tau_max, cells, strict=True):
        if not level.size:
            raise InputError(
                f"No cell holds more than tau_min = {rule.tau_min} of the {len(ids)} photos at tau_max = {tau_max}. "
                "Lower --tau-min, or give more photos."
            )
    leaves = cells[-1]
    ancestors = np.stack([s2.locate(level, leaves) for level in cells], axis=1)
    # Follows from one tau_min and falling tau_max: a cell that holds a kept leaf holds more photos than tau_min.
    assert (ancestors >= 0).all(), "a finest cell without an ancestor"
    return Hierarchy(
        [_level(ids, points, level, leaves, rule, tau_max) for tau_max, level in zip(rule.tau_max, cells, strict=True)],
        ancestors,
    )


def _level(
    ids: np.ndarray, points: np.ndarray, cells: np.ndarray, leaves: np.ndarray, rule: PartitionRule, tau_max: int
) -> Level:
    begin, end = photo_ranges(ids, cells)
    sums = geo.range_sums(points, begin, end)
    centres = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    # Half the chord to each photo: the arcsine keeps its precision at the small angles where an arccosine loses it.
    chords = np.zeros(len(ids))
    member = np.repeat(np.arange(len(cells)), end - begin)
    rows = _ranges_to_rows(begin, end)
    chords[rows] = np.linalg.norm(points[rows] - centres[member], axis=1)
    lat, lng = geo.lat_lng(centres)
    city, country = nearest_cities(lat, lng)
    return Level(
        tau_min=rule.tau_min,
        tau_max=tau_max,
        coverage=float((end - begin).sum() / len(ids)),
        s2_ids=cells,
        n_photos=end - begin,
        lat_deg=lat,
        lng_deg=lng,
        radius_km=2 * geo.EARTH_RADIUS_KM * np.arcsin(np.minimum(geo.range_max(chords, begin, end) / 2, 1.0)),
        leaf_begin=np.searchsorted(leaves, s2.range_min(cells), side="left"),
        leaf_end=np.searchsorted(leaves, s2.range_max(cells), side="right"),
        city=city,
        country=country,
    )


def _ranges_to_rows(begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    lengths = end - begin
    return np.arange(lengths.sum()) + np.repeat(begin - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)


def describe(hierarchy: Hierarchy) -> list[dict[str, Any]]:
    """What a person compares partitions by: cells, coverage, photos per cell and S2 levels used, for each level."""
    return [
        {
            "level": number,
            "tau_max": level.tau_max,
            "tau_min": level.tau_min,
            "cells": len(level),
            "coverage": level.coverage,
            "photos_per_cell": {
                "smallest": int(level.n_photos.min()),
                "median": float(np.median(level.n_photos)),
                "largest": int(level.n_photos.max()),
            },
            "s2_levels": np.unique(s2.levels(level.s2_ids)).tolist(),
            "median_radius_km": float(np.median(level.radius_km)),
        }
        for number, level in enumerate(hierarchy.levels)
    ]
