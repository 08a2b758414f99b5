"""The calibration of cells alone: their temperature, radii and the limit of abstaining, fitted to held-out queries.

In: how a bundle's leaves are scored, and held-out queries. Out: a `Calibration`.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from indexer.earth.geo import haversine_km, unit_vectors
from indexer.errors import InputError
from indexer.vectors.calibration import Calibration, stored_nonconformities
from indexer.vectors.scoring import ScoringModel, leaf_vectors
from search.answers.options import CAP
from search.answers.photo_evidence import PhotoEvidence
from search.answers.place_density import PlaceDensity
from search.answers.points import AnswerPoints, CapPoints
from search.answers.radii import LeafDiscs
from search.calibration.held_out import HeldOutQueries
from search.evaluation.options import Resampling
from search.evaluation.reliability import Reliability, reliability
from search.retrieval.exact import ExactSearch
from search.retrieval.posterior import Posterior, posterior_of
from search.retrieval.proof import tensor_of

log = logging.getLogger(__name__)

_ABSTAIN_SHARE = 0.01  # of photos like the held-out ones, whose answers abstain
_TEMPERATURES = np.geomspace(0.02, 50, 35)
_CLOSER, _CLOSER_STEPS = 0.25, 15  # then, in log T, around the best of these
_GROWTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class Check:
    """How answers to N queries compare with the truth."""

    probability: np.ndarray  # (N,) float64, of the answered leaf
    right: np.ndarray  # (N,) bool, whether it is the true one
    shares: Mapping[str, np.ndarray]  # (N,) float64, what lies as near to each kind of point as the true place
    score: np.ndarray  # (N,) float64, of the best leaf, for each photo of an album
    nonconformity: np.ndarray  # (N,) float64, of the true place (`PlaceDensity.nonconformity`); NaN: not wanted

    def masses(self) -> dict[str, tuple[float, float]]:
        """What discs must hold to hold half, and nine in ten, of the true places."""
        return {name: (_conformal(each, 0.5), _conformal(each, 0.9)) for name, each in self.shares.items()}

    def least_score(self) -> float:
        """Below what an answer abstains."""
        return float(np.quantile(self.score, _ABSTAIN_SHARE))

    def reliability(self, resampling: Resampling, *, inside: float = 1.0) -> Reliability:
        """Whether probabilities mean what they say. inside: what is to be multiplied into them."""
        return reliability(inside * np.minimum(self.probability, 1.0), self.right, resampling)


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """What a calibration came to."""

    calibration: Calibration
    before: Reliability  # at T = 1, on held-out queries that nothing was fitted to
    after: Reliability


def fit_calibration(
    model: ScoringModel,
    points: Mapping[str, AnswerPoints | CapPoints],
    sample: HeldOutQueries,
    *,
    device: torch.device,
    resampling: Resampling,
) -> Fitted:
    """Fit a calibration to held-out queries; by exact search, whatever way the bundle is searched.

    model, points: of the bundle that it is for. resampling: for the intervals of the reliabilities.
    """
    search = ExactSearch(model, tensor_of(leaf_vectors(model)).to(device), low_precision=False)
    division, inside = sample.divided(), sample.inside
    mass, cap = points["mass"], points.get(CAP)
    assert isinstance(mass, AnswerPoints), "`points_of_bundle` makes them"
    if not inside:
        raise InputError("None of the held-out photos was taken in a finest cell. Is this the table of these vectors?")
    fits = [_temperature(search, sample.take(rows)) for rows, _ in division.parts]
    temperature, growth = _temperature(search, sample) if division.approximate else fits[0]
    lowest, highest = _TEMPERATURES[[0, -1]]
    if not lowest < temperature < highest:
        log.warning("the temperature that fits best, %.3g, is at an end of those that are tried", temperature)
    promised = [sample.take(rows) for _, rows in division.parts]
    before = joined_checks([_check(search, {}, mass.discs, each, 1.0, 0.0) for each in promised])
    if not before.right.any():
        log.warning("none of the held-out photos was taken in the cell that answers it: are these the right tables?")
    after = joined_checks(
        [_check(search, points, mass.discs, each, *fit) for each, fit in zip(promised, fits, strict=True)]
    )
    calibration = Calibration(
        temperature=temperature,
        growth=growth,
        inside=inside,
        masses=after.masses(),
        mass_km=mass.mass_km,
        cap_km=cap.cells.km if isinstance(cap, CapPoints) else None,
        least_score=after.least_score(),
        queries=len(sample),
        approximate=division.approximate,
        nonconformities=stored_nonconformities(after.nonconformity),
    )
    return Fitted(calibration, before.reliability(resampling), after.reliability(resampling, inside=inside))


def _temperature(search: ExactSearch, sample: HeldOutQueries) -> tuple[float, float]:
    """The temperature and its growth with the number of photos under which the log loss of the event is least."""
    growths = _GROWTHS if (sample.n_photos > 1).any() else (0.0,)
    losses = _losses(search, sample, _TEMPERATURES, growths)
    at, growth = np.unravel_index(losses.argmin(), losses.shape)
    closer = _TEMPERATURES[at] * np.exp(np.linspace(-_CLOSER, _CLOSER, _CLOSER_STEPS))
    losses = _losses(search, sample, closer, (growths[growth],))
    return float(closer[losses.argmin()]), growths[growth]


def _losses(
    search: ExactSearch, sample: HeldOutQueries, temperatures: np.ndarray, growths: tuple[float, ...]
) -> np.ndarray:
    """Mean log loss of "the true place lies in the answered cell": (temperatures, growths) float64."""
    losses, outside = np.zeros((len(temperatures), len(growths))), 1 - sample.inside
    for block, scores in search.scores(sample.queries):
        best, leaf = scores.max(dim=1, keepdim=True)
        scores -= best
        right = leaf[:, 0].cpu().numpy() == sample.leaf[block]
        n_photos = torch.from_numpy(sample.n_photos[block].astype(np.float32)).to(scores.device)
        for column, growth in enumerate(growths):
            for row, temperature in enumerate(temperatures):
                divisor = (temperature * n_photos**growth)[:, None]
                others = (scores / divisor).exp_().sum(dim=1, dtype=torch.float64) - 1  # all but the best
                # p = inside / (1 + others): its log but for a constant, or that of what it leaves to all else.
                wrong = (others + outside).clamp_min(1e-12).log()  # no probability is quite 1
                loss = others.log1p() - torch.where(torch.from_numpy(right).to(others.device), 0.0, wrong)
                losses[row, column] += float(loss.sum())
    return losses / len(sample)


def _check(
    search: ExactSearch,
    points: Mapping[str, AnswerPoints | CapPoints],
    discs: LeafDiscs,
    sample: HeldOutQueries,
    temperature: float,
    growth: float,
) -> Check:
    """How answers by cells alone compare with the truth. discs: of all leaves.

    points: kinds of points around which something is promised; none, where probabilities alone are looked at.
    """
    own = temperature * sample.n_photos.astype(np.float64) ** growth
    probability, best, nonconformity = np.full((3, len(sample)), np.nan)
    shares = {name: np.empty(len(sample)) for name in points}
    right = np.empty(len(sample), bool)
    for block, scores in search.scores(sample.queries):
        top, leaf = scores.max(dim=1)
        answer, score = leaf.cpu().numpy(), top.double().cpu().numpy()
        divisor = torch.from_numpy(own[block].astype(np.float32)).to(scores.device)[:, None]
        posterior = posterior_of(scores.div_(divisor), 1.0)
        probability[block] = np.exp(score / own[block] - posterior.log_total)
        for name, kind in points.items():
            shares[name][block] = share_up_to(kind, answer, posterior, None, sample, block)
        right[block], best[block] = answer == sample.leaf[block], score
        if points:
            nonconformity[block] = true_nonconformity(PlaceDensity.of_cells(posterior, discs), sample, block)
    return Check(probability, right, shares, best / sample.n_photos, nonconformity)


def share_up_to(
    kind: AnswerPoints | CapPoints,
    leaf: np.ndarray,
    posterior: Posterior,
    evidence: PhotoEvidence | None,
    sample: HeldOutQueries,
    rows: slice,
) -> np.ndarray:
    """What lies as near to the answers of some queries as their true places do: (Q,) float64."""
    at = kind(leaf, posterior, evidence)
    km = haversine_km(at.lat_deg, at.lng_deg, sample.lat_deg[rows], sample.lng_deg[rows])
    return kind.share_within(at, posterior, evidence, km)


def true_nonconformity(density: PlaceDensity, sample: HeldOutQueries, rows: slice) -> np.ndarray:
    """How much of what some queries' places may be is denser than their true places: (Q,) float64."""
    places = unit_vectors(sample.lat_deg[rows], sample.lng_deg[rows])
    return density.nonconformity(density.at(places, np.arange(len(density))))


def joined_checks(parts: Sequence[Check]) -> Check:
    """Those of several parts of the queries, as one."""
    return Check(
        np.concatenate([part.probability for part in parts]),
        np.concatenate([part.right for part in parts]),
        {name: np.concatenate([part.shares[name] for part in parts]) for name in parts[0].shares},
        np.concatenate([part.score for part in parts]),
        np.concatenate([part.nonconformity for part in parts]),
    )


def _conformal(shares: np.ndarray, wanted: float) -> float:
    """What so many of new queries stay below: of n shares the ceil((n + 1) q)-th smallest; 1 where there is none."""
    rank = math.ceil((len(shares) + 1) * wanted)
    return float(min(np.sort(shares)[rank - 1], 1.0)) if rank <= len(shares) else 1.0
