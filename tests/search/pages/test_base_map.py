"""Land where there is land, over all turns of the Earth, and closed at the pole."""

import json

import numpy as np
import pytest
import shapely

from search.pages.base_map import Detail, base_map, geojson

ON_LAND = {"Paris": (2.35, 48.86), "Nairobi": (36.82, -1.29), "South Pole": (10.0, -89.0), "Chukotka": (-178.0, 67.5)}
AT_SEA = {"Atlantic": (-30.0, 30.0), "Pacific": (-140.0, 0.0), "Arctic": (0.0, 89.0), "Bering Sea": (179.0, 58.0)}


@pytest.mark.parametrize("detail", ["low", "intermediate"])
def test_places_lie_on_land_and_at_sea(detail: Detail) -> None:
    land = shapely.union_all([shapely.make_valid(shapely.Polygon(ring)) for ring in base_map(detail).land])
    assert {name for name, place in (ON_LAND | AT_SEA).items() if land.contains(shapely.Point(place))} == set(ON_LAND)


def test_rings_are_closed_and_on_the_earth() -> None:
    shapes = base_map()
    for ring in (*shapes.land, *shapes.lakes):
        np.testing.assert_array_equal(ring[0], ring[-1])
    corners = np.concatenate([*shapes.land, *shapes.lakes, *shapes.borders])
    assert (np.abs(corners) <= (180.001, 90)).all()


def test_a_window_over_the_180th_meridian_sees_both_sides() -> None:
    whole, near = base_map(), base_map().near(170, 60, 195, 70)
    assert 0 < len(near.land) < len(whole.land) / 10
    land = shapely.union_all([shapely.make_valid(shapely.Polygon(ring)) for ring in near.land])
    assert land.contains(shapely.Point(175.0, 67.0))
    assert land.contains(shapely.Point(182.0, 67.5))  # 178 W
    assert not base_map().near(-32, 28, -31, 29).land


def test_geojson_has_three_kinds_and_parses() -> None:
    collection = json.loads(json.dumps(geojson("low")))
    kinds = {
        each["properties"]["kind"]: shapely.from_geojson(json.dumps(each["geometry"]))
        for each in collection["features"]
    }
    assert set(kinds) == {"land", "lakes", "borders"}
    assert len(kinds["land"].geoms) == len(base_map().land)
    assert kinds["borders"].length == pytest.approx(
        sum(shapely.LineString(each).length for each in base_map().borders), rel=1e-3
    )
