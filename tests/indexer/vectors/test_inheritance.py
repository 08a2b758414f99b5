"""Vectors that cells take from the cell above, or from old cells in a new hierarchy."""

import numpy as np
import pytest

from indexer.cells.hierarchy import Hierarchy
from indexer.cells.lineage import lineage
from indexer.earth import geo
from indexer.vectors.geocells import Geocells
from indexer.vectors.inheritance import carry_over, inherit
from tests.conftest import random_geocells, unit_rows
from tests.indexer.cells.test_lineage import PAIRS, labelled, tree


def test_inherit_takes_the_parent_only_where_the_sum_is_zero() -> None:
    sums = np.array([[3.0, 4.0], [0.0, 0.0], [0.0, -1e-9]])
    parents = unit_rows(3, 2, seed=0)
    got = inherit(sums, parents)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, [[0.6, 0.8], parents[1], [0, -1]], rtol=1e-6)


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


def test_a_new_label_inherits_its_parent() -> None:
    old, new = labelled("ppqxxy"), labelled("pprxxx")
    geocells = random_geocells(old, 4, seed=0)
    carried = carry_over(geocells, old, new)
    np.testing.assert_allclose(carried.vectors[1][1], geocells.vectors[0][0], atol=1e-6)  # A/r inherits A
