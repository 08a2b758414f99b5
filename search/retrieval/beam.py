"""Beam search: from coarse to fine, through the lists whose heads score best (the paper's retrieval, section III-D).

How many lists are visited was chosen when the bundle was built, so that 0.999 of photos find their best leaf, or is
given. An answer is exactly the best leaf of the lists visited, in the same order as in exact search; a better one may
stand in a list that was not visited, and probabilities count the visited leaves only.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from indexer.vectors.scoring import ScoringModel
from search.retrieval.found import Hits
from search.retrieval.leaf_scores import tensor_of
from search.retrieval.list_search import ListSearch
from search.retrieval.lists import TreeLists, Visited
from search.retrieval.proof import best_leaves

MODE = "beam"


class BeamSearch(ListSearch):
    """Searches the leaves of some lists."""

    name = MODE

    def __init__(self, model: ScoringModel, lists: TreeLists, *, probes: int | None = None) -> None:
        """probes: lists to visit; None for as many as were chosen for these."""
        super().__init__(model, lists, limit=min(probes or lists.probes, len(lists)))
        self.facts: Mapping[str, int] = {"level": lists.level, "probes": self._limit}

    def _hits(self, queries: np.ndarray, k: int, temperature: float | None, limit: int) -> Hits:
        if temperature is not None:
            return super()._hits(queries, k, temperature, limit)
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
