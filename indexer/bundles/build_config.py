"""How a bundle is built: apart from the work itself, so that command lines can show the defaults without numpy."""

import math
from dataclasses import dataclass
from typing import Literal

from indexer.choices import check_choices
from indexer.errors import InputError
from indexer.paper import TAU_MAX, TAU_MIN, TEMPERATURE


@dataclass(frozen=True, kw_only=True)
class GalleryConfig:
    """Which photos become a gallery, and how they are kept.

    Args:
        gallery_per_leaf: photos of each leaf to keep, the most typical ones; all, or 0 for no gallery.
        gallery_precision: of the numbers in their vectors; fewer bits take less memory.
        keep_duplicates: keep photos whose vectors are nearly those of another one of the leaf.
        owner_column: column of the table of photos that says whose each is, so that an evaluation can leave out the
            photos of the one it asks about; never shown in answers.
    """

    gallery_per_leaf: int | Literal["all"] = "all"
    gallery_precision: Literal["int8", "fp16", "fp32"] = "int8"
    keep_duplicates: bool = False
    owner_column: str | None = None

    def check_gallery(self) -> None:
        """Raise InputError where no gallery can be made so."""
        if self.gallery_per_leaf != "all" and self.gallery_per_leaf < 0:
            raise InputError(f"`gallery_per_leaf` must be all, or at least 0, not {self.gallery_per_leaf}.")

    @property
    def wants_gallery(self) -> bool:
        """Whether there is to be one."""
        return self.gallery_per_leaf != 0


@dataclass(frozen=True, kw_only=True)
class BuildConfig(GalleryConfig):
    """How a bundle is built.

    Args:
        split: use only rows of `photos` whose column `split` is this.
        crops: of each photo, of vectors of which nobody recorded it: those of five or ten are means; all others are
            scaled to length 1.
        encoder: whose vectors those of `features` or `gallery_add` are, where nobody recorded it: the checkpoint folder
            that queries will use, or its encoder's digest. Queries of another encoder are refused then.
        tau_max: with `features` and no `hierarchy`, as for partition.
        tau_min: likewise.
        transform: with `features`, what vectors pass first; whiten removes what does not tell places apart.
        shrinkage: of the whitening, from 0 to 1; chosen by cross-validation if not given.
        seed: of the sample for that.
        temperature: with `features`, of every level: what its cosines are divided by before they are compared.
        gallery_similarity: with `features`, how photos of the gallery count until the version is calibrated: by their
            cosine divided by this, alone; cells do not, and answers point at the first one. By default both count,
            and how is chosen by how well photos place each other.
        index: how leaves are searched; flat compares all of them and is exact, ivf only those below the best cells of
            a coarser level; auto is flat up to 200,000 leaves.
        precision: of the numbers in the leaf index; fewer bits take less memory and are not exact.
        precision_cap: name no place finer than so many kilometres, in any answer from this bundle; a version that is
            inherited from keeps its own.
    """

    split: str | None = None
    crops: Literal["one", "five", "ten"] | None = None
    encoder: str | None = None
    tau_max: tuple[int, ...] = TAU_MAX
    tau_min: int = TAU_MIN
    transform: Literal["whiten", "none"] = "whiten"
    shrinkage: float | None = None
    seed: int = 0
    temperature: float = TEMPERATURE
    gallery_similarity: float | None = None
    index: Literal["auto", "flat", "ivf"] = "auto"
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    precision_cap: float | None = None

    def __post_init__(self) -> None:
        """Raises InputError where a field has no such value."""
        check_choices(self)
        for name in ("temperature", "gallery_similarity"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:  # written so that NaN is refused too
                raise InputError(f"`{name}` must be a number above 0, not {value:g}.")


DEFAULT_CONFIG = BuildConfig()
