"""Vectors that cells take from others: from the cell above where they have no photos, or from cells of another tree.

In: sums of photo vectors, or the geocells of another hierarchy. Out: a unit vector for every cell.
"""

from dataclasses import replace

import numpy as np
import pyarrow.compute as pc

from indexer.cells.hierarchy import Hierarchy, Level
from indexer.cells.lineage import lineage
from indexer.earth import geo
from indexer.vectors.cell_sums import CellSums
from indexer.vectors.geocells import Geocells


def inherit(sums: np.ndarray, parents: np.ndarray) -> np.ndarray:
    """Directions of cells, each of which takes its parent's where it has none of its own.

    sums: (C, D) float64, the sum of the vectors of each cell; zeros where there are none. parents: (C, D) float32, unit
    rows, the vector of each cell's parent. Returns (C, D) float32, unit rows.
    """
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    # Vectors that cancel out leave rounding behind, which is no direction.
    empty = norms <= 1e-12
    return np.where(empty, parents, sums / np.where(empty, 1, norms)).astype(np.float32)


def carry_over(geocells: Geocells, old: Hierarchy, new: Hierarchy) -> Geocells:
    """Geocells for a new hierarchy from those of an old one, by lineage.

    A cell that is the same, or lies inside an old one, takes its vector; one that old cells were merged into takes the
    direction of their mean, weighted by photos; a new one inherits its parent, at the coarsest level the old cell
    whose point is nearest.

    Raises:
        InputError: the hierarchies do not correspond.
    """
    table = lineage(old, new)
    vectors: list[np.ndarray] = []
    for number, level in enumerate(new.levels):
        rows = table.filter(pc.equal(table["level"], number))
        rows = rows.filter(pc.and_(pc.is_valid(rows["cell"]), pc.is_valid(rows["old_cell"])))
        cell, old_cell = rows["cell"].to_numpy(), rows["old_cell"].to_numpy()
        sums = CellSums.zeros(len(level), geocells.width)
        weight = old.levels[number].n_photos[old_cell].astype(np.float64)
        sums.add(weight[:, None] * geocells.vectors[number][old_cell], cell)
        parents = vectors[-1][new.parents(number)] if number else _nearest(geocells.vectors[0], old.levels[0], level)
        vectors.append(inherit(sums.sums, parents))
    return replace(geocells, vectors=vectors, hierarchy=new.digest)


def _nearest(vectors: np.ndarray, old: Level, new: Level) -> np.ndarray:
    tree = geo.point_tree(old.lat_deg, old.lng_deg)
    return vectors[tree.query(geo.unit_vectors(new.lat_deg, new.lng_deg))[1]]
