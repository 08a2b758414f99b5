"""What beam and adaptive search share: they visit some lists for each query, and rank the leaves of these."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
import torch

from indexer.vectors.scoring import ScoringModel
from search.retrieval.found import VISITED_LEAVES, Hits, joined_hits
from search.retrieval.leaf_scores import LeafScores, tensor_of
from search.retrieval.lists import TreeLists, Visited
from search.retrieval.posterior import Posterior, joined_posteriors
from search.retrieval.proof import best_leaves


class ListSearch(ABC):
    """A search of lists, up to a limit; where these hold fewer leaves than are wanted, of all lists."""

    counts = VISITED_LEAVES

    def __init__(self, model: ScoringModel, lists: TreeLists, *, limit: int) -> None:
        """limit: lists that are visited at most."""
        self._model = model
        self._lists = lists
        self._limit = limit
        self._scores = LeafScores(model, torch.device("cpu"))

    def __call__(self, queries: np.ndarray, k: int, *, temperature: float | None) -> Hits:
        """As `Search`."""
        hits = self._hits(queries, k, temperature, self._limit)
        short = np.flatnonzero(hits.leaf[:, -1] < 0)
        if short.size:
            return hits.replaced(short, self._hits(queries[short], k, temperature, len(self._lists)))
        return hits

    def with_posterior(
        self, queries: np.ndarray, k: int, *, temperature: float, left_out: float
    ) -> tuple[Hits, Posterior]:
        """As `Search`."""
        hits, posterior = self._with_posterior(queries, k, temperature, self._limit, left_out)
        short = np.flatnonzero(posterior.counted < k)
        if short.size:
            others = self._with_posterior(queries[short], k, temperature, len(self._lists), left_out)
            return hits.replaced(short, others[0]), posterior.replaced(short, others[1])
        return hits, posterior

    @abstractmethod
    def _visited(self, queries: np.ndarray, k: int, limit: int) -> Iterator[tuple[slice, Visited, np.ndarray]]:
        """For some queries at a time what is visited, and how each was found: (Q',) str."""

    def _hits(self, queries: np.ndarray, k: int, temperature: float | None, limit: int) -> Hits:
        parts = [
            self._best(visited, queries[block], k, temperature, mode)
            for block, visited, mode in self._visited(queries, k, limit)
        ]
        return joined_hits(parts, k)

    def _with_posterior(
        self, queries: np.ndarray, k: int, temperature: float, limit: int, left_out: float
    ) -> tuple[Hits, Posterior]:
        hits, posteriors = [], []
        for block, visited, mode in self._visited(queries, k, limit):
            hits.append(self._best(visited, queries[block], k, temperature, mode))
            posteriors.append(visited.posterior(temperature, left_out=left_out))
        return joined_hits(hits, k), joined_posteriors(posteriors)

    def _best(self, visited: Visited, queries: np.ndarray, k: int, temperature: float | None, mode: np.ndarray) -> Hits:
        """The k best of visited leaves, and their share of all of these."""
        leaf, score = best_leaves(tensor_of(queries), look=visited.best, scores=self._scores, k=k)
        probability = torch.full_like(score, torch.nan)
        if temperature is not None:
            total = visited.log_sum(leaf, score, temperature)
            probability = (score / temperature - total[:, None]).exp()
        return Hits(leaf.numpy(), score.numpy(), probability.numpy(), mode)
