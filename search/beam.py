"""Beam search: from coarse to fine, through the lists whose heads score best (the paper's retrieval, section III-D).

How many lists are visited was chosen when the bundle was built, so that 0.999 of photos find their best leaf, or is
asked for. An answer is exactly the best leaf of the lists visited, in the same order as in exact search; a better one
may stand in a list that was not visited, and probabilities count the visited leaves only.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from indexer.scoring import ScoringModel
from search.found import VISITED_LEAVES, Hits, joined_hits
from search.leaf_scores import LeafScores, tensor_of
from search.lists import TreeLists, Visited
from search.posterior import Posterior, joined_posteriors
from search.proof import best_leaves

MODE = "beam"


class BeamSearch:
    """Searches the leaves of some lists."""

    name = MODE
    counts = VISITED_LEAVES

    def __init__(self, model: ScoringModel, lists: TreeLists, *, probes: int | None = None) -> None:
        """probes: lists to visit; None for as many as were chosen for these."""
        self._model = model
        self._lists = lists
        self._probes = min(probes or lists.probes, len(lists))
        self.facts: Mapping[str, int] = {"level": lists.level, "probes": self._probes}
        self._scores = LeafScores(model, torch.device("cpu"))

    def __call__(self, queries: np.ndarray, k: int, *, temperature: float | None) -> Hits:
        """As `Search`."""
        found = self._search(queries, k, temperature, self._probes)
        short = np.flatnonzero(found.leaf[:, -1] < 0)
        if short.size:  # the lists visited hold fewer than k leaves: then all lists are visited
            return found.replaced(short, self._search(queries[short], k, temperature, len(self._lists)))
        return found

    def with_posterior(
        self, queries: np.ndarray, k: int, *, temperature: float, left_out: float
    ) -> tuple[Hits, Posterior]:
        """As `Search`."""
        hits, posterior = self._with_posterior(queries, k, temperature, self._probes, left_out)
        short = np.flatnonzero(posterior.counted < k)
        if short.size:
            others = self._with_posterior(queries[short], k, temperature, len(self._lists), left_out)
            return hits.replaced(short, others[0]), posterior.replaced(short, others[1])
        return hits, posterior

    def _with_posterior(
        self, queries: np.ndarray, k: int, temperature: float, probes: int, left_out: float
    ) -> tuple[Hits, Posterior]:
        hits, posteriors = [], []
        for block, visited in self._visited(queries, probes):
            hits.append(best_visited(visited, queries[block], k, self._scores, temperature, MODE))
            posteriors.append(visited.posterior(temperature, left_out=left_out))
        return joined_hits(hits, k), joined_posteriors(posteriors)

    def _search(self, queries: np.ndarray, k: int, temperature: float | None, probes: int) -> Hits:
        if temperature is None:
            extended = self._model.extended(queries)
            leaf, score = best_leaves(
                tensor_of(queries),
                look=lambda rows, n: self._lists.look(extended[rows.numpy()], n, probes=probes),
                scores=self._scores,
                k=k,
            )
            return Hits(leaf.numpy(), score.numpy(), np.full(score.shape, np.nan), np.full(len(queries), MODE))
        parts = [
            best_visited(visited, queries[block], k, self._scores, temperature, MODE)
            for block, visited in self._visited(queries, probes)
        ]
        return joined_hits(parts, k)

    def _visited(self, queries: np.ndarray, probes: int) -> Iterator[tuple[slice, Visited]]:
        """The leaves of the best lists, for some queries at a time."""
        extended = self._model.extended(queries)
        nearest = self._lists.nearest(extended, probes)
        for block in self._lists.blocks(nearest):
            yield block, self._lists.visit(extended[block], nearest[block])


def best_visited(
    visited: Visited, queries: np.ndarray, k: int, scores: LeafScores, temperature: float | None, mode: str
) -> Hits:
    """The k best of visited leaves, and their share of all of these."""
    leaf, score = best_leaves(tensor_of(queries), look=visited.best, scores=scores, k=k)
    probability = torch.full_like(score, torch.nan)
    if temperature is not None:
        total = visited.log_sum(leaf, score, temperature)
        probability = (score / temperature - total[:, None]).exp()
    return Hits(leaf.numpy(), score.numpy(), probability.numpy(), np.full(len(queries), mode))
