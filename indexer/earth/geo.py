"""Points on the sphere: distances, mean directions, and how accurate answers are.

Latitudes and longitudes are degrees, always in that order; averages are taken of unit vectors, never of degrees.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from indexer.errors import InputError
from indexer.paper import THRESHOLDS_KM

EARTH_RADIUS_KM = 6371.0  # the radius the published evaluations use
FARTHEST_KM = math.pi * EARTH_RADIUS_KM  # to the antipode


def check_coordinates(
    lat_deg: np.ndarray, lng_deg: np.ndarray, *, rows: np.ndarray, source: str, required: bool = True
) -> None:
    """Raise InputError for the first coordinate that is not on Earth or, where they are required, is NaN.

    lat_deg, lng_deg: (N,) float64. rows: (N,) int64, the number each has in `source`.
    """
    for name, values, bound in (("lat", lat_deg, 90.0), ("lng", lng_deg, 180.0)):
        wrong = np.flatnonzero(~(np.abs(values) <= bound) & (required | ~np.isnan(values)))
        if wrong.size:
            raise InputError(
                f"{source}: {name} is {values[wrong[0]]} in row {rows[wrong[0]]} (counted from 0), the first of "
                f"{wrong.size} such. It must be a number from {-bound:g} to {bound:g}; remove or mend those rows."
            )


def unit_vectors(lat_deg: np.ndarray, lng_deg: np.ndarray) -> np.ndarray:
    """Latitudes and longitudes (N,) to unit vectors (N, 3) float64."""
    lat, lng = np.radians(lat_deg), np.radians(lng_deg)
    return np.stack([np.cos(lat) * np.cos(lng), np.cos(lat) * np.sin(lng), np.sin(lat)], axis=-1)


def lat_lng(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (N, 3) of any length but zero to latitudes and longitudes (N,) in degrees."""
    x, y, z = np.moveaxis(vectors, -1, 0)
    return np.degrees(np.arctan2(z, np.hypot(x, y))), np.degrees(np.arctan2(y, x))


def point_tree(lat_deg: np.ndarray, lng_deg: np.ndarray) -> cKDTree:
    """Points (N,) for nearest-neighbour search by `unit_vectors`: the nearest along a chord is the nearest on Earth."""
    return cKDTree(unit_vectors(lat_deg, lng_deg))


def haversine_km(
    lat_a_deg: np.ndarray, lng_a_deg: np.ndarray, lat_b_deg: np.ndarray, lng_b_deg: np.ndarray
) -> np.ndarray:
    """Great-circle distance in km, element by element with broadcasting; NaN where a coordinate is NaN."""
    lat_a, lng_a, lat_b, lng_b = (np.radians(value) for value in (lat_a_deg, lng_a_deg, lat_b_deg, lng_b_deg))
    half = np.sin((lat_b - lat_a) / 2) ** 2 + np.cos(lat_a) * np.cos(lat_b) * np.sin((lng_b - lng_a) / 2) ** 2
    # Rounding can push it just past 1 at antipodes.
    return 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.minimum(half, 1.0)))


def chords_to_km(chords: np.ndarray) -> np.ndarray:
    """Lengths of chords of the unit sphere, (N,) float64, to great-circle distances in km, in the same array."""
    np.minimum(chords, 2.0, out=chords)  # rounding can push them just past 2 at antipodes
    chords /= 2
    np.arcsin(chords, out=chords)
    chords *= 2 * EARTH_RADIUS_KM
    return chords


def bell_density(apart: np.ndarray, width_km: np.ndarray | float) -> np.ndarray:
    """Density per km2 of bells at places whose squared chords of the unit sphere from the bells' middles are `apart`.

    A bell is the von Mises-Fisher density of concentration (6371 km / width)^2.
    """
    concentration = (EARTH_RADIUS_KM / np.asarray(width_km, np.float64)) ** 2
    highest = concentration / (2 * np.pi * EARTH_RADIUS_KM**2 * -np.expm1(-2 * concentration))
    return np.asarray(highest * np.exp(-concentration * apart / 2))


def distance_text(km: float, *, exact: bool = False) -> str:
    """A distance with the unit that fits it: `140 km`, `9.5 km`, `180 m`. exact: `140.3 km`, for figures."""
    if km >= 0.9995:
        return f"{km:,.1f} km" if exact or km < 9.95 else f"{km:,.0f} km"
    return f"{1000 * km:.0f} m"


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
    if not all(limit > 0 and np.isfinite(limit) for limit in thresholds_km):
        raise InputError(f"Thresholds are distances above 0 km, not {[float(limit) for limit in thresholds_km]}.")
    if not len(distance_km):
        raise InputError("No photo to evaluate: the truth has no row with coordinates.")
    km = np.where(np.isnan(distance_km), FARTHEST_KM, distance_km)
    within = {f"{limit:g}": float(100 * np.mean(distance_km <= limit)) for limit in thresholds_km}
    return Accuracy(len(km), float(np.median(km)), float(np.mean(km)), within)
