"""Distances, mean directions and accuracy, against formulas written another way."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from indexer.earth import geo
from indexer.errors import InputError
from tests.conftest import EDGE_POINTS

latitudes = st.floats(-90, 90)
longitudes = st.floats(-180, 180)


@given(latitudes, longitudes, latitudes, longitudes)
def test_haversine_is_the_angle_between_unit_vectors(a: float, b: float, c: float, d: float) -> None:
    first, second = geo.unit_vectors(np.array([a, c]), np.array([b, d]))
    angle = math.atan2(float(np.linalg.norm(np.cross(first, second))), float(first @ second))
    assert float(geo.haversine_km(a, b, c, d)) == pytest.approx(6371.0 * angle, abs=1e-3)


def test_haversine_of_known_pairs() -> None:
    assert float(geo.haversine_km(0, 0, 0, 180)) == pytest.approx(math.pi * 6371.0)
    assert float(geo.haversine_km(0, 179.9, 0, -179.9)) == pytest.approx(2 * math.pi * 6371.0 / 1800)
    assert float(geo.haversine_km(90, 17, 90, -130)) == pytest.approx(0, abs=1e-9)
    assert np.isnan(geo.haversine_km(np.nan, 0, 0, 0))


@given(latitudes, longitudes)
def test_unit_vectors_and_back(lat: float, lng: float) -> None:
    assume(abs(lat) < 89.9999)
    back_lat, back_lng = geo.lat_lng(geo.unit_vectors(np.array([lat]), np.array([lng])))
    assert back_lat[0] == pytest.approx(lat, abs=1e-9)
    assert (back_lng[0] - lng + 180) % 360 - 180 == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("lat", "lng", "message"),
    [(95.0, 0.0, "lat is 95.0 in row 1"), (np.nan, 0.0, "lat is nan in row 1"), (0.0, 180.5, "lng is 180.5 in row 1")],
)
def test_coordinates_off_the_earth_are_named(lat: float, lng: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        geo.check_coordinates(np.array([0.0, lat]), np.array([0.0, lng]), rows=np.arange(2), source="t.csv")


def test_edge_points_are_on_the_earth() -> None:
    geo.check_coordinates(EDGE_POINTS[:, 0], EDGE_POINTS[:, 1], rows=np.arange(len(EDGE_POINTS)), source="edges")


def test_a_distance_in_a_city_is_told_in_metres_and_on_earth_in_kilometres() -> None:
    distances = (20015.1, 54.4, 9.96, 1.04, 0.1884, 0.0)
    assert [geo.distance_text(km) for km in distances] == ["20,015 km", "54 km", "10 km", "1.0 km", "188 m", "0 m"]
    assert [geo.distance_text(km, exact=True) for km in (54.44, 0.1884)] == ["54.4 km", "188 m"]


def test_accuracy_counts_silence_as_a_miss() -> None:
    figures = geo.accuracy(np.array([0.5, 30.0, 100.0, np.nan]))
    assert figures.n == 4
    assert figures.within == {"1": 25.0, "25": 25.0, "200": 75.0, "750": 75.0, "2500": 75.0}
    assert figures.median_km == pytest.approx(65.0)
    assert figures.mean_km == pytest.approx((0.5 + 30 + 100 + math.pi * 6371) / 4)


def test_accuracy_threshold_is_inclusive_and_named_as_written() -> None:
    assert geo.accuracy(np.array([25.0]), [2.5, 25]).within == {"2.5": 0.0, "25": 100.0}


def test_accuracy_of_nothing_is_an_error() -> None:
    with pytest.raises(InputError, match="No photo"):
        geo.accuracy(np.array([]))
