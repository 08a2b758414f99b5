"""Lists of leaves that follow the tree, for searches from coarse to fine (the paper's retrieval, section III-D).

In: the inverted lists of a level (`indexer.bundles.leaf_index`), a list for each of its cells. Out: the lists whose
heads are nearest to a query, and the leaves of lists that are visited as candidates for `search.retrieval.proof`.

Lists are visited by FAISS on the CPU, on machines with a GPU too, where comparing all leaves is faster.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from indexer.bundles.faiss_index import (
    Index,
    code_error,
    list_count,
    list_sizes,
    nearest_lists,
    rows_in_lists,
    search_index,
)
from indexer.bundles.leaf_index import best_of_all, choose_beam, list_index, stand_ins
from indexer.vectors.scoring import ScoringModel
from search.retrieval.found import Searched
from search.retrieval.proof import Candidates, float32_error

_HELD = 1 << 22  # visited leaves held at once, over all queries: 50 MB


@dataclass(frozen=True, slots=True, eq=False)
class Visited:
    """All leaves that each query was compared with."""

    leaf: torch.Tensor  # (Q, M) int64, -1 where there are fewer
    score: torch.Tensor  # (Q, M) float32, minus infinity where there are fewer
    error: torch.Tensor  # (Q,) float64, as in `Candidates`

    def best(self, rows: torch.Tensor, n: int) -> Candidates:
        """The n best of them, for some of the queries."""
        held = self.score[rows]
        score, place = held.topk(min(n, held.shape[1]))
        leaf, error = self.leaf[rows].gather(1, place), self.error[rows]
        if score.shape[1] < n:
            score, leaf = (
                torch.nn.functional.pad(each, (0, n - score.shape[1]), value=empty)
                for each, empty in ((score, -torch.inf), (leaf, -1))
            )
        return Candidates(leaf, score, error, score[:, -1].double() + error)

    def log_sum(self, leaf: torch.Tensor, score: torch.Tensor, temperature: float) -> torch.Tensor:
        """Log of the sum of exp(score / temperature) over all of them: (Q,) float64.

        leaf, score: (Q, K) int64 and float64, those that are known better.
        """
        others = self.score.clone()
        for known in leaf.unbind(dim=1):
            others.masked_fill_(self.leaf == known[:, None], -torch.inf)
        both = torch.cat([score, others.double()], dim=1)
        return both.div_(temperature).logsumexp(dim=1)

    def more(self, rows: np.ndarray, other: "Visited") -> "Visited":
        """These, and others that some of the queries were compared with besides."""
        added = other.leaf.shape[1]
        leaf = torch.nn.functional.pad(self.leaf, (0, added), value=-1)
        score = torch.nn.functional.pad(self.score, (0, added), value=-torch.inf)
        leaf[rows, -added:], score[rows, -added:] = other.leaf, other.score
        return Visited(leaf, score, self.error)


class TreeLists:
    """Lists that follow a tree."""

    def __init__(self, model: ScoringModel, index: Index, *, level: int, probes: int) -> None:
        """index: with a list for each cell of the level. probes: lists to visit where nobody says how many."""
        self.level = level
        self.probes = probes
        self.sizes = list_sizes(index)
        self._index = index
        self._error = model.longest * float32_error(model.leaf_width) + code_error(index, model.longest)

    @classmethod
    def of(cls, searched: Searched) -> "TreeLists":
        """A bundle's own lists; made now from its vectors and ranges where its index is flat."""
        model, index, beam = searched.model, searched.leaf_index, searched.beam
        if beam is None:
            queries = stand_ins(model)
            level, probes = choose_beam(model, queries, best_of_all(model, searched.leaf_vectors, queries)[:, 0])
        else:
            level, probes = beam.level, beam.probes
        if not list_count(index):
            index = list_index(model, searched.leaf_vectors, level)
        return cls(model, index, level=level, probes=probes)

    def __len__(self) -> int:
        return len(self.sizes)

    def nearest(self, queries: np.ndarray, probes: int) -> np.ndarray:
        """The lists whose heads score best: (Q, probes) int64; queries: (Q, leaf_width) float32."""
        return nearest_lists(self._index, queries, probes)

    def look(self, queries: np.ndarray, n: int, *, probes: int) -> Candidates:
        """The n best leaves below the best `probes` heads."""
        score, leaf = search_index(self._index, queries, n, probes=probes)
        score = np.where(leaf < 0, -np.inf, score)
        error = self._errors(queries)
        return Candidates(*(torch.from_numpy(each) for each in (leaf, score, error, score[:, -1] + error)))

    def visit(self, queries: np.ndarray, lists: np.ndarray) -> Visited:
        """All leaves of chosen lists, (Q, P) int64, -1 for none."""
        begins, scores, leaves = rows_in_lists(self._index, queries, lists)
        lengths = np.diff(begins)
        present = np.arange(lengths.max(initial=0)) < lengths[:, None]
        leaf, score = np.full(present.shape, -1, np.int64), np.full(present.shape, -np.inf, np.float32)
        leaf[present], score[present] = leaves, scores
        return Visited(*(torch.from_numpy(each) for each in (leaf, score, self._errors(queries))))

    def blocks(self, lists: np.ndarray) -> Iterator[slice]:
        """Queries that can visit these lists, (Q, P) int64, in bounded memory."""
        most = int(self.sizes[lists].sum(axis=1).max(initial=1))
        step = max(1, _HELD // most)
        for start in range(0, len(lists), step):
            yield slice(start, start + step)

    def _errors(self, queries: np.ndarray) -> np.ndarray:
        return np.linalg.norm(queries.astype(np.float64), axis=1) * self._error
