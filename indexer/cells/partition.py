"""The adaptive partition of the Earth into S2 cells (paper section III-A).

In: point ids of photos, sorted. Out: the cells that are kept, sorted. Start from every cell of `first_level`; split a
cell iff it holds more than tau_max photos; keep an unsplit cell iff it holds more than tau_min. Dropping never feeds
back into splitting, so with one tau_min and falling tau_max the partitions are nested.
"""

import numpy as np

from indexer.cells.extent import Runs
from indexer.cells.rule import PartitionRule
from indexer.earth import s2


def partition(point_ids: np.ndarray, rule: PartitionRule, *, tau_max: int) -> np.ndarray:
    """Cells of one partition: (C,) uint64, strictly increasing and disjoint.

    point_ids: (N,) uint64 in ascending order. tau_max: the bound of this level.
    """
    cells = s2.cells_of_level(rule.first_level)
    kept: list[np.ndarray] = []
    for s2_level in range(rule.first_level, s2.MAX_LEVEL + 1):
        counts = photo_runs(point_ids, cells).lengths
        split = (counts > tau_max) & (s2_level < s2.MAX_LEVEL)
        if rule.keep_parent is not None:
            split[split] = ~_loses_too_much(point_ids, cells[split], counts[split], rule)
        kept.append(cells[~split & rule.kept(counts)])
        if not split.any():
            break
        cells = s2.children(cells[split]).ravel()
    return np.sort(np.concatenate(kept))


def photo_runs(point_ids: np.ndarray, cells: np.ndarray) -> Runs:
    """Which of the point ids lie in each cell."""
    return Runs(
        np.searchsorted(point_ids, s2.range_min(cells), side="left"),
        np.searchsorted(point_ids, s2.range_max(cells), side="right"),
    )


def _loses_too_much(point_ids: np.ndarray, cells: np.ndarray, counts: np.ndarray, rule: PartitionRule) -> np.ndarray:
    # Immediate children only: the answer must not depend on tau_max, or partitions would not be nested.
    assert rule.keep_parent is not None
    child_counts = photo_runs(point_ids, s2.children(cells).ravel()).lengths.reshape(-1, 4)
    lost = np.where(rule.kept(child_counts), 0, child_counts).sum(axis=1)
    return np.asarray(lost > rule.keep_parent * counts)
