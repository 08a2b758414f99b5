"""Figures of a set of answers: accuracy, GeoScore, recall by area, and the same for parts of the world.

In: great-circle errors in km, NaN where a photo has no answer. Out: figures over all photos. A photo without an answer
is a miss: within no distance, 0 points, and as far off as anything can be (20,015 km) in the median and the mean.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute

from indexer.earth import s2
from indexer.earth.geo import EARTH_RADIUS_KM, accuracy
from indexer.paper import THRESHOLDS_KM

# GeoScore as OpenStreetView-5M has it (Astruc et al., CVPR 2024, section 4; after the game GeoGuessr).
GEOSCORE_BEST = 5000.0
GEOSCORE_SCALE_KM = 1492.7

EARTH_AREA_KM2 = 4 * math.pi * EARTH_RADIUS_KM**2
# Where the recall-versus-area curve is tabulated: 1, 2, 5 in each decade up to the whole Earth.
AREAS_KM2 = (*(step * 10.0**power for power in range(9) for step in (1, 2, 5)), EARTH_AREA_KM2)


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures over a set of photos. `within` maps a threshold in km, written `25`, to percent of all photos."""

    n: int
    answered: int
    median_km: float
    mean_km: float
    geoscore: float  # 0 to 5000
    within: Mapping[str, float]


def geoscore(distance_km: np.ndarray) -> np.ndarray:
    """Points of each answer, 5000 exp(-d / 1492.7 km): (N,) float64 from 0 to 5000; 0 where the distance is NaN.

    The GeoScore of a set is their mean (Astruc et al., OpenStreetView-5M, CVPR 2024).
    """
    return np.where(np.isnan(distance_km), 0.0, GEOSCORE_BEST * np.exp(-distance_km / GEOSCORE_SCALE_KM))


def figures(distance_km: np.ndarray, thresholds_km: Sequence[float] = THRESHOLDS_KM) -> Figures:
    """Figures over errors (N,) in km, NaN where there is no answer. InputError as `accuracy` raises it."""
    reached, answered = accuracy(distance_km, thresholds_km), int(np.count_nonzero(~np.isnan(distance_km)))
    return Figures(**asdict(reached), answered=answered, geoscore=float(geoscore(distance_km).mean()))


def disc_area_km2(distance_km: np.ndarray) -> np.ndarray:
    """Area of the disc on the sphere (the cap) around an answer that just reaches the true place: (N,) float64.

    2 pi R^2 (1 - cos(d / R)), with a sine so that it is right for short distances. NaN where there is no answer.
    """
    return np.asarray(EARTH_AREA_KM2 * np.sin(distance_km / (2 * EARTH_RADIUS_KM)) ** 2)


def cells_area_km2(cells: pa.ListArray, lat_deg: np.ndarray, lng_deg: np.ndarray) -> np.ndarray:
    """Area of the ranked cells of each photo up to and including the one that holds the true place: (N,) float64.

    cells: (N,) lists of uint64 S2 ids, the likeliest first. lat_deg, lng_deg: (N,) of the true places. NaN where none
    of the listed cells holds it: a list of k cells says nothing of what comes after.
    """
    ids = cells.flatten().to_numpy(zero_copy_only=False).astype(np.uint64)
    photo = pa.compute.list_parent_indices(cells).to_numpy(zero_copy_only=False).astype(np.int64)
    cells_there, which = np.unique(ids, return_inverse=True)
    total = np.cumsum(s2.areas_km2(cells_there)[which])
    begin = np.searchsorted(photo, np.arange(len(cells)))  # lists stand in the order of the photos
    before = np.concatenate([[0.0], total])[begin]
    leaves = s2.point_ids(lat_deg, lng_deg)[photo]
    holds = np.flatnonzero((s2.range_min(ids) <= leaves) & (leaves <= s2.range_max(ids)))
    needed = np.full(len(cells), np.nan)
    for position in holds[::-1]:  # the first of a photo wins; disjoint cells hold a place at most once
        needed[photo[position]] = total[position] - before[photo[position]]
    return needed


def recall_by_area(needed_km2: np.ndarray, areas_km2: Sequence[float] = AREAS_KM2) -> np.ndarray:
    """Recall-versus-area curve: percent of photos whose true place is found in at most each area, (A,) float64.

    Bianco, Eigen and Gormish (arXiv 2407.13862) rank the regions an answer consists of and add up their areas until
    one holds the true place. A point says nothing but 'near here first', so its regions are rings around it and the
    area is that of the disc which reaches the true place (`disc_area_km2`); its curve then holds what accuracy by
    distance does, on an axis that it shares with answers made of cells (`cells_area_km2`).

    needed_km2: (N,) area each photo takes, NaN where none is enough (no answer, or the place is in none of its cells).
    """
    return 100 * np.searchsorted(np.sort(needed_km2[~np.isnan(needed_km2)]), areas_km2, side="right") / len(needed_km2)


def figures_by_group(
    groups: np.ndarray, distance_km: np.ndarray, thresholds_km: Sequence[float] = THRESHOLDS_KM
) -> dict[str, Figures]:
    """Figures of each group's photos, the largest group first, then by name. groups: (N,) str."""
    names, which, counts = np.unique(groups, return_inverse=True, return_counts=True)
    largest_first = np.argsort(-counts, kind="stable").tolist()
    return {str(names[group]): figures(distance_km[which == group], thresholds_km) for group in largest_first}
