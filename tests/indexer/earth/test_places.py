"""Names of places: cities, and the countries and continents they are in."""

import numpy as np
import pytest

from indexer.earth.places import city_named, countries, countries_of, gazetteer, largest_cities, nearest_cities
from indexer.errors import InputError


def test_places_everybody_knows() -> None:
    lat, lng = np.array([48.8584, -33.8568, 40.6892]), np.array([2.2945, 151.2153, -74.0445])
    names, continents = countries_of(lat, lng)
    assert names.tolist() == ["France", "Australia", "United States"]
    assert continents.tolist() == ["Europe", "Oceania", "North America"]
    assert nearest_cities(lat, lng)[1].tolist() == ["FR", "AU", "US"]


def test_the_largest_cities_come_first() -> None:
    cities = largest_cities(50)
    assert len(cities) == len({(city.name, city.country) for city in cities}) == 50
    assert {"Shanghai", "Istanbul"} <= {city.name for city in cities}
    assert "Reykjavík" not in {city.name for city in cities}


def test_every_city_has_a_country_and_a_continent() -> None:
    assert set(gazetteer().country.tolist()) <= set(countries())


def test_no_point_is_no_place() -> None:
    names, continents = countries_of(np.empty(0), np.empty(0))
    assert len(names) == len(continents) == 0


@pytest.mark.parametrize(
    ("text", "name", "country", "near"),
    [
        ("Paris", "Paris", "FR", (48.86, 2.35)),  # of several the largest
        (" paris , us ", "Paris", "US", (33.66, -95.56)),
        ("Paris, United States", "Paris", "US", (33.66, -95.56)),
        ("München", "Munich", "DE", (48.14, 11.58)),  # in another language
        ("Wien, Austria", "Vienna", "AT", (48.21, 16.37)),
    ],
)
def test_cities_by_their_names(text: str, name: str, country: str, near: tuple[float, float]) -> None:
    city = city_named(text)
    assert (city.name, city.country) == (name, country)
    assert (city.lat_deg, city.lng_deg) == pytest.approx(near, abs=0.1)


def test_names_of_no_city_are_refused_with_the_nearest_one() -> None:
    with pytest.raises(InputError, match=r"is called 'Marseile'\. Did you mean Marseille\?"):
        city_named("Marseile")
    for text in ("", ",", ", FR", "Paris, JP", "xqzzyx"):
        with pytest.raises(InputError, match="No city with at least 15,000 inhabitants"):
            city_named(text)
