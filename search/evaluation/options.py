"""What can be chosen when answers are measured, calibrated and audited. Nothing heavy here: command lines need it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from encoder.config import CropName, DeviceName, ReadOptions, check_bounds
from indexer.choices import check_choices
from indexer.errors import InputError
from indexer.paper import THRESHOLDS_KM

BenchmarkName = Literal["im2gps", "im2gps3k", "yfcc4k", "yfcc26k", "gws15k", "osv5m"]
LEVEL = 0.95  # of every interval
STREETS_KM = (
    0.05,
    0.1,
    0.2,
    0.5,
)  # beside the usual distances, where half of the photos are placed within STREETS_BELOW
STREETS_BELOW_KM = 1.0


def benchmark_named(name: str) -> BenchmarkName:
    """The benchmark of a name, in any case and with or without dashes, underscores and spaces: `IM2GPS-3k`."""
    plain = name.lower().translate({ord(sign): None for sign in "-_ "})
    names: tuple[BenchmarkName, ...] = get_args(BenchmarkName)
    for benchmark in names:
        if plain == benchmark:
            return benchmark
    raise InputError(
        f"`benchmark` {name!r}: there are {', '.join(names)}. Leave it out for any other table with photo, lat, lng."
    )


@dataclass(frozen=True, slots=True)
class Resampling:
    """How photos are drawn for intervals.

    Args:
        resamples: draws of photos for the 95 % intervals; 0: no intervals.
        seed: of those draws.
    """

    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 0 or 0 < self.resamples < 100:
            raise InputError(f"`resamples` must be 0 (no intervals) or at least 100, not {self.resamples}.")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What is measured, and what it is compared with.

    Args:
        against: predictions of another system, to compare on the same photos.
        exclude: tables with a column photo; figures are also given without these photos.
        audit: folder that `python -m search audit` wrote of these photos and those that answers come from, such as the
            gallery's; figures are also given without photos that have a near-duplicate there, and of these alone.
        album: column of the truth that says which photos belong together, such as those of one event: intervals then
            count albums, as their photos share an answer. By default those that were asked together, as answers say.
        benchmark: which set the truth is, of im2gps, im2gps3k, yfcc4k, yfcc26k, gws15k and osv5m: its files are
            understood, it is answered with ten crops, and the paper's figures stand beside.
        split: use only rows of the truth whose column `split` is this.
        thresholds_km: distances at which to count answers as right; by default 1, 25, 200, 750 and 2,500, and where
            the median is below 1 also 0.05, 0.1, 0.2 and 0.5.
        resampling: how photos are drawn for intervals.
    """

    against: str | Path | None = None
    exclude: tuple[str, ...] = ()
    audit: str | Path | None = None
    album: str | None = None
    benchmark: str | None = None
    split: str | None = None
    thresholds_km: tuple[float, ...] = ()
    resampling: Resampling = Resampling()

    def __post_init__(self) -> None:
        _ = self.benchmark_name  # an error says which there are
        if self.against is not None and not self.resampling.resamples:
            raise InputError("`against` compares by drawing photos: leave `resamples` 0 out.")

    def limits_km(self, median_km: float) -> tuple[float, ...]:
        """The distances at which answers count as right where half of them are at most so far off."""
        return self.thresholds_km or (*(STREETS_KM if median_km < STREETS_BELOW_KM else ()), *THRESHOLDS_KM)

    @property
    def benchmark_name(self) -> BenchmarkName | None:
        """The benchmark as it is called here."""
        return None if self.benchmark is None else benchmark_named(self.benchmark)


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig:
    """What a bundle is calibrated for, and how.

    Args:
        split: use only rows of the truth whose column `split` is this.
        album: column of the truth that says which photos belong together; calibrates answers to albums.
        crops: that the vectors are means of, where the features folder does not say.
        fit_weights: fit also how much each level counts, and the number of photos in a cell; drops the calibrations of
            other protocols, as it changes all scores.
        version: a bundle's digest or its beginning; the current one by default.
        device: where the search runs.
        resampling: how photos are drawn for the intervals of the calibration error.
    """

    split: str | None = None
    album: str | None = None
    crops: CropName | None = None
    fit_weights: bool = False
    version: str | None = None
    device: DeviceName = "auto"
    resampling: Resampling = Resampling()

    def __post_init__(self) -> None:
        check_choices(self)


@dataclass(frozen=True, kw_only=True)
class AuditConfig(ReadOptions):
    """What a test set is compared with, and what counts as a near-duplicate.

    Args:
        references: photos that training saw or answers come from, to compare by perceptual hash.
        features: vectors of the test set, to compare by embedding as well.
        reference_features: vectors of the references, by the same encoder.
        split: use only rows of the test set whose column `split` is this.
        reference_split: the same for the references.
        max_bits: of 64 that two perceptual hashes may differ in.
        min_cosine: of two embeddings that count as near-duplicates.
        workers: threads that read and decode photos.
    """

    references: str | None = None
    features: str | Path | None = None
    reference_features: str | Path | None = None
    split: str | None = None
    reference_split: str | None = None
    max_bits: int = 6
    min_cosine: float = 0.95
    workers: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.features is None) != (self.reference_features is None):
            raise InputError(
                "Give `features` and `reference_features` together: embeddings are compared with each other."
            )
        if self.references is None and self.reference_split is not None:
            raise InputError("`reference_split` goes with `references`.")
        check_bounds(self, "workers", low=1)
