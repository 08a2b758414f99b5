"""Hierarchies whose cells are labels: continent, country, region, city, or whatever tree of labels somebody keeps.

In: a table with one column of labels per level, coarsest first, beside coordinates. A cell is a label of a column; its
key is the path of labels that leads to it, such as 'Europe/France/Paris', with '%2F' for a slash inside a label and
'%25' for a percent sign. Cells are ordered by path, label by label. An empty label means that nobody knows: the photo
counts at the levels above only. A row may stand for any number of photos, or of people where cells are made of places
with names: what a prior is made of.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer.cells.extent import PhotoRanges
from indexer.cells.hierarchy import SEPARATOR, Hierarchy, Level, tie
from indexer.errors import InputError


def build_label_hierarchy(
    table: pa.Table,
    columns: Sequence[str],
    *,
    ids: np.ndarray,
    tau_min: int,
    by_path: bool = False,
    counts: np.ndarray | None = None,
) -> Hierarchy:
    """Make a hierarchy of the labels of photos.

    Args:
        table: the label columns, one row per photo.
        columns: their names, coarsest first.
        ids: (N,) uint64 point ids of the photos.
        tau_min: a cell is kept only if it holds more photos than this.
        by_path: one label below two others is two cells, as Paris in Texas is not Paris in France; otherwise it is an
            error, as it is in a table that somebody mistyped.
        counts: (N,) int64, how many photos each row stands for, at least 1; None: one.

    Raises:
        InputError: a cell with two parents, a label below an empty one, or a level without a cell.
    """
    labels = [_text(table, column) for column in columns]
    _check_tree(labels, columns, by_path=by_path)
    cells, keys = _ranked(labels, tau_min, np.ones(len(ids), np.int64) if counts is None else counts)
    for column, level_keys in zip(columns, keys, strict=True):
        if not len(level_keys):
            raise InputError(
                f"No label of {column!r} stands for more than tau_min = {tau_min} photos. Lower `tau_min`."
            )
    order = np.lexsort(cells[::-1])  # by the coarsest first; rows without a cell stand together, before the others
    cells, ids = [level[order] for level in cells], ids[order]
    ranges = [_ranges(level, len(level_keys)) for level, level_keys in zip(cells, keys, strict=True)]
    ancestors = np.stack([level[ranges[-1].begin] for level in cells], axis=1)
    levels = [
        partial(Level, tau_min=tau_min, tau_max=None, label=column, keys=level_keys, s2_ids=None)
        for level_keys, column in zip(keys, columns, strict=True)
    ]
    return tie(levels, ranges, ancestors, ids=ids, counts=None if counts is None else counts[order])


def locate_labels(hierarchy: Hierarchy, table: pa.Table) -> np.ndarray:
    """The cell of each level that each row's labels name, or -1: (N, L) int64.

    InputError where the cells of the hierarchy are no labels, or the table lacks a column of theirs.
    """
    columns = label_columns(hierarchy)
    paths = _paths([_text(table, column) for column in columns])
    found = [
        pc.index_in(path, value_set=pa.array(level.keys.tolist())).fill_null(-1).to_numpy()
        for path, level in zip(paths, hierarchy.levels, strict=True)
    ]
    return np.stack(found, axis=1).astype(np.int64)


def label_columns(hierarchy: Hierarchy) -> list[str]:
    """Names of the columns a hierarchy's labels come from, coarsest first; none where its cells are S2's."""
    return [level.label for level in hierarchy.levels if level.label is not None]


def _text(table: pa.Table, column: str) -> pa.Array:
    if column not in table.column_names:
        raise InputError(f"No column {column!r} of labels; there are {', '.join(table.column_names)}.")
    text = pc.utf8_trim_whitespace(table[column].combine_chunks().cast(pa.string()))
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def _check_tree(labels: Sequence[pa.Array], columns: Sequence[str], *, by_path: bool) -> None:
    for level in range(1, len(labels)):
        above, below = labels[level - 1], labels[level]
        orphans = pc.filter(below, pc.and_(pc.is_valid(below), pc.is_null(above)))
        if len(orphans):
            raise InputError(
                f"{columns[level]} {orphans[0].as_py()!r} stands in a row without {columns[level - 1]}. "
                "Fill in the coarser label, or empty the finer one."
            )
        if by_path:
            continue
        pairs = pa.table({"below": below, "above": above}).filter(pc.is_valid(below))
        parents = pairs.group_by("below").aggregate([("above", "distinct")]).sort_by("below")
        for name, found in zip(*(parents[name].to_pylist() for name in ("below", "above_distinct")), strict=True):
            if len(found) > 1:
                first, second = sorted(found)[:2]
                raise InputError(
                    f"{columns[level]} {name!r} lies in two cells of {columns[level - 1]}: {first!r} and {second!r}. A "
                    f"cell has one parent: correct the table, or write '{name}, {second}'."
                )


def _ranked(labels: Sequence[pa.Array], tau_min: int, counts: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Per level the rank of each photo's cell in path order, -1 for none, and the keys of the cells in that order."""
    cells: list[np.ndarray] = []
    keys: list[np.ndarray] = []
    for text, path in zip(labels, _paths(labels), strict=True):
        encoded = path.dictionary_encode()
        code = encoded.indices.fill_null(-1).to_numpy().astype(np.int64)
        known = np.flatnonzero(code >= 0)
        first = np.zeros(len(encoded.dictionary), np.int64)
        first[code[known[::-1]]] = known[::-1]  # a photo of each cell
        parent = cells[-1][first] if cells else np.zeros(len(first), np.int64)
        photos = np.zeros(len(first), np.int64)
        np.add.at(photos, code[known], counts[known])
        kept = (photos > tau_min) & (parent >= 0)
        name = np.array(text.take(pa.array(first)).to_pylist(), np.str_)
        order = np.lexsort((name, parent))
        order = order[kept[order]]
        rank = np.full(len(first) + 1, -1)  # the last entry is what -1 points to
        rank[order] = np.arange(len(order))
        cells.append(rank[code])
        keys.append(np.array(encoded.dictionary.take(pa.array(order)).to_pylist(), np.str_))
    return cells, keys


def _paths(labels: Sequence[pa.Array]) -> list[pa.Array]:
    """Keys of the cells each row lies in, null from the first empty label on."""
    escaped = [pc.replace_substring(pc.replace_substring(text, "%", "%25"), SEPARATOR, "%2F") for text in labels]
    return [pc.binary_join_element_wise(*escaped[: level + 1], SEPARATOR) for level in range(len(labels))]


def _ranges(cells: np.ndarray, n_cells: int) -> PhotoRanges:
    """Where the photos of each cell stand, in photos sorted so that they stand together."""
    rows = np.flatnonzero(cells >= 0)
    begin = rows[np.searchsorted(cells[rows], np.arange(n_cells), side="left")]
    return PhotoRanges(begin, begin + np.bincount(cells[rows], minlength=n_cells))
