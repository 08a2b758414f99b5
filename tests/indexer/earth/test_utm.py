import math

import numpy as np
import pytest

from indexer.earth.utm import place_of_utm

QUARTER_M = 10_001_965.7293  # of a meridian of WGS 84, from the equator to a pole


def test_the_middle_of_a_zone_is_a_meridian() -> None:
    for zone in (1, 31, 60):
        meridian = 6 * zone - 183
        assert place_of_utm(500_000, 0, zone=zone, south=False) == pytest.approx((0, meridian), abs=1e-12)
        assert place_of_utm(500_000, 10_000_000, zone=zone, south=True) == pytest.approx((0, meridian), abs=1e-12)
    pole, _ = place_of_utm(500_000, 0.9996 * QUARTER_M, zone=31, south=False)
    assert pole == pytest.approx(90, abs=1e-9)


def test_the_far_side_of_the_last_zones_is_past_the_antimeridian() -> None:
    east, west = (place_of_utm(east_m, 0, zone=zone, south=False)[1] for zone, east_m in ((60, 9e5), (1, 1e5)))
    assert -180 <= east < -179
    assert 179 < west < 180


def test_south_is_north_turned_over() -> None:
    rng = np.random.default_rng(0)
    for east_m, north_m in rng.uniform((2e5, 0), (8e5, 9e6), (20, 2)):
        north = place_of_utm(east_m, north_m, zone=33, south=False)
        south = place_of_utm(east_m, 1e7 - north_m, zone=33, south=True)
        assert south == pytest.approx((-north[0], north[1]), abs=1e-11)


@pytest.mark.parametrize("zone", [1, 31, 33, 60])
@pytest.mark.parametrize("south", [False, True])
def test_equals_proj(zone: int, south: bool) -> None:
    pyproj = pytest.importorskip("pyproj")
    proj = pyproj.Proj(proj="utm", zone=zone, south=south, ellps="WGS84")
    rng = np.random.default_rng(zone)
    low, high = (1e6, 1e7) if south else (0, 9.3e6)
    for east_m, north_m in rng.uniform((1.5e5, low), (8.5e5, high), (200, 2)):
        lat, lng = place_of_utm(east_m, north_m, zone=zone, south=south)
        other_lng, other_lat = proj(east_m, north_m, inverse=True)
        assert abs(lat - other_lat) < 1e-8  # a millimetre
        apart = abs((lng - other_lng + 180) % 360 - 180)
        assert apart * math.cos(math.radians(lat)) < 1e-8
