"""The reranker, fitted to held-out queries, and whether it is better than none.

In: held-out queries with the photos near to them, and the numbers by which these count. Out: a `Reranker` that was
fitted to all of them, and for each query what a reranker says that did not see it: queries are divided into folds, and
of each fold says what the others taught. By that it is judged, and by that the other numbers are fitted again: of
queries that a network saw it promises too much.

The loss is that of `search.calibration.photo_fit`. It begins as a reranker that changes nothing, and few, small steps
keep it near to that: on the embedded world a third of the steps, or of the photos, is worth less, and twice as many
steps begin to know the photos by heart.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from indexer.vectors.calibration import PhotoFit
from indexer.vectors.reranker import Reranker
from search.calibration.photo_fit import CellsPart, LossTerms, PhotoSample
from search.evaluation.bootstrap import Interval, mean_interval
from search.evaluation.options import Resampling

FOLDS = 5
_HIDDEN = 8
_STEPS, _RATE, _DECAY = 300, 3e-3, 0.1
_MOST = 4096  # queries that a reranker is fitted to
_LEAST_SPREAD = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Reranking:
    """A reranker that was fitted, and what is thought of it."""

    reranker: Reranker  # fitted to all queries
    of_fold: tuple[Reranker, ...]  # fitted to the queries of all folds but one
    fold: np.ndarray  # (N,) int64, that each query is of
    unseen: np.ndarray  # (N, near) float64, what is added to evidence by the reranker that did not see the query
    gain: float  # mean of the loss without less the loss with it, of queries that it did not see
    interval: Interval  # of that, over queries


def fit_reranker(
    sample: PhotoSample, fit: PhotoFit, cells: CellsPart, *, fold: np.ndarray, resampling: Resampling
) -> Reranking:
    """Fit a reranker to queries whose photos count by these numbers.

    cells: what cells say of the queries. fold: (N,) int64, which of FOLDS each query is of. resampling: for the
    interval. The same queries give the same reranker.
    """
    properties, evidence, terms = sample.properties(fit), sample.evidence(fit), sample.terms(fit, cells)
    there = np.isfinite(evidence[:, 0])  # queries without photos teach nothing
    unseen = np.zeros(evidence.shape)

    def fitted_to(queries: np.ndarray) -> Reranker:
        rows = np.flatnonzero(queries & there)[:_MOST]
        return _fitted(properties[rows], evidence[rows], _of(terms, rows))

    of_fold = []
    for number in range(FOLDS):
        of_fold.append(fitted_to(fold != number))
        unseen[fold == number] = of_fold[-1](properties[fold == number])
    gained = sample.losses(fit, cells) - sample.losses(fit, cells, unseen)
    interval = mean_interval(gained, resampling)
    everybody = fitted_to(np.ones(len(fold), bool))
    return Reranking(everybody, tuple(of_fold), fold, unseen, float(gained.mean()), interval)


def _of(terms: LossTerms, rows: np.ndarray) -> LossTerms:
    """The terms of some of the queries."""
    return LossTerms(
        terms.own[rows],
        terms.own_by_cells[rows],
        terms.bells[rows],
        terms.density_by_cells[rows],
        terms.leaf_weight[rows],
    )


def _fitted(properties: np.ndarray, evidence: np.ndarray, terms: LossTerms) -> Reranker:
    """Fit to queries that all have photos: properties (N, near, P), evidence (N, near)."""
    known = np.isfinite(evidence)
    photos = properties[known].astype(np.float64)
    mean = np.nan_to_num(_mean_of_known(photos))
    spread = np.maximum(np.sqrt(np.nan_to_num(_mean_of_known(np.square(photos - mean)))), _LEAST_SPREAD)
    standard = torch.from_numpy(np.nan_to_num((properties - mean) / spread).astype(np.float32))
    first, second, last = network = (
        nn.Linear(properties.shape[2], _HIDDEN),
        nn.Linear(_HIDDEN, _HIDDEN),
        nn.Linear(_HIDDEN, 1, bias=False),
    )
    generator = torch.Generator().manual_seed(0)
    for layer in (first, second):
        nn.init.xavier_uniform_(layer.weight, generator=generator)
        nn.init.zeros_(layer.bias)
    nn.init.zeros_(last.weight)  # it begins as none
    before = torch.from_numpy(evidence)
    own, own_by_cells, bells, density_by_cells, leaf_weight = (
        torch.from_numpy(each)
        for each in (terms.own, terms.own_by_cells, terms.bells, terms.density_by_cells, terms.leaf_weight)
    )
    parameters = [parameter for layer in network for parameter in layer.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=_RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _STEPS)
    for _ in range(_STEPS):
        optimiser.zero_grad()
        added = last(second(first(standard).tanh()).tanh())[..., 0]
        weight = (before + added).softmax(dim=1)
        right = ((weight * own).sum(dim=1) + own_by_cells).log()
        density = ((weight * bells).sum(dim=1) + density_by_cells).log()
        loss = -(leaf_weight * right + density).mean()
        loss.backward()
        optimiser.step()
        schedule.step()
    arrays = (first.weight.T, first.bias, second.weight.T, second.bias, last.weight[0])
    weights = (np.ascontiguousarray(array.detach().numpy()) for array in arrays)
    return Reranker(mean.astype(np.float32), spread.astype(np.float32), *weights)


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Means of columns (M, P) without what is NaN: (P,) float64, NaN for a column that is not known at all."""
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
