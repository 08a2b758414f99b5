"""When a cell is split and when it is kept: the parameters of a partition, apart from the arithmetic that applies them.

Nothing heavy is imported here, so that command lines can show the defaults without loading numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from indexer.errors import InputError
from indexer.paper import TAU_MAX, TAU_MIN

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
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
