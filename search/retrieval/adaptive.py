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

import numpy as np
import torch

from indexer.bundles.leaf_index import hierarchy_lists
from indexer.vectors.scoring import ScoringModel
from search.retrieval.lists import HierarchyLists, ListSearch, Visited
from search.retrieval.proof import float32_error

_ROWS = 1 << 14  # leaf vectors looked at together while the bounds are made
PROVED, SPENT = "adaptive-proved", "adaptive-budget"
BUDGET = 4  # times as many lists as a beam visits, where nobody says how many


class AdaptiveSearch(ListSearch):
    """Searches the leaves of as many lists as an answer takes."""

    name = "adaptive"

    def __init__(
        self,
        model: ScoringModel,
        lists: HierarchyLists,
        rows: np.ndarray,
        *,
        probes: int | None = None,
        max_probes: int | None = None,
    ) -> None:
        """rows: leaf vectors. probes: lists of the first round; None: a beam's. max_probes: None: BUDGET times that."""
        self._probes = min(probes or lists.probes, len(lists))
        super().__init__(model, lists, limit=min(max(max_probes or BUDGET * self._probes, self._probes), len(lists)))
        self.facts: Mapping[str, int] = {"level": lists.level, "probes": self._probes, "max_probes": self._limit}
        self._bounds = ListBounds(model, rows, lists.level)

    def _visited(self, queries: np.ndarray, k: int, limit: int) -> Iterator[tuple[slice, Visited, np.ndarray]]:
        extended = self._model.extended(queries)
        longest = np.argsort(-self._lists.sizes)[:limit]  # blocks are as if all was spent on these
        for block in self._lists.blocks(np.broadcast_to(longest, (len(queries), limit))):
            visited, proved = self._widened(extended[block], k, limit)
            yield block, visited, np.where(proved, PROVED, SPENT)

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
        lists, list_vectors = hierarchy_lists(model, level)
        begins = np.flatnonzero(np.diff(lists, prepend=-1))  # leaves of a list are next to each other
        centres = np.add.reduceat(rows, begins, axis=0, dtype=np.float64) / np.bincount(lists)[:, None]
        centres[:, width:] = list_vectors[:, width:]  # the largest bias
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
