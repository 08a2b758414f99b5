"""Beam search: from coarse to fine, through the lists whose heads score best (the paper's retrieval, section III-D).

How many lists are visited was chosen when the bundle was built, so that 0.999 of photos find their best leaf, or is
given. An answer is exactly the best leaf of the lists visited, in the same order as in exact search; a better one may
stand in a list that was not visited, and probabilities count the visited leaves only.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping

import numpy as np
import torch

from indexer.vectors.scoring import ScoringModel
from search.retrieval.found import VISITED_LEAVES, Hits, joined_hits
from search.retrieval.lists import TreeLists, Visited
from search.retrieval.posterior import posterior_of
from search.retrieval.proof import LeafScores, best_leaves, tensor_of

MODE = "beam"


class ListSearch(ABC):
    """A search of some lists for each query, up to a limit; where these hold fewer leaves than are wanted, of all."""

    counts = VISITED_LEAVES

    def __init__(self, model: ScoringModel, lists: TreeLists, *, limit: int) -> None:
        """limit: lists that are visited at most."""
        self._model = model
        self._lists = lists
        self._limit = limit
        self._scores = LeafScores(model, torch.device("cpu"))

    def __call__(
        self, queries: np.ndarray, k: int, *, temperature: float | None, left_out: float | None = None
    ) -> Hits:
        """As `Search`."""
        hits = self._hits(queries, k, temperature, left_out, self._limit)
        short = np.flatnonzero(hits.leaf[:, -1] < 0)
        if short.size:
            return hits.replaced(short, self._hits(queries[short], k, temperature, left_out, len(self._lists)))
        return hits

    @abstractmethod
    def _visited(self, queries: np.ndarray, k: int, limit: int) -> Iterator[tuple[slice, Visited, np.ndarray]]:
        """For some queries at a time what is visited, and how each was found: (Q',) str."""

    def _hits(self, queries: np.ndarray, k: int, temperature: float | None, left_out: float | None, limit: int) -> Hits:
        """The k best of visited leaves, and their share of all of these."""
        parts = []
        for block, visited, mode in self._visited(queries, k, limit):
            leaf, score = best_leaves(tensor_of(queries[block]), look=visited.best, scores=self._scores, k=k)
            probability, posterior = torch.full_like(score, torch.nan), None
            if temperature is not None:
                total = visited.log_sum(leaf, score, temperature)
                probability = (score / temperature - total[:, None]).exp()
                if left_out is not None:
                    posterior = posterior_of(visited.score.clone(), temperature, visited.leaf, left_out=left_out)
            parts.append(Hits(leaf.numpy(), score.numpy(), probability.numpy(), mode, posterior))
        return joined_hits(parts, k)


class BeamSearch(ListSearch):
    """Searches the leaves of some lists."""

    name = MODE

    def __init__(self, model: ScoringModel, lists: TreeLists, *, probes: int | None = None) -> None:
        """probes: lists to visit; None for as many as were chosen for these."""
        super().__init__(model, lists, limit=min(probes or lists.probes, len(lists)))
        self.facts: Mapping[str, int] = {"level": lists.level, "probes": self._limit}

    def _hits(self, queries: np.ndarray, k: int, temperature: float | None, left_out: float | None, limit: int) -> Hits:
        if temperature is not None:
            return super()._hits(queries, k, temperature, left_out, limit)
        # The other leaves do not count: FAISS keeps the best ones as it goes, which is faster.
        extended = self._model.extended(queries)
        leaf, score = best_leaves(
            tensor_of(queries),
            look=lambda rows, n: self._lists.look(extended[rows.numpy()], n, probes=limit),
            scores=self._scores,
            k=k,
        )
        return Hits(leaf.numpy(), score.numpy(), np.full(score.shape, np.nan), np.full(len(queries), MODE))

    def _visited(self, queries: np.ndarray, k: int, limit: int) -> Iterator[tuple[slice, Visited, np.ndarray]]:
        extended = self._model.extended(queries)
        nearest = self._lists.nearest(extended, limit)
        for block in self._lists.blocks(nearest):
            visited = self._lists.visit(extended[block], nearest[block])
            yield block, visited, np.full(len(visited.leaf), MODE)
