"""From coarse to fine: lists of leaves that follow the hierarchy, and the search of some. The paper has no such search.

In: the inverted lists of a level (`indexer.bundles.leaf_index`), a list for each of its cells. Out: the lists whose
vectors are nearest to a query, and the leaves of lists that are visited as candidates for `search.retrieval.proof`.
Lists are visited by FAISS on the CPU, on machines with a GPU too, where comparing all leaves is faster.

A beam visits the lists whose vectors score best. How many was chosen when the bundle was built, so that 0.999 of photos
find their best leaf, or is given. An answer is exactly the best leaf of the lists visited, in the same order as in
exact search; a better one may stand in a list that was not visited, and probabilities count the visited leaves only.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
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
from search.retrieval.found import NOTHING_ELSE, VISITED_LEAVES, Hits, Searched, Wanted, best_lists, joined_hits
from search.retrieval.posterior import posterior_of
from search.retrieval.proof import Candidates, LeafScores, best_leaves, float32_error, tensor_of

MODE = "beam"
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


class HierarchyLists:
    """Lists that follow a hierarchy."""

    def __init__(self, model: ScoringModel, index: Index, *, level: int, probes: int) -> None:
        """index: with a list for each cell of the level. probes: lists to visit where nobody says how many."""
        self.level = level
        self.probes = probes
        self.sizes = list_sizes(index)
        self._index = index
        self._error = model.longest * float32_error(model.leaf_width) + code_error(index, model.longest)

    @classmethod
    def of(cls, searched: Searched) -> "HierarchyLists":
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
        """The lists whose list vectors score best: (Q, probes) int64; queries: (Q, leaf_width) float32."""
        return nearest_lists(self._index, queries, probes)

    def look(self, queries: np.ndarray, n: int, *, probes: int) -> Candidates:
        """The n best leaves below the best `probes` list vectors."""
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


class ListSearch(ABC):
    """A search of some lists for each query, up to a limit; where these hold fewer leaves than are wanted, of all."""

    counts = VISITED_LEAVES

    def __init__(self, model: ScoringModel, lists: HierarchyLists, *, limit: int) -> None:
        """limit: lists that are visited at most."""
        self._model = model
        self._lists = lists
        self._limit = limit
        self._scores = LeafScores(model, torch.device("cpu"))

    def __call__(self, queries: np.ndarray, k: int, wanted: Wanted = NOTHING_ELSE) -> Hits:
        """As `Search`."""
        hits = self._hits(queries, k, wanted, self._limit)
        short = np.flatnonzero(hits.leaf[:, -1] < 0)
        if short.size:
            more = self._hits(queries[short], k, wanted, len(self._lists))
            return hits.replaced(short, more)
        return hits

    @abstractmethod
    def _visited(self, queries: np.ndarray, k: int, limit: int) -> Iterator[tuple[slice, Visited, np.ndarray]]:
        """For some queries at a time what is visited, and how each was found: (Q',) str."""

    def _hits(self, queries: np.ndarray, k: int, wanted: Wanted, limit: int) -> Hits:
        """The k best of visited leaves, and their share of all of these."""
        parts = []
        for block, visited, mode in self._visited(queries, k, limit):
            leaf, score = best_leaves(tensor_of(queries[block]), look=visited.best, scores=self._scores, k=k)
            probability, posterior, lists = torch.full_like(score, torch.nan), None, None
            temperature = wanted.temperature
            if temperature is not None:
                total = visited.log_sum(leaf, score, temperature)
                probability = (score / temperature - total[:, None]).exp()
                if wanted.left_out is not None:
                    lists = best_lists(visited.score, wanted.n_lists, visited.leaf)
                    posterior = posterior_of(visited.score.clone(), temperature, visited.leaf, left_out=wanted.left_out)
            parts.append(Hits(leaf.numpy(), score.numpy(), probability.numpy(), mode, posterior, lists))
        return joined_hits(parts, k)


class BeamSearch(ListSearch):
    """Searches the leaves of some lists."""

    name = MODE

    def __init__(self, model: ScoringModel, lists: HierarchyLists, *, probes: int | None = None) -> None:
        """probes: lists to visit; None for as many as were chosen for these."""
        super().__init__(model, lists, limit=min(probes or lists.probes, len(lists)))
        self.facts: Mapping[str, int] = {"level": lists.level, "probes": self._limit}

    def _hits(self, queries: np.ndarray, k: int, wanted: Wanted, limit: int) -> Hits:
        if wanted.temperature is not None:
            return super()._hits(queries, k, wanted, limit)
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
