"""The adaptive partition of the Earth into S2 cells (paper section III-A).

In: point ids of photos, sorted. Out: the cells that are kept, sorted. Start from every cell of `first_level`; split a
cell iff it holds more than tau_max photos; keep an unsplit cell iff it holds more than tau_min. Dropping never feeds
back into splitting, so with one tau_min and falling tau_max the partitions are nested.
"""

from dataclasses import dataclass

import numpy as np

from indexer.cells.extent import PhotoRanges
from indexer.earth import s2
from indexer.errors import InputError
from indexer.paper import TAU_MAX, TAU_MIN


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionRule:
    """When a cell is split and when it is kept."""

    tau_max: tuple[int, ...] = TAU_MAX  # per level, coarsest first
    tau_min: int = TAU_MIN  # photos a kept cell must exceed
    first_level: int = 2  # S2 level to start from; 0 = the six cube faces, as the paper's prose has it
    min_inclusive: bool = False  # True: exactly tau_min photos are enough, as the paper's prose has it
    keep_parent: float | None = None  # a cell whose children would lose more than this share stays whole; None: never

    def __post_init__(self) -> None:
        falling = all(a > b for a, b in zip(self.tau_max, self.tau_max[1:], strict=False))
        if not self.tau_max or not falling:
            raise InputError(
                f"tau_max must fall strictly from the coarsest level to the finest, not {list(self.tau_max)}."
            )
        if not 0 <= self.tau_min < self.tau_max[-1]:
            raise InputError(
                f"tau_min ({self.tau_min}) must be at least 0 and below every tau_max ({self.tau_max[-1]})."
            )
        if not 0 <= self.first_level <= 10:
            raise InputError(f"first_level must be from 0 to 10, not {self.first_level}.")
        if self.keep_parent is not None and not 0 <= self.keep_parent < 1:
            raise InputError(f"keep_parent is a share from 0 to below 1, not {self.keep_parent}.")

    def kept(self, counts: np.ndarray) -> np.ndarray:
        """Which counts of photos are enough for a cell to be kept: bool, same shape."""
        return counts >= self.tau_min if self.min_inclusive else counts > self.tau_min


def partition_cells(point_ids: np.ndarray, rule: PartitionRule, *, tau_max: int) -> np.ndarray:
    """Cells of one partition: (C,) uint64, strictly increasing and disjoint.

    point_ids: (N,) uint64 in ascending order. tau_max: the bound of this level.
    """
    cells = s2.cells_of_level(rule.first_level)
    kept: list[np.ndarray] = []
    for s2_level in range(rule.first_level, s2.MAX_LEVEL + 1):
        counts = photo_ranges(point_ids, cells).lengths
        split = (counts > tau_max) & (s2_level < s2.MAX_LEVEL)
        if rule.keep_parent is not None:
            # Immediate children only: the answer must not depend on tau_max, or partitions would not be nested.
            child_counts = photo_ranges(point_ids, s2.children(cells[split]).ravel()).lengths.reshape(-1, 4)
            lost = np.where(rule.kept(child_counts), 0, child_counts).sum(axis=1)
            split[split] = lost <= rule.keep_parent * counts[split]
        kept.append(cells[~split & rule.kept(counts)])
        if not split.any():
            break
        cells = s2.children(cells[split]).ravel()
    return np.sort(np.concatenate(kept))


def photo_ranges(point_ids: np.ndarray, cells: np.ndarray) -> PhotoRanges:
    """Which of the point ids lie in each cell."""
    return PhotoRanges(
        np.searchsorted(point_ids, s2.range_min(cells), side="left"),
        np.searchsorted(point_ids, s2.range_max(cells), side="right"),
    )
