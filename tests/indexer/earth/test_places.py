"""Names of places: cities, and the countries and continents they are in."""

import numpy as np

from indexer.earth.places import countries, countries_of, gazetteer, nearest_cities


def test_places_everybody_knows() -> None:
    lat, lng = np.array([48.8584, -33.8568, 40.6892]), np.array([2.2945, 151.2153, -74.0445])
    names, continents = countries_of(lat, lng)
    assert names.tolist() == ["France", "Australia", "United States"]
    assert continents.tolist() == ["Europe", "Oceania", "North America"]
    assert nearest_cities(lat, lng)[1].tolist() == ["FR", "AU", "US"]


def test_every_city_has_a_country_and_a_continent() -> None:
    assert set(gazetteer().country.tolist()) <= set(countries())


def test_no_point_is_no_place() -> None:
    names, continents = countries_of(np.empty(0), np.empty(0))
    assert len(names) == len(continents) == 0
