"""Calibration: what makes the probabilities and radii of a bundle's answers true, as its manifest keeps it.

One for each protocol, that is for each way in which a query is made of photos, because an average over crops or a sum
over an album is as sure of itself in another way than one crop is. `search.evaluation.calibrate` fits them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from indexer.errors import ArtifactError
from indexer.vectors.features import FeatureSource

Protocol = Literal["one", "five", "ten", "album"]  # one crop of a photo, means of five or ten, the sum over an album
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
PROTOCOL_TEXTS: Mapping[Protocol, str] = {
    "one": "one crop",
    "five": "five crops",
    "ten": "ten crops",
    "album": "albums",
}


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was fitted to held-out photos of one protocol."""

    temperature: float  # T of the posterior over leaves, softmax of v . G_r / T
    # An album of n photos has T n**growth: n photos of one event tell less than n photos taken independently would.
    growth: float
    inside: float  # share of photos that were taken in a leaf at all: what probabilities over leaves add up to
    # For each kind of point that answers may have (`search.answers.points`): a disc around it that holds the first
    # share of the posterior holds the true place of half of the photos; the second, of nine in ten.
    masses: Mapping[str, tuple[float, float]]
    least_score: float  # the best leaf of all but a hundredth of the photos scores this, for each photo of an album
    queries: int  # photos, or albums, that it was fitted to

    def __post_init__(self) -> None:
        numbers = (self.temperature, self.growth, self.inside, self.least_score, *sum(self.masses.values(), ()))
        sound = all(isinstance(value, int | float) and np.isfinite(value) for value in numbers)
        shares = all(len(pair) == 2 and 0 <= pair[0] <= pair[1] <= 1 for pair in self.masses.values() if sound)
        if not (sound and shares and "cell" in self.masses and self.temperature > 0 and 0 < self.inside <= 1):
            raise ArtifactError(f"{self}: no calibration. Fit it again: python -m search calibrate")

    def temperatures(self, n_photos: np.ndarray) -> np.ndarray:
        """T of queries that were made of so many photos each, (Q,) int64: (Q,) float64."""
        return np.asarray(self.temperature * n_photos.astype(np.float64) ** self.growth)


def calibration_facts(calibrations: Mapping[Protocol, Calibration]) -> dict[str, Any] | None:
    """What a manifest says; None where nothing was calibrated."""
    return {name: asdict(each) for name, each in sorted(calibrations.items())} or None


def calibrations_of(facts: Mapping[str, Any] | None) -> dict[Protocol, Calibration]:
    """The calibrations that a manifest holds; an ArtifactError where it holds something else."""
    result = dict[Protocol, Calibration]()
    for name, numbers in (facts or {}).items():
        if name not in PROTOCOLS:
            raise ArtifactError(f"A calibration for {name!r}; this release knows {', '.join(PROTOCOLS)}.")
        try:
            masses = {point: tuple(pair) for point, pair in numbers["masses"].items()}
            result[name] = Calibration(**{**numbers, "masses": masses})
        except (TypeError, AttributeError, KeyError) as error:
            raise ArtifactError(f"The calibration for {name!r} is damaged ({error}). Fit it again.") from None
    return result


def protocol_of(features: FeatureSource) -> Protocol:
    """How vectors that were made before are made of photos; of one crop where nobody recorded it."""
    return next((protocol for protocol in PROTOCOLS if protocol == features.crops), "one")
