"""What became of each cell from one hierarchy to another, so that what was learned for the old can be carried over.

In: two hierarchies of the same kind and number of levels. Out: a table with one row for each pair of cells that have
to do with each other, level by level:

    same          the cell is in both
    split from    a new cell inside an old one
    merged into   an old cell inside a new one
    new           a new cell with no old one there
    gone          an old cell with no new one there
"""

from collections import Counter

import numpy as np
import pyarrow as pa

from indexer.cells.hierarchy import Hierarchy, Level
from indexer.earth import s2
from indexer.errors import InputError

SAME, SPLIT, MERGED, NEW, GONE = RELATIONS = ("same", "split from", "merged into", "new", "gone")

SCHEMA = pa.schema(
    [
        ("level", pa.int32()),
        ("relation", pa.string()),
        ("cell", pa.int64()),  # in the new hierarchy; null where gone
        ("key", pa.string()),
        ("old_cell", pa.int64()),  # in the old hierarchy; null where new
        ("old_key", pa.string()),
    ]
)


def lineage(old: Hierarchy, new: Hierarchy) -> pa.Table:
    """Which new cells come from which old ones; an InputError where the hierarchies differ in kind or in levels."""
    if len(old.levels) != len(new.levels) or old.is_s2 != new.is_s2:
        kinds = [f"{len(each.levels)} levels of {'S2 cells' if each.is_s2 else 'labels'}" for each in (old, new)]
        raise InputError(
            f"The old hierarchy has {kinds[0]}, the new one {kinds[1]}: their cells do not correspond. Begin with "
            "photo vectors instead: python -m indexer build with `features`, or a refit without `old_hierarchy`."
        )
    parts = [_level(number, a, b) for number, (a, b) in enumerate(zip(old.levels, new.levels, strict=True))]
    return pa.concat_tables(parts)


def level_counts(table: pa.Table) -> list[dict[str, int]]:
    """How many rows of each relation a lineage has at each level, coarsest first, with the level's number."""
    pairs = Counter(zip(table["level"].to_pylist(), table["relation"].to_pylist(), strict=True))
    levels = sorted({level for level, _ in pairs})
    return [{"level": level, **{name: pairs[level, name] for name in RELATIONS}} for level in levels]


def _level(number: int, old: Level, new: Level) -> pa.Table:
    inside_old, inside_new = _containing(old, new), _containing(new, old)
    new_cells, old_cells = np.arange(len(new)), np.arange(len(old))
    found = inside_old >= 0
    equal = found & (new.keys == old.keys[inside_old])
    strictly = found & ~equal
    merged = (inside_new >= 0) & (inside_old[inside_new] != old_cells)
    added = ~found & ~np.isin(new_cells, inside_new[merged])
    gone = ~merged & ~np.isin(old_cells, inside_old)
    return pa.concat_tables(
        _rows(number, relation, old, new, cells, olds)
        for relation, cells, olds in (
            (SAME, new_cells[equal], inside_old[equal]),
            (SPLIT, new_cells[strictly], inside_old[strictly]),
            (MERGED, inside_new[merged], old_cells[merged]),
            (NEW, new_cells[added], inside_old[added]),
            (GONE, np.full(gone.sum(), -1), old_cells[gone]),
        )
    )


def _containing(outer: Level, inner: Level) -> np.ndarray:
    """Cell of `outer` that contains or is each cell of `inner`, or -1: (len(inner),) int64."""
    if outer.s2_ids is not None and inner.s2_ids is not None:
        return s2.locate(outer.s2_ids, inner.s2_ids)
    rank = {key: cell for cell, key in enumerate(outer.keys.tolist())}
    return np.array([rank.get(key, -1) for key in inner.keys.tolist()], np.int64)


def _rows(level: int, relation: str, old: Level, new: Level, cells: np.ndarray, old_cells: np.ndarray) -> pa.Table:
    """Rows of one relation; cells, old_cells: (N,) int64, -1 for none."""
    columns = [pa.array(np.full(len(cells), level, np.int32)), pa.repeat(relation, len(cells))]
    for side, numbers in ((new, cells), (old, old_cells)):
        known = pa.array(numbers, mask=numbers < 0)
        columns += [known, pa.array(side.keys.tolist(), pa.string()).take(known)]
    return pa.Table.from_arrays(columns, schema=SCHEMA)
