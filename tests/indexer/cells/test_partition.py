"""A slow, plain recursion over s2sphere cells is the oracle of the partition rule."""

from dataclasses import replace

import numpy as np
import pytest
import s2sphere
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.cells.partition import PartitionRule, partition_cells, photo_ranges
from indexer.earth import s2
from indexer.errors import InputError
from indexer.paper import TAU_MAX
from tests.conftest import EDGE_POINTS, clustered_points


def plain_partition(ids: list[int], rule: PartitionRule, tau_max: int) -> list[int]:
    """The rule in words: split above tau_max, keep above tau_min, never look back."""

    def inside(cell: s2sphere.CellId, photos: list[int]) -> list[int]:
        low, high = cell.range_min().id(), cell.range_max().id()
        return [photo for photo in photos if low <= photo <= high]

    def enough(n: int) -> bool:
        return n >= rule.tau_min if rule.min_inclusive else n > rule.tau_min

    def visit(cell: s2sphere.CellId, photos: list[int]) -> list[int]:
        if len(photos) > tau_max and cell.level() < 30:
            parts = [(child, inside(child, photos)) for child in cell.children()]
            lost = sum(len(part) for _, part in parts if not enough(len(part)))
            if rule.keep_parent is None or lost <= rule.keep_parent * len(photos):
                return [kept for child, part in parts for kept in visit(child, part)]
        return [cell.id()] if enough(len(photos)) else []

    roots = [s2sphere.CellId(int(cell)) for cell in s2.cells_of_level(rule.first_level)]
    return sorted(kept for root in roots for kept in visit(root, inside(root, ids)))


def sorted_points(n: int, seed: int) -> np.ndarray:
    lat, lng = clustered_points(n, seed)
    points = np.concatenate([np.stack([lat, lng], axis=1), EDGE_POINTS, np.repeat(EDGE_POINTS[:3], 40, axis=0)])
    return np.sort(s2.point_ids(points[:, 0], points[:, 1]))


@pytest.mark.parametrize(
    "rule",
    [
        PartitionRule(tau_max=(200, 50, 20), tau_min=5),
        PartitionRule(tau_max=(200, 50, 20), tau_min=5, first_level=0),
        PartitionRule(tau_max=(200, 50, 20), tau_min=5, min_inclusive=True),
        PartitionRule(tau_max=(200, 50, 20), tau_min=5, keep_parent=0.3),
        PartitionRule(tau_max=(60, 10, 1), tau_min=0),
    ],
    ids=["default", "six faces", "inclusive", "keep_parent", "down to one"],
)
def test_partition_equals_the_plain_recursion(rule: PartitionRule) -> None:
    ids = sorted_points(1500, seed=3)
    for tau_max in rule.tau_max:
        assert partition_cells(ids, rule, tau_max=tau_max).tolist() == plain_partition(ids.tolist(), rule, tau_max)


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.floats(-90, 90), st.floats(-180, 180)), min_size=1, max_size=60),
    st.integers(0, 4),
    st.integers(1, 10),
    st.integers(0, 3),
)
def test_partition_equals_the_plain_recursion_for_any_points(
    places: list[tuple[float, float]], tau_min: int, above: int, first_level: int
) -> None:
    rule = PartitionRule(tau_max=(tau_min + above,), tau_min=tau_min, first_level=first_level)
    ids = np.sort(s2.point_ids(*np.array(places).T))
    assert partition_cells(ids, rule, tau_max=rule.tau_max[0]).tolist() == plain_partition(
        ids.tolist(), rule, rule.tau_max[0]
    )


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from([None, 0.0, 0.2, 0.6]))
def test_partitions_are_nested_whatever_keep_parent_does(seed: int, keep_parent: float | None) -> None:
    rule = replace(PartitionRule(tau_max=(150, 60, 25, 12), tau_min=4), keep_parent=keep_parent)
    ids = sorted_points(600, seed)
    fine = partition_cells(ids, rule, tau_max=12)
    for tau_max in rule.tau_max:
        assert (s2.locate(partition_cells(ids, rule, tau_max=tau_max), fine) >= 0).all()


def test_duplicates_stop_at_the_deepest_level() -> None:
    ids = np.repeat(s2.point_ids(np.array([48.8584]), np.array([2.2945])), 100)
    cells = partition_cells(ids, PartitionRule(tau_max=(10,), tau_min=5), tau_max=10)
    assert cells.tolist() == ids[:1].tolist()


def test_counts_and_ranges_agree_with_the_photos() -> None:
    ids = sorted_points(500, seed=1)
    cells = partition_cells(ids, PartitionRule(tau_max=(40,), tau_min=3), tau_max=40)
    ranges = photo_ranges(ids, cells)
    inside = s2.locate(cells, ids)
    assert ranges.lengths.tolist() == np.bincount(inside[inside >= 0], minlength=len(cells)).tolist()
    for cell, (first, last) in enumerate(zip(ranges.begin, ranges.end, strict=True)):
        assert (inside[first:last] == cell).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau_max": ()}, "fall strictly"),
        ({"tau_max": (10, 20)}, "fall strictly"),
        ({"tau_max": (20, 20)}, "fall strictly"),
        ({"tau_max": (20,), "tau_min": 20}, "below every tau_max"),
        ({"tau_max": (20,), "tau_min": -1}, "tau_min"),
        ({"first_level": 11}, "first_level"),
        ({"keep_parent": 1.0}, "keep_parent"),
    ],
)
def test_rules_that_make_no_sense_are_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        PartitionRule(**options)


def test_the_paper_is_the_default() -> None:
    assert PartitionRule() == PartitionRule(tau_max=TAU_MAX, tau_min=50, first_level=2)
    assert TAU_MAX == (25000, 10000, 5000, 2000, 1000, 750, 500)
