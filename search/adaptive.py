"""Adaptive search: from coarse to fine, through ever more lists until a bound proves the answer or a budget is spent.

A leaf vector of a list lies within a ball around the list's mean, so no leaf of it can score above v . mean + |v|
radius (with a prior: and the largest bias in the list). When that is below the worst of the best leaves found so far,
for every list that was not visited, these are the best of all leaves: the answer is as exact as that of exact search,
and says 'adaptive-proved'. Else the lists that could hold a better leaf are visited, the likeliest first, in rounds
that double what was visited, up to the budget: then the answer says 'adaptive-budget'.

In many dimensions balls are wide, as a query is nearly at right angles to most of what lies between a leaf and the mean
of its list, and the bound cannot know that: it proves what is far ahead of everything in other lists, and no more. At
768 dims it proved hardly one in a thousand of the benchmark's answers, 2 % with a sixth of the noise. That is why this
is not the default for many leaves, and why the budget is small.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch

from indexer.leaf_index import tree_lists
from indexer.scoring import ScoringModel
from search.beam import best_visited
from search.found import VISITED_LEAVES, Hits, joined_hits
from search.leaf_scores import LeafScores
from search.lists import TreeLists, Visited
from search.posterior import Posterior, joined_posteriors
from search.proof import float32_error

_ROWS = 1 << 14  # leaf vectors looked at together while the bounds are made
PROVED, SPENT = "adaptive-proved", "adaptive-budget"
BUDGET = 4  # times as many lists as a beam visits, where nobody says how many


class AdaptiveSearch:
    """Searches the leaves of as many lists as an answer takes."""

    name = "adaptive"
    counts = VISITED_LEAVES

    def __init__(
        self,
        model: ScoringModel,
        lists: TreeLists,
        rows: np.ndarray,
        *,
        probes: int | None = None,
        max_probes: int | None = None,
    ) -> None:
        """rows: leaf vectors. probes: lists of the first round; None: a beam's. max_probes: None: BUDGET times that."""
        self._model = model
        self._lists = lists
        self._probes = min(probes or lists.probes, len(lists))
        self._budget = min(max(max_probes or BUDGET * self._probes, self._probes), len(lists))
        self.facts: Mapping[str, int] = {"level": lists.level, "probes": self._probes, "max_probes": self._budget}
        self._scores = LeafScores(model, torch.device("cpu"))
        self._bounds = ListBounds(model, rows, lists.level)

    def __call__(self, queries: np.ndarray, k: int, *, temperature: float | None) -> Hits:
        """As `Search`."""
        found = self._search(queries, k, temperature, self._budget)
        short = np.flatnonzero(found.leaf[:, -1] < 0)
        if short.size:  # the budget's lists hold fewer than k leaves: then there is no budget
            return found.replaced(short, self._search(queries[short], k, temperature, len(self._lists)))
        return found

    def with_posterior(
        self, queries: np.ndarray, k: int, *, temperature: float, left_out: float
    ) -> tuple[Hits, Posterior]:
        """As `Search`."""
        hits, posterior = self._with_posterior(queries, k, temperature, self._budget, left_out)
        short = np.flatnonzero(posterior.counted < k)
        if short.size:
            others = self._with_posterior(queries[short], k, temperature, len(self._lists), left_out)
            return hits.replaced(short, others[0]), posterior.replaced(short, others[1])
        return hits, posterior

    def _with_posterior(
        self, queries: np.ndarray, k: int, temperature: float, budget: int, left_out: float
    ) -> tuple[Hits, Posterior]:
        hits, posteriors = [], []
        for visited, found in self._blocks_found(queries, k, temperature, budget):
            hits.append(found)
            posteriors.append(visited.posterior(temperature, left_out=left_out))
        return joined_hits(hits, k), joined_posteriors(posteriors)

    def _blocks(self, n_queries: int, budget: int) -> Iterator[slice]:
        """As if the budget went into the longest lists."""
        longest = np.argsort(-self._lists.sizes)[:budget]
        return self._lists.blocks(np.broadcast_to(longest, (n_queries, budget)))

    def _search(self, queries: np.ndarray, k: int, temperature: float | None, budget: int) -> Hits:
        return joined_hits([found for _, found in self._blocks_found(queries, k, temperature, budget)], k)

    def _blocks_found(
        self, queries: np.ndarray, k: int, temperature: float | None, budget: int
    ) -> Iterator[tuple[Visited, Hits]]:
        """What was visited for some queries at a time, and the k best of it."""
        extended = self._model.extended(queries)
        for block in self._blocks(len(queries), budget):
            visited, proved = self._widened(extended[block], k, budget)
            found = best_visited(visited, queries[block], k, self._scores, temperature, PROVED)
            yield visited, replace(found, mode=np.where(proved, PROVED, SPENT))

    def _widened(self, queries: np.ndarray, k: int, budget: int) -> tuple[Visited, np.ndarray]:
        """What was visited for each query, and whether nothing else can be among its k best: (Q,) bool."""
        bounds = self._bounds.above(queries)
        lists = self._lists.nearest(queries, self._probes)
        np.put_along_axis(bounds, lists, -np.inf, axis=1)  # what was visited can surprise no more
        visited = self._lists.visit(queries, lists)
        n_visited = np.full(len(queries), self._probes)
        while True:
            could = (bounds >= _surely(visited, k)[:, None]).sum(axis=1)
            rows = np.flatnonzero((could > 0) & (n_visited < budget))
            if not rows.size:
                return visited, could == 0
            n_next = np.minimum(np.minimum(n_visited, budget - n_visited), could)[rows]
            lists = torch.from_numpy(bounds[rows]).topk(int(n_next.max())).indices.numpy()
            lists[np.arange(lists.shape[1]) >= n_next[:, None]] = -1
            visited = visited.more(rows, self._lists.visit(queries[rows], lists))
            for row, chosen, n in zip(rows, lists, n_next, strict=True):
                bounds[row, chosen[:n]] = -np.inf
            n_visited[rows] += n_next


class ListBounds:
    """For each list of a level a ball that holds its leaf vectors."""

    def __init__(self, model: ScoringModel, rows: np.ndarray, level: int) -> None:
        width = model.geocells.width
        lists, heads = tree_lists(model, level)
        begins = np.flatnonzero(np.diff(lists, prepend=-1))  # leaves of a list are next to each other
        centres = np.add.reduceat(rows, begins, axis=0, dtype=np.float64) / np.bincount(lists)[:, None]
        centres[:, width:] = heads[:, width:]  # the largest bias
        self._centres = centres.astype(np.float32)
        apart = np.empty(len(rows))
        for start in range(0, len(rows), _ROWS):
            block = slice(start, start + _ROWS)
            apart[block] = np.linalg.norm(
                rows[block, :width].astype(np.float64) - self._centres[lists[block], :width], axis=1
            )
        radii = np.maximum.reduceat(apart, begins)
        # What rounding can take from the product with a centre, and what it took from the leaf vectors.
        self._rounding = 2 * model.longest * float32_error(model.leaf_width)
        self._radii = radii + self._rounding
        self._width = width

    def above(self, queries: np.ndarray) -> np.ndarray:
        """What no leaf of each list can score above: (Q, M) float32; queries: (Q, leaf_width) float32."""
        length = np.linalg.norm(queries[:, : self._width].astype(np.float64), axis=1)
        slack = length[:, None] * self._radii + self._rounding
        # Half of the rounding that was added would do: the last digit that is lost here is within the other half.
        return (queries @ self._centres.T + slack).astype(np.float32)


def _surely(visited: Visited, k: int) -> np.ndarray:
    """What the k-th best of visited leaves scores at least: (Q,) float64."""
    if visited.score.shape[1] < k:
        return np.full(len(visited.score), -np.inf)
    return np.asarray(visited.score.topk(k).values[:, -1].double() - visited.error)
