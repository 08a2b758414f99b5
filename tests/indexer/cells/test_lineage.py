"""What became of each cell, against asking s2sphere about every pair."""

import numpy as np
import pyarrow as pa
import pytest
import s2sphere

from indexer.cells.hierarchy import Hierarchy, build_hierarchy, sorted_ids
from indexer.cells.labels import build_label_hierarchy
from indexer.cells.lineage import GONE, MERGED, NEW, RELATIONS, SAME, SCHEMA, SPLIT, level_counts, lineage
from indexer.cells.partition import PartitionRule
from indexer.errors import InputError
from tests.conftest import clustered_points

RULE = PartitionRule(tau_max=(200, 60), tau_min=4)


def hierarchy_of(n: int, seed: int = 3, rule: PartitionRule = RULE) -> Hierarchy:
    """Hierarchies of the first n of the same photos, so that more photos only add."""
    lat, lng = clustered_points(2000, seed)
    return build_hierarchy(sorted_ids([(lat[:n], lng[:n])]), rule=rule)


PAIRS = [
    (hierarchy_of(900), hierarchy_of(2000)),  # photos were added: cells split, cells appear
    (hierarchy_of(2000), hierarchy_of(900)),  # photos were taken away: cells merge, cells go
    (hierarchy_of(1500), hierarchy_of(1500, rule=PartitionRule(tau_max=(200, 60), tau_min=4, keep_parent=0.05))),
    (hierarchy_of(1500), hierarchy_of(1500)),
]


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_relations_are_what_s2sphere_says_of_every_pair(old: Hierarchy, new: Hierarchy) -> None:
    table = lineage(old, new)
    assert table.schema == SCHEMA
    found = {(r["level"], r["relation"], r["key"], r["old_key"]) for r in table.to_pylist()}
    assert len(found) == table.num_rows
    expected = set()
    for level, (a, b) in enumerate(zip(old.levels, new.levels, strict=True)):
        olds = {token: s2sphere.CellId.from_token(token) for token in a.keys.tolist()}
        news = {token: s2sphere.CellId.from_token(token) for token in b.keys.tolist()}
        for key, cell in news.items():
            over = [(k, c) for k, c in olds.items() if c.intersects(cell)]
            for old_key, old_cell in over:
                relation = SAME if old_cell == cell else SPLIT if old_cell.contains(cell) else MERGED
                expected.add((level, relation, key, old_key))
            if not over:
                expected.add((level, NEW, key, None))
        for old_key, old_cell in olds.items():
            if not any(cell.intersects(old_cell) for cell in news.values()):
                expected.add((level, GONE, None, old_key))
    assert found == expected


def test_the_pairs_hold_every_relation() -> None:
    seen = set()
    for old, new in PAIRS:
        seen |= set(lineage(old, new)["relation"].to_pylist())
    assert seen == {SAME, SPLIT, MERGED, NEW, GONE}


def test_counts_are_those_of_each_level() -> None:
    table = lineage(*PAIRS[0])
    counts = level_counts(table)
    assert [row["level"] for row in counts] == [0, 1]
    assert sum(row[name] for row in counts for name in RELATIONS) == table.num_rows
    assert counts[1][SAME] == sum(r["relation"] == SAME and r["level"] == 1 for r in table.to_pylist())


def labelled(cities: str) -> Hierarchy:
    """Six photos in countries A and B, and in cities of one letter each."""
    table = pa.table({"country": list("AAABBB"), "city": list(cities)})
    ids = np.arange(1, 7, dtype=np.uint64) * 2 + 1
    return build_label_hierarchy(table, ("country", "city"), ids=ids, tau_min=0)


def test_labels_are_compared_by_their_paths() -> None:
    old, new = labelled("ppqxxy"), labelled("pprxxx")
    rows = {(r["level"], r["relation"], r["key"], r["old_key"]) for r in lineage(old, new).to_pylist()}
    assert rows == {
        (0, SAME, "A", "A"),
        (0, SAME, "B", "B"),
        (1, SAME, "A/p", "A/p"),
        (1, SAME, "B/x", "B/x"),
        (1, NEW, "A/r", None),
        (1, GONE, None, "A/q"),
        (1, GONE, None, "B/y"),
    }


def test_hierarchies_that_do_not_correspond_are_refused() -> None:
    with pytest.raises(InputError, match=r"3 levels.*2 levels.*indexer build with `features`.*without `old_hierarchy`"):
        lineage(hierarchy_of(1500, rule=PartitionRule(tau_max=(200, 60, 30), tau_min=4)), hierarchy_of(1500))
