"""The hierarchy of partitions: ancestors, points and radii against s2sphere and plain loops."""

import numpy as np
import pytest
import s2sphere

from indexer.cells.hierarchy import Hierarchy, build_hierarchy, sorted_ids
from indexer.cells.partition import PartitionRule
from indexer.earth import geo, s2
from indexer.errors import InputError
from tests.conftest import RULE

Points = tuple[np.ndarray, np.ndarray]


def divide(points: Points, rule: PartitionRule) -> Hierarchy:
    return build_hierarchy(sorted_ids([points]), rule=rule)


def test_every_leaf_reaches_every_level(hierarchy: Hierarchy) -> None:
    for leaf, row in enumerate(hierarchy.ancestors):
        cell = s2sphere.CellId(int(hierarchy.leaves.s2_ids[leaf]))
        for level, ancestor in zip(hierarchy.levels, row, strict=True):
            above = s2sphere.CellId(int(level.s2_ids[ancestor]))
            assert above == cell or above.contains(cell)
    assert hierarchy.ancestors[:, -1].tolist() == list(range(len(hierarchy.leaves)))


def test_leaf_ranges_are_the_ancestors_turned_round(hierarchy: Hierarchy) -> None:
    for number, level in enumerate(hierarchy.levels):
        for cell in range(len(level)):
            below = np.flatnonzero(hierarchy.ancestors[:, number] == cell)
            assert below.tolist() == list(range(level.leaf_begin[cell], level.leaf_end[cell]))


def test_counts_points_and_radii(hierarchy: Hierarchy, points: Points) -> None:
    lat, lng = points
    cells = hierarchy.locate(lat, lng)
    for number, level in enumerate(hierarchy.levels):
        assert level.coverage == pytest.approx((cells[:, number] >= 0).mean())
        for cell in range(len(level)):
            mine = cells[:, number] == cell
            assert level.n_photos[cell] == mine.sum()
            mean = geo.unit_vectors(lat[mine], lng[mine]).mean(axis=0)
            want_lat, want_lng = geo.lat_lng(mean[None])
            # A photo stands at the centre of its leaf cell, which is at most a centimetre away.
            assert geo.haversine_km(want_lat, want_lng, level.lat_deg[cell], level.lng_deg[cell])[0] < 1e-5
            farthest = geo.haversine_km(lat[mine], lng[mine], level.lat_deg[cell], level.lng_deg[cell]).max()
            assert level.radius_km[cell] == pytest.approx(farthest, abs=2e-5)


def test_points_at_the_antimeridian_and_pole_stay_with_their_photos() -> None:
    rng = np.random.default_rng(0)
    lng = (180 + rng.normal(0, 0.01, 200) + 180) % 360 - 180
    level = divide((rng.normal(30, 0.01, 200), lng), PartitionRule(tau_max=(500,), tau_min=5)).leaves
    assert geo.haversine_km(level.lat_deg, level.lng_deg, 30, 180).max() < 5
    polar = build_hierarchy(
        sorted_ids([(np.full(60, 89.9), np.linspace(-180, 174, 60))]),
        rule=PartitionRule(tau_max=(500,), tau_min=5, first_level=0),
    ).leaves
    assert polar.lat_deg.max() > 89.99
    assert polar.radius_km.max() == pytest.approx(geo.EARTH_RADIUS_KM * np.radians(0.1), rel=0.01)


def test_order_of_the_photos_does_not_matter(hierarchy: Hierarchy, points: Points) -> None:
    order = np.random.default_rng(1).permutation(len(points[0]))
    again = divide((points[0][order], points[1][order]), RULE)
    assert again.digest == hierarchy.digest
    for a, b in zip(again.levels, hierarchy.levels, strict=True):
        np.testing.assert_allclose(a.lat_deg, b.lat_deg, atol=1e-12)


def test_digest_is_about_cells_and_their_order(hierarchy: Hierarchy, points: Points) -> None:
    other = divide(points, PartitionRule(tau_max=(400, 120, 41), tau_min=5))
    assert other.digest != hierarchy.digest


def test_names_come_from_the_nearest_city() -> None:
    level = build_hierarchy(
        sorted_ids([(np.full(20, 64.14), np.full(20, -21.93))]), rule=PartitionRule(tau_max=(100,), tau_min=5)
    ).leaves
    assert (level.city[0], level.country[0]) == ("Reykjavík", "IS")


def test_no_cell_left_is_an_error_that_says_what_to_lower() -> None:
    with pytest.raises(InputError, match="Lower `tau_min`"):
        divide((np.array([1.0, 50.0]), np.array([1.0, 50.0])), PartitionRule(tau_max=(100,), tau_min=5))


def test_points_outside_every_cell_are_located_nowhere(hierarchy: Hierarchy) -> None:
    empty = [(lat, lng) for lat in range(-80, 80, 7) for lng in range(-180, 180, 7)]
    cells = hierarchy.locate(*np.array(empty, float).T)
    assert (cells[:, -1] == -1).any()
    ids = s2.point_ids(*np.array(empty, float).T)
    inside = (ids[:, None] >= s2.range_min(hierarchy.leaves.s2_ids)) & (
        ids[:, None] <= s2.range_max(hierarchy.leaves.s2_ids)
    )
    assert (inside.any(axis=1) == (cells[:, -1] >= 0)).all()


def test_description_adds_up(hierarchy: Hierarchy) -> None:
    rows = hierarchy.describe()
    assert [row["cells"] for row in rows] == [len(level) for level in hierarchy.levels]
    assert all(row["photos_per_cell"]["smallest"] > RULE.tau_min for row in rows)
    assert all(row["photos_per_cell"]["largest"] <= row["tau_max"] for row in rows)
