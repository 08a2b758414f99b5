"""The exactly best of all leaves that were looked at: proven, in a fixed order.

A first look over the leaf vectors finds candidates in few bits. Those that could be among the best are scored again in
float64 from the level vectors themselves, and an answer is taken only when the errors of the first look cannot have
hidden a better leaf; else it looks for more candidates. Equal scores are ordered by leaf, which is S2 order.

Where all leaves are looked at (`search.retrieval.scan`) the answer is exact; where some lists are
(`search.retrieval.lists`) it is the best leaf of those lists.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from indexer.bundles.leaf_index import SPARE
from indexer.vectors.scoring import ScoringModel

_HELD = 1 << 23  # candidates held at once, over all queries: 100 MB
# Numbers gathered at once: on a CPU 8 MB of float64, which stays in its cache; on a GPU what keeps it busy.
_NUMBERS = {"cpu": 1 << 20, "cuda": 1 << 28}


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """What a first look found for Q queries, n leaves each."""

    leaf: torch.Tensor  # (Q, n) int64, -1 where there is none
    score: torch.Tensor  # (Q, n) float32, descending; minus infinity where there is none
    error: torch.Tensor  # (Q,) float64, how far a score can be from its float64 value
    # (Q,) float64, what no other leaf that was looked at can score above; minus infinity where there is no other
    ceiling: torch.Tensor

    def of(self, rows: torch.Tensor) -> "Candidates":
        """Those of some of the queries."""
        return Candidates(self.leaf[rows], self.score[rows], self.error[rows], self.ceiling[rows])


# A first look over some leaves: at least the best leaf, at most n, for each of the queries of these numbers.
Look = Callable[[torch.Tensor, int], Candidates]


class LeafScores:
    """v . G_r + b_r from the level vectors themselves (`indexer.vectors.scoring.scores_of` is the same in numpy)."""

    def __init__(self, model: ScoringModel, device: torch.device) -> None:
        self.n_leaves = model.n_leaves
        self.device = device
        self._levels = [tensor_of(vectors).to(device) for vectors in model.geocells.vectors]
        self._ancestors = tensor_of(model.ancestors).to(device)
        self._scales = model.scales.tolist()
        self._bias = None if model.bias is None else torch.from_numpy(model.bias).to(device)

    def __call__(self, queries: torch.Tensor, row: torch.Tensor, leaf: torch.Tensor) -> torch.Tensor:
        """Scores of pairs of a query and a leaf.

        queries: (Q, D) float32. row, leaf: (P,) int64. Returns (P,) float64; a pair's score is the same in any company.
        """
        return torch.cat([self._block(queries, *part) for part in pair_blocks(row, leaf, width=queries.shape[1])])

    def _block(self, queries: torch.Tensor, row: torch.Tensor, leaf: torch.Tensor) -> torch.Tensor:
        wide = queries.index_select(0, row).double()
        total = torch.zeros(len(leaf), dtype=torch.float64, device=self.device)
        for level, (vectors, scale) in enumerate(zip(self._levels, self._scales, strict=True)):
            cells = vectors.index_select(0, self._ancestors[:, level].index_select(0, leaf))
            total += scale * (wide * cells).sum(dim=1)
        return total if self._bias is None else total + self._bias[leaf]


def pair_blocks(row: torch.Tensor, leaf: torch.Tensor, *, width: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Pairs of a query and a leaf, (P,) int64 each, as many at a time as vectors of them fit."""
    step = max(1, _NUMBERS[row.device.type] // width)
    return zip(torch.split(row, step), torch.split(leaf, step), strict=True)


def tensor_of(array: np.ndarray) -> torch.Tensor:
    """An array as a tensor that shares its memory; not to be written to."""
    with warnings.catch_warnings():
        # Bundles keep their arrays read-only, which torch has no word for.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def first_look(k: int, n_leaves: int) -> int:
    """How many candidates are looked for at first, to find the k best."""
    return min(k + SPARE, n_leaves)


def best_leaves(queries: torch.Tensor, *, look: Look, scores: LeafScores, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k best leaves of each query, of those that `look` sees.

    queries: (Q, D) float32, finite. k: at most the number of leaves. Returns leaves (Q, k) int64, and scores
    v . G_r + b_r (Q, k) float64, descending; -1 and minus infinity where fewer leaves were looked at.
    """
    leaves = torch.full((len(queries), k), -1, device=queries.device)
    best = torch.full((len(queries), k), -torch.inf, dtype=torch.float64, device=queries.device)
    undecided = torch.arange(len(queries), device=queries.device)
    n = first_look(k, scores.n_leaves)
    while len(undecided):
        open_rows = []
        for rows in torch.split(undecided, max(1, _HELD // n)):
            found = look(rows, n)
            leaves[rows], best[rows] = _in_order(queries[rows], found, scores, k)
            open_rows.append(rows[(best[rows, -1] <= found.ceiling) & ~found.ceiling.isinf()])
        if n == scores.n_leaves:
            break  # all leaves were candidates
        undecided = torch.cat(open_rows)
        n = min(4 * n, scores.n_leaves)
    return leaves, best


def _in_order(
    queries: torch.Tensor, found: Candidates, scores: LeafScores, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k best candidates by their float64 scores, equals by number."""
    low, error = found.score.double(), found.error[:, None]
    # At least k candidates score as high as this, so those that cannot reach it need no second look.
    surely = low[:, k - 1 : k] - error
    needed = (low + error >= surely) & (found.leaf >= 0)
    row, place = needed.nonzero(as_tuple=True)
    exact = torch.full_like(low, -torch.inf)
    exact[row, place] = scores(queries, row, found.leaf[row, place])
    leaf = found.leaf.masked_fill(~needed, scores.n_leaves)  # after all others
    leaf, order = leaf.sort(dim=1)
    exact, order = exact.gather(1, order).sort(dim=1, descending=True, stable=True)
    leaf = leaf.gather(1, order)[:, :k]
    return leaf.masked_fill(leaf == scores.n_leaves, -1), exact[:, :k]


def float32_error(width: int) -> float:
    """How far a float32 inner product of `width` terms can be from the float64 value, in units of |v| |G|.

    It errs by at most D u |v| |G| in any order of summation (u = 2**-24), and rounding G to float32 adds u |v| |G|
    (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
    """
    gamma = (width + 2) * 2.0**-24
    return gamma / (1 - gamma)
