"""What became of each cell, against asking s2sphere about every pair; and vectors that follow."""

import numpy as np
import pyarrow as pa
import pytest
import s2sphere

from indexer.cells.hierarchy import Hierarchy, build_hierarchy, sorted_ids
from indexer.cells.labels import build_label_hierarchy
from indexer.cells.rule import PartitionRule
from indexer.earth import geo
from indexer.errors import InputError
from indexer.vectors.geocells import Geocells
from indexer.vectors.lineage import GONE, MERGED, NEW, SAME, SCHEMA, SPLIT, carry_over, lineage
from tests.conftest import clustered_points, random_geocells

RULE = PartitionRule((200, 60), 4)


def tree(n: int, seed: int = 3, rule: PartitionRule = RULE) -> Hierarchy:
    """Hierarchies of the first n of the same photos, so that more photos only add."""
    lat, lng = clustered_points(2000, seed)
    return build_hierarchy(sorted_ids([(lat[:n], lng[:n])]), rule=rule)


PAIRS = [
    (tree(900), tree(2000)),  # photos were added: cells split, cells appear
    (tree(2000), tree(900)),  # photos were taken away: cells merge, cells go
    (tree(1500), tree(1500, rule=PartitionRule((200, 60), 4, keep_parent=0.05))),
    (tree(1500), tree(1500)),
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


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_vectors_follow_their_cells(old: Hierarchy, new: Hierarchy) -> None:
    geocells = random_geocells(old, 6, seed=1)
    carried = carry_over(geocells, old, new)
    assert carried.hierarchy == new.digest
    assert carried.encoder == geocells.encoder
    np.testing.assert_array_equal(carried.temperatures, geocells.temperatures)
    sources: dict[tuple[int, int], list[int]] = {}
    for row in lineage(old, new).to_pylist():
        if row["cell"] is not None:
            sources.setdefault((row["level"], row["cell"]), [])
            if row["old_cell"] is not None:
                sources[row["level"], row["cell"]].append(row["old_cell"])
    for (level, cell), cells in sources.items():
        vector = carried.vectors[level][cell]
        if cells:
            weights = old.levels[level].n_photos[cells]
            mean = (weights[:, None] * geocells.vectors[level][cells].astype(float)).sum(axis=0)
            want = mean / np.linalg.norm(mean)
        elif level:
            want = carried.vectors[level - 1][new.parents(level)[cell]]
        else:
            above, below = old.levels[0], new.levels[0]
            distance = geo.haversine_km(below.lat_deg[cell], below.lng_deg[cell], above.lat_deg, above.lng_deg)
            want = geocells.vectors[0][distance.argmin()]
        np.testing.assert_allclose(vector, want, atol=1e-6)


def test_to_itself_nothing_changes() -> None:
    same = tree(1500)
    geocells = random_geocells(same, 6, seed=2)
    carried: Geocells = carry_over(geocells, same, tree(1500))
    for a, b in zip(carried.vectors, geocells.vectors, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_labels_are_compared_by_their_paths() -> None:
    ids = np.arange(1, 7, dtype=np.uint64) * 2 + 1

    def labelled(cities: list[str]) -> Hierarchy:
        table = pa.table({"country": ["A", "A", "A", "B", "B", "B"], "city": cities})
        return build_label_hierarchy(table, ("country", "city"), ids=ids, tau_min=0)

    old, new = labelled(list("ppqxxy")), labelled(list("pprxxx"))
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
    geocells = random_geocells(old, 4, seed=0)
    carried = carry_over(geocells, old, new)
    np.testing.assert_allclose(carried.vectors[1][1], geocells.vectors[0][0], atol=1e-6)  # A/r inherits A


def test_hierarchies_that_do_not_correspond_are_refused() -> None:
    with pytest.raises(InputError, match=r"3 levels.*2 levels.*indexer build --features"):
        lineage(tree(1500, rule=PartitionRule((200, 60, 30), 4)), tree(1500))
