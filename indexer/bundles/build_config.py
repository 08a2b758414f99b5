"""How a bundle is built: apart from the work itself, so that command lines can show the defaults without numpy."""

from dataclasses import dataclass
from typing import Literal

from indexer.choices import check_choices
from indexer.paper import TAU_MAX, TAU_MIN


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """How a bundle is built.

    Args:
        split: use only rows of `photos` whose column `split` is this.
        tau_max: with `features` and no `hierarchy`, as for partition.
        tau_min: likewise.
        transform: with `features`, what vectors pass first; whiten removes what does not tell places apart.
        shrinkage: of the whitening, from 0 to 1; chosen by cross-validation if not given.
        seed: of the sample for that.
        index: how leaves are searched; flat compares all of them and is exact, ivf only those below the best cells of
            a coarser level; auto is flat up to 200,000 leaves.
        precision: of the numbers in the leaf index; fewer bits take less memory and are not exact.
        precision_cap: name no place finer than so many kilometres, in any answer from this bundle; a version that is
            inherited from keeps its own.
    """

    split: str | None = None
    tau_max: tuple[int, ...] = TAU_MAX
    tau_min: int = TAU_MIN
    transform: Literal["whiten", "none"] = "whiten"
    shrinkage: float | None = None
    seed: int = 0
    index: Literal["auto", "flat", "ivf"] = "auto"
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    precision_cap: float | None = None

    def __post_init__(self) -> None:
        check_choices(self)


DEFAULT_CONFIG = BuildConfig()
