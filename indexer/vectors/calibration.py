"""Calibration: what makes the probabilities and radii of a bundle's answers true, as its manifest keeps it.

One for each protocol, that is for each way in which a query is made of photos, because an average over crops or a sum
over an album is as sure of itself in another way than one crop is. `search.calibration.calibrate` fits them.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from indexer.errors import ArtifactError, InputError
from indexer.vectors.features import FeatureSource
from indexer.vectors.reranker import Reranker

Protocol = Literal["one", "five", "ten", "album"]  # one crop of a photo, means of five or ten, the sum over an album
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
PROTOCOL_TEXTS: Mapping[Protocol, str] = {
    "one": "one crop",
    "five": "five crops",
    "ten": "ten crops",
    "album": "albums",
}
_MOST_NONCONFORMITIES = 4000  # that a manifest keeps: p-values down to 1 in 4,001
_MILLION = 1_000_000
_AT_A_PHOTO_KM = 0.001  # a width of bells so narrow that no photo adds to another, nor moves where an answer points


@dataclass(frozen=True, slots=True)
class PhotoFit:
    """The numbers by which photos of known places count, beside cells (`search.answers.photo_evidence`)."""

    cells: float  # a: the share that the cells' own posterior keeps where there are photos
    gamma: float  # weight of a photo's leaf, by its score
    similarity: float  # tau_x: how much more similar a photo e times as heavy is
    near: int  # photos that count, the most similar of those that are looked at
    width_km: float  # h of the bell around a photo, for the density of places
    point_width_km: float  # the same for where an answer points
    growth: float  # an album of n photos has evidence that is n**growth times less sure
    lists: int  # leaves whose photos are looked at, the best ones

    def __post_init__(self) -> None:
        """Raises ArtifactError where a number has no meaning."""
        numbers = asdict(self).values()
        sound = all(isinstance(value, int | float) and np.isfinite(value) for value in numbers)
        least = min(self.similarity, self.width_km, self.point_width_km, self.near, self.lists) if sound else 0
        if not (sound and 0 <= self.cells <= 1 and least > 0):
            raise ArtifactError(
                f"{self}: no numbers that photos can count by. Fit them again: python -m search calibrate"
            )

    def weights(
        self,
        similarity: np.ndarray,
        leaf_score: np.ndarray,
        stands_for: np.ndarray,
        n_photos: np.ndarray,
        *,
        reranked: np.ndarray | None = None,
    ) -> np.ndarray:
        """Weights w of photos: (Q, near) float64, which add up to 1, or are all 0 where there is no photo.

        similarity: (Q, near) float64, q . x, minus infinity where there is no photo. leaf_score: (Q, near) float64,
        q . G_r + b_r of their leaves. stands_for: (Q, near), m. n_photos: (Q,) int64, n, that a query is made of.
        reranked: (Q, near) float64, what a reranker adds; None: nothing.
        """
        known = np.isfinite(similarity)
        evidence = self.evidence(similarity, leaf_score, stands_for, n_photos)
        if reranked is not None:
            evidence += np.where(known, reranked, 0.0)
        best = evidence.max(axis=1, keepdims=True)
        share = np.exp(evidence - np.where(np.isfinite(best), best, 0.0))
        return np.asarray(share / np.maximum(share.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny))

    def evidence(
        self, similarity: np.ndarray, leaf_score: np.ndarray, stands_for: np.ndarray, n_photos: np.ndarray
    ) -> np.ndarray:
        """What weights are the softmax of, before reranking: (Q, near) float64, minus infinity for no photo."""
        known = np.isfinite(similarity)
        near, score = (np.where(known, each, 0.0) for each in (similarity, leaf_score))
        sureness = n_photos.astype(np.float64)[:, None] ** self.growth
        evidence = (self.gamma * score + near / self.similarity) / sureness + np.log(stands_for)
        return np.where(known, evidence, -np.inf)


def usual_photo_fit(
    leaf_width_km: float, *, similarity: float = 0.02, lists: int = 32, alone: bool = False
) -> PhotoFit:
    """The numbers where nothing was fitted: those of a prototype on the embedded world, bells as wide as a leaf.

    leaf_width_km: the median over leaves. similarity, lists: what was chosen for the gallery. alone: similarities
    alone count, cells do not where there are photos, and answers point at the photo that is most similar.
    """
    width_km = max(leaf_width_km, 0.05)
    return PhotoFit(
        cells=0.0 if alone else 0.2,
        gamma=0.0 if alone else 0.05,
        similarity=similarity,
        near=100,
        width_km=width_km,
        point_width_km=_AT_A_PHOTO_KM if alone else width_km,
        growth=0.5,
        lists=lists,
    )


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was fitted to held-out photos of one protocol."""

    temperature: float  # T of the posterior over leaves, softmax of v . G_r / T
    # An album of n photos has T n**growth: n photos of one event tell less than n photos taken independently would.
    growth: float
    inside: float  # share of photos that were taken in a leaf at all: what probabilities over leaves add up to
    # For each kind of point that answers may have (`search.answers.points`): a disc around it that holds the first
    # share of the posterior holds the true place of half of the photos; the second, of nine in ten. `cap`: around the
    # centre of the likeliest cell of the bundle's precision cap, of what its cells hold.
    masses: Mapping[str, tuple[float, float]]
    mass_km: float  # the distance that `mass` among these looks at
    least_score: float  # the best leaf of all but a hundredth of the photos scores this, for each photo of an album
    queries: int  # photos, or albums, that it was fitted to
    approximate: bool = False  # of few queries, whose fifths took turns in saying what the others promise
    fit: PhotoFit | None = None  # how photos count; None: these are the numbers of cells alone
    cap_km: float | None = None  # the precision cap of `cap` among `masses`; None: there is none
    with_photos: "Calibration | None" = None  # the same of cells and photos together, where the bundle has a gallery
    reranker: Reranker | None = None  # what changes the weights of photos, where that made answers better
    # Of the weight of photos, the mean share that lies in a leaf; None where leaves have no borders, or it was made
    # before that was looked at.
    in_leaves: float | None = None
    # Of the true places of photos that it was not fitted to, ascending, from 0 to 1: what claimed places are held
    # against (`stored_nonconformities`, `p_value`). Empty where it was made before claims could be checked.
    nonconformities: tuple[float, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        numbers = (
            self.temperature,
            self.growth,
            self.inside,
            self.mass_km,
            self.least_score,
            *sum(self.masses.values(), ()),
        )
        sound = all(isinstance(value, int | float) and np.isfinite(value) for value in numbers)
        shares = all(len(pair) == 2 and 0 <= pair[0] <= pair[1] <= 1 for pair in self.masses.values() if sound)
        shares = shares and (self.in_leaves is None or 0 < self.in_leaves <= 1)
        ends = (0.0, *self.nonconformities, 1.0)
        shares = shares and all(low <= high for low, high in pairwise(ends))
        if not (sound and shares and "cell" in self.masses and self.temperature > 0 and 0 < self.inside <= 1):
            raise ArtifactError(f"{self}: no calibration. Fit it again: python -m search calibrate")

    def temperatures(self, n_photos: np.ndarray) -> np.ndarray:
        """T of queries that were made of so many photos each, (Q,) int64: (Q,) float64."""
        return np.asarray(self.temperature * n_photos.astype(np.float64) ** self.growth)

    def inside_by_photos(self, by_photos: np.ndarray, in_leaves: np.ndarray | None) -> np.ndarray:
        """How likely each query was taken in a leaf at all: (Q,) float64, what its probabilities add up to.

        by_photos: (Q,) float64, how much of its posterior is by photos. in_leaves: (Q,) float64, how much of their
        weight is of photos that lie in a leaf: where that is more than usual, it is likelier than usual.
        """
        if self.in_leaves is None or in_leaves is None:
            return np.full(len(by_photos), self.inside)
        return np.asarray(np.minimum(self.inside * (1 - by_photos + by_photos * in_leaves / self.in_leaves), 1.0))

    def p_value(self, nonconformity: float) -> float:
        """The p-value of a claimed place: of true ones no more than a share p has one up to p.

        nonconformity: of a claimed place, 0 to 1. Raises InputError where the calibration knows none of true places.
        """
        known = self.nonconformities
        if not known:
            raise InputError(
                "The bundle was calibrated when claims could not be checked yet. Calibrate again: "
                "python -m search calibrate ..."
            )
        least = math.floor(nonconformity * _MILLION) / _MILLION  # what is as far from the rest but for rounding ties
        return (1 + len(known) - bisect_left(known, least)) / (1 + len(known))


def stored_nonconformities(values: np.ndarray) -> tuple[float, ...]:
    """Nonconformities of true places (N,), at least one, as a calibration keeps them: ascending, in whole millionths.

    They are rounded up, and of more than a manifest keeps the largest of every k of them is: both make p-values larger,
    never smaller. Of C that are no smaller than a claim's, out of N, at least C / k are kept, out of at most N / k; and
    (1 + C / k) / (1 + N / k) is at least (1 + C) / (1 + N).
    """
    k = -(-len(values) // _MOST_NONCONFORMITIES)
    largest = np.sort(values)[::-1][: len(values) // k * k : k]
    return tuple((np.ceil(largest[::-1] * _MILLION).clip(0, _MILLION) / _MILLION).tolist())


def calibration_facts(calibrations: Mapping[Protocol, Calibration]) -> dict[str, Any] | None:
    """What a manifest says; None where nothing was calibrated. Rerankers are files of their own: `save_rerankers`."""
    return {name: _facts(each, name) for name, each in sorted(calibrations.items())} or None


def _facts(calibration: Calibration, protocol: str) -> dict[str, Any]:
    """The numbers, and the name of the reranker's file where there is one."""
    with_photos = calibration.with_photos
    facts = asdict(replace(calibration, with_photos=None, reranker=None))
    del facts["reranker"]  # as before there were any
    if not calibration.nonconformities:
        del facts["nonconformities"]
    if calibration.in_leaves is None:
        del facts["in_leaves"]
    if with_photos is not None:
        facts["with_photos"] = _facts(with_photos, protocol)
    return facts if calibration.reranker is None else {**facts, "reranker": reranker_file(protocol)}


def reranker_file(protocol: str) -> str:
    """Name of the file of the reranker of a protocol, in a bundle."""
    return f"reranker_{protocol}.safetensors"


RERANKER_FILES = frozenset(map(reranker_file, PROTOCOLS))


def save_rerankers(calibrations: Mapping[Protocol, Calibration], folder: Path) -> None:
    """Write the rerankers of calibrations into a folder that is being written."""
    for name, each in calibrations.items():
        if each.with_photos is not None and each.with_photos.reranker is not None:
            each.with_photos.reranker.save(folder / reranker_file(name))


def calibrations_of(facts: Mapping[str, Any] | None, folder: Path) -> dict[Protocol, Calibration]:
    """The calibrations that a manifest holds; an ArtifactError where it holds something else.

    folder: that of the manifest, where rerankers are.
    """
    result = dict[Protocol, Calibration]()
    for name, numbers in (facts or {}).items():
        if name not in PROTOCOLS:
            raise ArtifactError(f"A calibration for {name!r}; this release knows {', '.join(PROTOCOLS)}.")
        try:
            result[name] = _calibration(numbers, folder)
        except (TypeError, AttributeError, KeyError) as error:
            raise ArtifactError(f"The calibration for {name!r} is damaged ({error}). Fit it again.") from None
    return result


def _calibration(numbers: Mapping[str, Any], folder: Path) -> Calibration:
    masses = {point: tuple(pair) for point, pair in numbers["masses"].items()}
    fit, with_photos, reranker = numbers["fit"], numbers["with_photos"], numbers.get("reranker")
    if reranker is not None and reranker not in RERANKER_FILES:
        raise ArtifactError(f"A reranker in {reranker!r}, which is none of its names. Fit it again.")
    known = {
        "masses": masses,
        "fit": None if fit is None else PhotoFit(**fit),
        "with_photos": None if with_photos is None else _calibration(with_photos, folder),
        "reranker": None if reranker is None else Reranker.load(folder / reranker),
        "nonconformities": tuple(numbers.get("nonconformities", ())),
    }
    return Calibration(**{**numbers, **known})


def protocol_of(features: FeatureSource) -> Protocol:
    """How vectors that were made before are made of photos; of one crop where nobody recorded it."""
    return next((protocol for protocol in PROTOCOLS if protocol == features.crops), "one")
