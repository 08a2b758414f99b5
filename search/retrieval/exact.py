"""Exact search: all leaves are compared, and the best are proven to be the best (the default).

Why this is the default although the paper's retrieval goes from coarse to fine: for as many cells as its partitions
have, one product of matrices over all leaves is so fast that what a search saves by leaving most of them out is small
beside encoding a photo, and on a GPU is lost to reading lists here and there.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch

from encoder.device import multiplies_bfloat16
from indexer.bundles.leaf_index import EXHAUSTIVE_LEAVES
from indexer.vectors.scoring import ScoringModel
from search.retrieval.found import ALL_LEAVES, Hits, joined_hits
from search.retrieval.leaf_scores import LeafScores, tensor_of
from search.retrieval.posterior import Posterior, joined_posteriors, posterior_of
from search.retrieval.proof import Candidates, best_leaves, first_look
from search.retrieval.scan import LeafScan
from search.retrieval.searched import Searched

MODE = "exact"


class ExactSearch:
    """Searches all leaves, on a CPU or a GPU."""

    name = MODE
    counts = ALL_LEAVES

    def __init__(self, model: ScoringModel, rows: torch.Tensor, *, low_precision: bool) -> None:
        """rows: the model's leaf vectors, on the device to search on; as `LeafScan` takes them, with low_precision."""
        self.facts: Mapping[str, int] = {}
        self._model = model
        self._scores = LeafScores(model, rows.device)
        self._scan = LeafScan(rows, low_precision=low_precision)

    @classmethod
    def of(cls, searched: Searched, device: torch.device) -> "ExactSearch":
        """The search of these leaves, as suits a device."""
        rows = tensor_of(searched.leaf_vectors)
        if searched.precision != "fp32" and searched.model.n_leaves > EXHAUSTIVE_LEAVES:
            # Who chose fewer bits for that many leaves has no memory for more.
            return cls(searched.model, rows.half().to(device), low_precision=False)
        return cls(searched.model, rows.to(device), low_precision=multiplies_bfloat16(device))

    def __call__(self, queries: np.ndarray, k: int, *, temperature: float | None) -> Hits:
        """As `Search`."""
        device = self._scores.device
        asked = tensor_of(queries).to(device)
        extended = tensor_of(self._model.extended(queries)).to(device)
        first: Candidates | None = None
        if temperature is not None:
            first, others = self._scan.best_and_others(extended, first_look(k, self._model.n_leaves), temperature)

        def look(rows: torch.Tensor, n: int) -> Candidates:
            if first is not None and n == first.leaf.shape[1]:
                return first.of(rows)
            return self._scan.best(extended[rows], n)

        leaf, score = best_leaves(asked, look=look, scores=self._scores, k=k)
        probability = torch.full_like(score, torch.nan)
        if first is not None and temperature is not None:
            # The others are all but the first candidate, which in a near tie need not be the best.
            same = first.leaf[:, 0] == leaf[:, 0]
            best = torch.where(same, score[:, 0], first.score[:, 0].double())
            total = torch.logaddexp(best / temperature, others)
            probability = (score / temperature - total[:, None]).exp()
        return _hits(leaf, score, probability)

    def with_posterior(
        self, queries: np.ndarray, k: int, *, temperature: float, left_out: float
    ) -> tuple[Hits, Posterior]:
        """As `Search`."""
        device = self._scores.device
        asked = tensor_of(queries).to(device)
        extended = tensor_of(self._model.extended(queries)).to(device)
        n_first = first_look(k, self._model.n_leaves)
        hits, posteriors = [], []
        for block, scores in self._scan.scores(extended):
            some = extended[block]
            first = self._scan.best_of(some, scores, n_first)
            posteriors.append(posterior_of(scores, temperature, left_out=left_out))

            def look(rows: torch.Tensor, n: int, some: torch.Tensor = some, first: Candidates = first) -> Candidates:
                return first.of(rows) if n == n_first else self._scan.best(some[rows], n)

            leaf, score = best_leaves(asked[block], look=look, scores=self._scores, k=k)
            hits.append(_hits(leaf, score, torch.full_like(score, torch.nan)))
        found = joined_hits(hits, k)
        posterior = joined_posteriors(posteriors).with_best(found.score[:, 0] / temperature)
        return replace(found, probability=posterior.probabilities(found.score, temperature)), posterior

    def scores(self, queries: np.ndarray) -> Iterator[tuple[slice, torch.Tensor]]:
        """Scores of all leaves in float32, of some queries at a time, as `LeafScan.scores` gives them."""
        return self._scan.scores(tensor_of(self._model.extended(queries)).to(self._scores.device))


def _hits(leaf: torch.Tensor, score: torch.Tensor, probability: torch.Tensor) -> Hits:
    return Hits(leaf.cpu().numpy(), score.cpu().numpy(), probability.cpu().numpy(), np.full(len(leaf), MODE))
