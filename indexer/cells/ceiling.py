"""The ceiling of a partition: how accurate answers could be if the cell were always chosen best.

An answer is the point of a cell, so a photo far from every point cannot be answered well, whatever the model. This
compares partitions before anything is trained on them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from indexer.cells.hierarchy import Hierarchy
from indexer.earth import geo
from indexer.earth.geo import Accuracy, accuracy
from indexer.paper import THRESHOLDS_KM


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Of one level, on given photos."""

    level: int
    best: Accuracy  # answering each photo with the nearest point of any cell
    coverage: float | None  # share of the photos that lie in a cell; None where cells are labels


def ceilings(
    hierarchy: Hierarchy, lat_deg: np.ndarray, lng_deg: np.ndarray, *, thresholds_km: Sequence[float] = THRESHOLDS_KM
) -> list[Ceiling]:
    """The best accuracy that answers with the cells of each level can reach on photos taken at (N,) known places."""
    where = geo.unit_vectors(lat_deg, lng_deg)
    cells = hierarchy.locate(lat_deg, lng_deg) if hierarchy.is_s2 else None
    result = []
    for number, level in enumerate(hierarchy.levels):
        nearest = geo.point_tree(level.lat_deg, level.lng_deg).query(where)[1]
        distance = geo.haversine_km(lat_deg, lng_deg, level.lat_deg[nearest], level.lng_deg[nearest])
        coverage = None if cells is None else float((cells[:, number] >= 0).mean())
        result.append(Ceiling(number, accuracy(distance, thresholds_km), coverage))
    return result
