"""What a search finds, whatever its mode."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from search.posterior import Posterior

ALL_LEAVES, VISITED_LEAVES = "all leaves", "visited leaves"


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """The k best leaves of Q queries."""

    leaf: np.ndarray  # (Q, k) int64
    score: np.ndarray  # (Q, k) float64, descending
    probability: np.ndarray  # (Q, k) float64, softmax of score / T over the leaves that count; NaN if not asked for
    mode: np.ndarray  # (Q,) str, how each was found

    def replaced(self, rows: np.ndarray, other: "Found") -> "Found":
        """The same with other answers to some of the queries."""
        return Found(
            _replaced(self.leaf, rows, other.leaf),
            _replaced(self.score, rows, other.score),
            _replaced(self.probability, rows, other.probability),
            _replaced(self.mode, rows, other.mode),
        )


def joined(parts: Sequence[Found], k: int) -> Found:
    """Answers to one block of queries after another."""
    if not parts:
        return Found(np.empty((0, k), np.int64), np.empty((0, k)), np.empty((0, k)), np.empty(0, str))
    return Found(
        np.concatenate([part.leaf for part in parts]),
        np.concatenate([part.score for part in parts]),
        np.concatenate([part.probability for part in parts]),
        np.concatenate([part.mode for part in parts]),
    )


def _replaced(one: np.ndarray, rows: np.ndarray, two: np.ndarray) -> np.ndarray:
    result = one.copy()
    result[rows] = two
    return result


class Search(Protocol):
    """A way to search one bundle."""

    name: str  # of the mode
    counts: str  # the leaves that a probability counts: ALL_LEAVES or VISITED_LEAVES
    facts: Mapping[str, int]  # numbers that it was set to

    def __call__(self, queries: np.ndarray, k: int, *, temperature: float | None) -> Found:
        """The k best leaves of queries (Q, D) float32 as they meet geocells; no probabilities where T is None."""
        ...

    def posterior(self, queries: np.ndarray, *, temperature: float, k: int, left_out: float) -> Posterior:
        """Probabilities over the leaves that count when the k best are asked for.

        left_out: as for `posterior_of`.

        Raises:
            InputError: this search has none.
        """
        ...
