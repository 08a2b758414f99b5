"""Geocells from photo vectors, without training: each cell's vector is the mean direction of its photos' vectors.

In: batches of photo vectors with the cell of every level that each photo lies in (`Hierarchy.locate`), or the geocells
of another hierarchy, whose vectors cells take over. Out: `Geocells`. Prototypes by averaging, as in Snell et al.,
Prototypical Networks (2017); without whitening they are poor on image vectors, which share one common direction (see
`indexer.vectors.whitening`).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow.compute as pc

from indexer.cells.hierarchy import Hierarchy
from indexer.cells.lineage import lineage
from indexer.earth import geo
from indexer.errors import InputError
from indexer.paper import TEMPERATURE
from indexer.vectors.cell_sums import CellSums, check_vectors, unit_rows
from indexer.vectors.geocells import Geocells
from indexer.vectors.whitening import Transform


class CellMeans:
    """Mean directions of the cells of every level, from batches of photos in any order.

    parents: per level (N_l,) int64, the cell of the level above that contains each cell; level 0 has none (-1).
    width: D. transform: what vectors pass first; None takes their directions as they are.

    A photo is added once, to the finest cell that it lies in, and sums flow up at the end: seven levels cost
    what one costs. Memory is one row of D doubles for each cell of every level.

    Raises:
        InputError: parents that are no cells of the level above.
    """

    def __init__(self, parents: Sequence[np.ndarray], width: int, *, transform: Transform | None = None) -> None:
        _check_parents(parents)
        if transform is not None and transform.width != width:
            raise InputError(f"A transform of {transform.width} dimensions for vectors of {width}. Fit it on them.")
        self._parents = [np.full(len(parents[0]), -1, np.int64), *parents[1:]]
        self._transform = transform
        self._width = width
        self._own = [CellSums.zeros(len(level), width) for level in parents]
        self._total = np.zeros(width)
        self._n_rows = 0

    def add(self, vectors: np.ndarray, cells: np.ndarray) -> None:
        """Add photos.

        vectors: (N, D) float32. cells: (N, L) int64, the cell of each level that the photo lies in, -1 for none.

        Raises:
            InputError: a row that is zero or not finite, another width, cells that do not lie in one another.
        """
        check_vectors(vectors, width=self._width)
        self._check_nested(cells, len(vectors))
        directions = unit_rows(vectors) if self._transform is None else self._transform.apply(vectors)
        self._n_rows += len(vectors)
        self._total += directions.sum(axis=0, dtype=np.float64)
        placed = np.zeros(len(vectors), bool)
        for own, column in zip(reversed(self._own), cells.T[::-1], strict=True):
            own.add(directions, np.where(placed, -1, column))
            placed |= column >= 0

    def vectors(self) -> list[np.ndarray]:
        """Per level (N_l, D) float32, unit rows: the mean direction of the photos of each cell.

        A cell without photos, or whose photos' directions cancel out, has its parent's vector; at level 0 the mean
        direction of all photos.

        Raises:
            InputError: no photo was added; or a cell of level 0 needs the mean direction and there is none.
        """
        if not self._n_rows:
            raise InputError("No photo has a vector: no cell has a mean direction. Check the features' status column.")
        sums = [own.sums for own in self._own]
        for level in range(len(sums) - 1, 0, -1):  # to a cell's own photos come those of all cells inside it
            above = CellSums.zeros(len(sums[level - 1]), self._width)
            above.add(sums[level], self._parents[level])
            sums[level - 1] = sums[level - 1] + above.sums
        if not self._total.any() and not sums[0].any(axis=1).all():
            raise InputError(
                "The directions of all photos cancel out, and a cell has no photos of its own. Give more photos."
            )
        whole = np.broadcast_to(unit_rows(self._total[None]), sums[0].shape)
        result = [inherit(sums[0], whole)]
        for own, parents in zip(sums[1:], self._parents[1:], strict=True):
            result.append(inherit(own, result[-1][parents]))
        return result

    def geocells(self, *, hierarchy: str, encoder: str | None, temperature: float = TEMPERATURE) -> Geocells:
        """The mean directions as geocells, at one temperature and with weight 1 at every level.

        hierarchy: its digest. encoder: digest of the encoder that made the vectors, None where unknown.
        """
        levels = len(self._parents)
        return Geocells(
            self.vectors(), np.full(levels, temperature), np.ones(levels), hierarchy, encoder, self._transform
        )

    def _check_nested(self, cells: np.ndarray, rows: int) -> None:
        if cells.shape != (rows, len(self._parents)) or not np.issubdtype(cells.dtype, np.integer):
            raise InputError(
                f"Cells of shape {cells.shape} and type {cells.dtype}; ({rows}, {len(self._parents)}) integers are "
                "needed here: one column for each level."
            )
        above = np.full(rows, -1)
        for level, (parents, column) in enumerate(zip(self._parents, cells.T, strict=True)):
            inside = column >= 0
            known = (column >= -1) & (column < len(parents))
            wrong = ~known | (inside & (parents[np.where(known & inside, column, 0)] != above))
            if wrong.any():
                row = int(np.flatnonzero(wrong)[0])
                raise InputError(
                    f"Row {row} is in cell {column[row]} of level {level} and in cell {above[row]} of the level above: "
                    "these do not lie in one another. Take cells and parents from one hierarchy."
                )
            above = column


def _check_parents(parents: Sequence[np.ndarray]) -> None:
    sizes = [len(level) for level in parents]
    if not sizes or not all(sizes):
        raise InputError(f"Levels of {sizes} cells: at least one level, and a cell in each, are needed.")
    for level, (above, numbers) in enumerate(zip(sizes, parents[1:], strict=False), start=1):
        if not ((numbers >= 0) & (numbers < above)).all():
            raise InputError(
                f"A cell of level {level} has no parent among the {above} cells of the level above. "
                "Take the parents from a hierarchy: Hierarchy.parents_by_level()."
            )


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
    whose point is nearest. Raises what `lineage` does, and InputError for the classes of a classifier.
    """
    if geocells.biases is not None:
        raise InputError(
            "The classes of a classifier belong to its own cells and are not carried over to others. Train with the "
            "new hierarchy, or refit without `old_hierarchy`."
        )
    table = lineage(old, new)
    vectors: list[np.ndarray] = []
    for number, level in enumerate(new.levels):
        rows = table.filter(pc.equal(table["level"], number))
        rows = rows.filter(pc.and_(pc.is_valid(rows["cell"]), pc.is_valid(rows["old_cell"])))
        cell, old_cell = rows["cell"].to_numpy(), rows["old_cell"].to_numpy()
        sums = CellSums.zeros(len(level), geocells.width)
        weight = old.levels[number].n_photos[old_cell].astype(np.float64)
        sums.add(weight[:, None] * geocells.vectors[number][old_cell], cell)
        if number:
            parents = vectors[-1][new.parents(number)]
        else:
            tree = geo.point_tree(old.levels[0].lat_deg, old.levels[0].lng_deg)
            parents = geocells.vectors[0][tree.query(geo.unit_vectors(level.lat_deg, level.lng_deg))[1]]
        vectors.append(inherit(sums.sums, parents))
    return replace(geocells, vectors=vectors, hierarchy=new.digest)
