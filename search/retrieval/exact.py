"""Exact search: all leaves are compared, and the best are proven to be the best (the default).

The paper's inference is exact, too: it compares a photo with all cells of all levels and multiplies for each finest one
(section III-D). Why a search from coarse to fine is no default here: for as many cells as the paper's partitions have,
one product of matrices over all leaves is so fast that what is saved by leaving most of them out is small beside
encoding a photo, and on a GPU is lost to reading lists here and there.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch

from encoder.models.device import multiplies_bfloat16
from indexer.bundles.leaf_index import EXHAUSTIVE_LEAVES
from indexer.vectors.scoring import ScoringModel
from search.retrieval.found import ALL_LEAVES, NOTHING_ELSE, Hits, Searched, Wanted, best_lists, joined_hits
from search.retrieval.posterior import Posterior, posterior_of
from search.retrieval.proof import Candidates, LeafScores, best_leaves, first_look, tensor_of
from search.retrieval.scan import LeafScan

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

    def __call__(self, queries: np.ndarray, k: int, wanted: Wanted = NOTHING_ELSE) -> Hits:
        """As `Search`."""
        vectors, extended = self._on_device(queries)
        if wanted.temperature is None:
            leaf, score = self._best(vectors, extended, None, k)
            return _hits(leaf, score)
        temperature = wanted.temperature
        if wanted.left_out is not None:
            parts = self._with_posterior(vectors, extended, k, temperature, wanted.left_out, wanted.n_lists)
            return joined_hits(list(parts), k)
        first, others = self._scan.best_and_others(extended, first_look(k, self._model.n_leaves), temperature)
        leaf, score = self._best(vectors, extended, first, k)
        # The others are all but the first candidate, which in a near tie need not be the best.
        same = first.leaf[:, 0] == leaf[:, 0]
        best = torch.where(same, score[:, 0], first.score[:, 0].double())
        total = torch.logaddexp(best / temperature, others)
        return _hits(leaf, score, (score / temperature - total[:, None]).exp().cpu().numpy())

    def _with_posterior(
        self,
        vectors: torch.Tensor,
        extended: torch.Tensor,
        k: int,
        temperature: float,
        left_out: float,
        n_lists: int,
    ) -> Iterator[Hits]:
        for block, scores in self._scan.scores(extended):
            lists = best_lists(scores, n_lists)
            first = self._scan.best_of(extended[block], scores, first_look(k, self._model.n_leaves))
            posterior = posterior_of(scores, temperature, left_out=left_out)
            leaf, score = (each.cpu() for each in self._best(vectors[block], extended[block], first, k))
            posterior = posterior.with_best(score[:, 0].numpy() / temperature)
            hits = _hits(leaf, score, posterior.probabilities(score.numpy(), temperature), posterior)
            yield replace(hits, lists=lists)

    def scores(self, queries: np.ndarray) -> Iterator[tuple[slice, torch.Tensor]]:
        """Scores of all leaves in float32, a block of queries at a time, as `LeafScan.scores` gives them."""
        return self._scan.scores(self._on_device(queries)[1])

    def _on_device(self, queries: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries as they are, and as they are compared with leaf vectors."""
        both = queries, self._model.extended(queries)
        vectors, extended = (tensor_of(each).to(self._scores.device) for each in both)
        return vectors, extended

    def _best(
        self, queries: torch.Tensor, extended: torch.Tensor, first: Candidates | None, k: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `best_leaves`. first: what a first look has found, where there was one."""

        def look(rows: torch.Tensor, n: int) -> Candidates:
            if first is not None and n == first.leaf.shape[1]:
                return first.of(rows)
            return self._scan.best(extended[rows], n)

        return best_leaves(queries, look=look, scores=self._scores, k=k)


def _hits(
    leaf: torch.Tensor,
    score: torch.Tensor,
    probability: np.ndarray | None = None,
    posterior: Posterior | None = None,
) -> Hits:
    share = np.full(score.shape, np.nan) if probability is None else probability
    return Hits(leaf.cpu().numpy(), score.cpu().numpy(), share, np.full(len(leaf), MODE), posterior)
