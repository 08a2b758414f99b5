"""Figures against their definitions, written out photo by photo."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from indexer.earth import s2
from indexer.earth.geo import FARTHEST_KM, haversine_km
from search.evaluation.metrics import (
    AREAS_KM2,
    EARTH_AREA_KM2,
    cells_area_km2,
    disc_area_km2,
    figures,
    figures_by_group,
    geoscore,
    recall_by_area,
)

DISTANCES = arrays(np.float64, st.integers(1, 30), elements=st.floats(0, FARTHEST_KM) | st.just(math.nan))


@given(DISTANCES)
def test_figures_by_hand(distance: np.ndarray) -> None:
    result = figures(distance, (25, 2500))
    points = [0.0 if math.isnan(d) else 5000 * math.exp(-d / 1492.7) for d in distance]
    assert result.geoscore == pytest.approx(sum(points) / len(points))
    assert result.answered == sum(not math.isnan(d) for d in distance)
    assert result.within["25"] == pytest.approx(100 * sum(d <= 25 for d in distance) / len(distance))
    assert 0 <= result.geoscore <= 5000


def test_geoscore_at_known_distances() -> None:
    np.testing.assert_allclose(geoscore(np.array([0.0, 1492.7, np.nan])), [5000, 5000 / math.e, 0])


def test_a_disc_grows_to_the_whole_earth() -> None:
    areas = disc_area_km2(np.array([0.0, 1.0, FARTHEST_KM / 2, FARTHEST_KM, np.nan]))
    np.testing.assert_allclose(areas[:4], [0, math.pi, EARTH_AREA_KM2 / 2, EARTH_AREA_KM2], rtol=1e-6)
    assert np.isnan(areas[4])


@given(DISTANCES)
def test_recall_by_area_is_accuracy_at_the_discs_radius(distance: np.ndarray) -> None:
    recall = recall_by_area(disc_area_km2(distance))
    assert (np.diff(recall) >= 0).all()
    assert recall[-1] == pytest.approx(100 * np.mean(~np.isnan(distance)), abs=1e-9) or FARTHEST_KM in distance
    for area, percent in zip(AREAS_KM2, recall, strict=True):
        assert percent == pytest.approx(100 * sum(disc_area_km2(d) <= area for d in distance) / len(distance))


def test_areas_rise_from_1_to_the_earth() -> None:
    assert AREAS_KM2[0] == 1
    assert AREAS_KM2[-1] == EARTH_AREA_KM2
    assert list(AREAS_KM2) == sorted(set(AREAS_KM2))


def test_cells_are_added_up_until_one_holds_the_place() -> None:
    rng = np.random.default_rng(0)
    lat, lng = np.degrees(np.arcsin(rng.uniform(-1, 1, 40))), rng.uniform(-180, 180, 40)
    own = s2.parents(s2.point_ids(lat, lng), 4)
    others = s2.cells_of_level(4)
    lists, expected = [], []
    for row, cell in enumerate(own):
        if row % 5 == 0:
            lists.append([])  # no answer
            expected.append(math.nan)
            continue
        ranked = rng.choice(others[others != cell], 6, replace=False)
        if row % 5 == 1:  # a list that never gets there
            lists.append(ranked.tolist())
            expected.append(math.nan)
            continue
        place = row % 6
        ranked[place] = cell
        lists.append(ranked.tolist())
        expected.append(sum(float(s2.areas_km2(ranked[i : i + 1])[0]) for i in range(place + 1)))
    needed = cells_area_km2(pa.array(lists, pa.list_(pa.uint64())), lat, lng)
    np.testing.assert_allclose(needed, expected, rtol=1e-9)


def test_the_whole_earth_as_cells_takes_at_most_the_earth() -> None:
    cells = pa.array([s2.cells_of_level(1).tolist()] * 3, pa.list_(pa.uint64()))
    needed = cells_area_km2(cells, np.array([90.0, 0.0, -33.0]), np.array([0.0, 180.0, 151.0]))
    assert (needed <= EARTH_AREA_KM2 * (1 + 1e-12)).all()
    assert recall_by_area(needed)[-1] == 100


def test_groups_hold_every_photo_once_and_the_largest_is_first() -> None:
    distance = haversine_km(np.zeros(5), np.arange(5.0), np.zeros(5), np.zeros(5))
    groups = figures_by_group(np.array(["b", "a", "b", "c", "a"]), distance)
    assert list(groups) == ["a", "b", "c"]
    assert [figures.n for figures in groups.values()] == [2, 2, 1]
    assert groups["b"].median_km == pytest.approx(distance[[0, 2]].mean())
