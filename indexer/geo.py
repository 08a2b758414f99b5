"""Points on the sphere: distances, mean directions, and how accurate answers are.

Latitudes and longitudes are degrees, always in that order; averages are taken of unit vectors, never of degrees.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from indexer.errors import InputError

EARTH_RADIUS_KM = 6371.0  # the radius the published evaluations use
FARTHEST_KM = math.pi * EARTH_RADIUS_KM  # to the antipode
THRESHOLDS_KM = (1.0, 25.0, 200.0, 750.0, 2500.0)  # street, city, region, country, continent


def check_coordinates(lat_deg: np.ndarray, lng_deg: np.ndarray, *, source: str) -> None:
    """Raise InputError naming the first row of `source` whose coordinates are not on Earth."""
    for name, values, bound in (("lat", lat_deg, 90.0), ("lng", lng_deg, 180.0)):
        wrong = np.flatnonzero(~(np.abs(values) <= bound))  # written so that NaN is wrong too
        if wrong.size:
            row = int(wrong[0])
            raise InputError(
                f"{source}: {name} is {values[row]} in row {row} ({wrong.size} such rows). It must be a number from "
                f"{-bound:g} to {bound:g}; remove or mend those rows."
            )


def unit_vectors(lat_deg: np.ndarray, lng_deg: np.ndarray) -> np.ndarray:
    """Latitudes and longitudes (N,) to unit vectors (N, 3) float64."""
    lat, lng = np.radians(lat_deg), np.radians(lng_deg)
    return np.stack([np.cos(lat) * np.cos(lng), np.cos(lat) * np.sin(lng), np.sin(lat)], axis=-1)


def lat_lng(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (N, 3) of any length but zero to latitudes and longitudes (N,) in degrees."""
    x, y, z = np.moveaxis(vectors, -1, 0)
    return np.degrees(np.arctan2(z, np.hypot(x, y))), np.degrees(np.arctan2(y, x))


def haversine_km(
    lat_a_deg: np.ndarray, lng_a_deg: np.ndarray, lat_b_deg: np.ndarray, lng_b_deg: np.ndarray
) -> np.ndarray:
    """Great-circle distance in km, element by element with broadcasting; NaN where a coordinate is NaN."""
    lat_a, lng_a, lat_b, lng_b = (np.radians(value) for value in (lat_a_deg, lng_a_deg, lat_b_deg, lng_b_deg))
    half = (
        np.sin((lat_b - lat_a) / 2) ** 2 + np.cos(lat_a) * np.cos(lat_b) * np.sin((lng_b - lng_a) / 2) ** 2
    )  # rounding can push it just past 1 at antipodes
    return 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.minimum(half, 1.0)))


def range_sums(values: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Sum of rows begin[i]:end[i] of values (N, K), for non-empty, non-overlapping ascending ranges: (C, K)."""
    # Ranges summed one by one: a difference of running sums would lose digits over millions of rows.
    return _reduce_ranges(np.add, values, begin, end)


def range_max(values: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Largest of begin[i]:end[i] of values (N,), for non-empty, non-overlapping ascending ranges: (C,)."""
    return _reduce_ranges(np.maximum, values, begin, end)


def _reduce_ranges(reduce: np.ufunc, values: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    if not begin.size:
        return np.empty((0, *values.shape[1:]), values.dtype)
    edges = np.stack([begin, end], axis=1).ravel()
    # reduceat takes each edge to the next one; every second result is a gap between ranges, and an edge may not
    # be the length of the array, which the last `end` can be.
    edges = edges[:-1] if end[-1] == len(values) else edges
    return np.asarray(reduce.reduceat(values, edges, axis=0)[::2])


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How far answers are from the truth. `within` maps a threshold in km, written `25`, to percent of all photos."""

    n: int
    median_km: float
    mean_km: float
    within: Mapping[str, float]


def accuracy(distance_km: np.ndarray, thresholds_km: Sequence[float] = THRESHOLDS_KM) -> Accuracy:
    """Accuracy over distances (N,), where NaN means that a photo got no answer.

    No answer is a miss at every threshold, and counts as the antipode (20,015 km) in the median and the mean, so that
    staying silent never improves a figure.
    """
    if not len(distance_km):
        raise InputError("No photo to evaluate: the truth has no row with coordinates.")
    km = np.where(np.isnan(distance_km), FARTHEST_KM, distance_km)
    within = {f"{limit:g}": float(100 * np.mean(distance_km <= limit)) for limit in thresholds_km}
    return Accuracy(len(km), float(np.median(km)), float(np.mean(km)), within)
