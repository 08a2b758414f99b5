"""What a search is opened from, what it is, and what it finds, whatever its mode."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from indexer.bundles.bundle import Bundle
from indexer.bundles.faiss_index import Index, Precision, flat_index, is_exact, rows_of
from indexer.bundles.leaf_index import Beam
from indexer.vectors.scoring import ScoringModel, leaf_vectors
from search.retrieval.posterior import Posterior, joined_posteriors

ALL_LEAVES, VISITED_LEAVES = "all leaves", "visited leaves"
LISTED = 1 << 23  # leaves in the posteriors of one call: 130 MB
WITH_PHOTOS = 2048  # queries whose photos are looked at together: they look at the same lists
_VISITING = 1024  # queries of one call where a posterior has no more leaves than were visited


@dataclass(frozen=True, slots=True, eq=False)
class Searched:
    """The leaves that a search compares, and their index: of a whole bundle, or of some of its leaves."""

    model: ScoringModel
    leaf_index: Index  # of this model's leaf vectors
    beam: Beam | None  # None: it is chosen when it is searched from coarse to fine
    precision: Precision  # of the bundle's own leaf index: fewer bits were chosen where memory is short

    @classmethod
    def of(cls, bundle: Bundle, *, leaves: np.ndarray | None = None, prior_exponent: float | None = None) -> "Searched":
        """A bundle; leaves: (R,) int64, where only some are allowed. prior_exponent: where another prior counts."""
        model, precision = bundle.model, bundle.index_facts.precision
        if leaves is None and prior_exponent is None:
            return cls(model, bundle.leaf_index, bundle.beam, precision)
        model = with_prior(model, prior_exponent)
        if leaves is not None:
            model = model.only(leaves)
        # The beam that was chosen for all leaves, and for the bundle's prior, says nothing of these.
        return cls(model, flat_index(leaf_vectors(model)), None, precision)

    @property
    def leaf_vectors(self) -> np.ndarray:
        """(leaves, leaf_width) float32: the rows of the leaf index, or made anew where it keeps them in fewer bits."""
        return rows_of(self.leaf_index) if is_exact(self.leaf_index) else leaf_vectors(self.model)


def with_prior(model: ScoringModel, prior_exponent: float | None) -> ScoringModel:
    """The same scores with another prior, where one is given."""
    if prior_exponent is None:
        return model
    return replace(model, geocells=replace(model.geocells, prior_exponent=prior_exponent))


@dataclass(frozen=True, slots=True, eq=False)
class BestLists:
    """The M leaves of Q queries whose lists of photos are worth a look, the best first."""

    leaf: np.ndarray  # (Q, M) int64, -1 where there are fewer
    score: np.ndarray  # (Q, M) float32, in the precision of a first look; minus infinity where there are fewer

    def take(self, queries: np.ndarray) -> "BestLists":
        """Those of some of the queries, by their number, in that order."""
        return BestLists(self.leaf[queries], self.score[queries])


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """The K best leaves of Q queries, the best first."""

    leaf: np.ndarray  # (Q, K) int64, finest cells; -1 where there are fewer
    score: np.ndarray  # (Q, K) float64, v . G_r + b_r, descending; the product itself where cosines are multiplied
    # (Q, K) float64, softmax of score / T over the leaves that count, times what they were calibrated to add up to; NaN
    # if not wanted
    probability: np.ndarray
    mode: np.ndarray  # (Q,) str, how each was found: 'exact', 'beam', 'adaptive-proved', 'cosine-affine' and so on
    posterior: Posterior | None = None  # over all leaves that count; None if not wanted
    lists: BestLists | None = None  # None if not wanted

    def take(self, queries: np.ndarray) -> "Hits":
        """Those of some of the queries, by their number, in that order."""
        posterior = None if self.posterior is None else self.posterior.take(queries)
        lists = None if self.lists is None else self.lists.take(queries)
        leaf, score, probability, mode = (
            column[queries] for column in (self.leaf, self.score, self.probability, self.mode)
        )
        return Hits(leaf, score, probability, mode, posterior, lists)

    def replaced(self, rows: np.ndarray, other: "Hits") -> "Hits":
        """The same with other answers to some of the queries."""
        order = np.arange(len(self.leaf))
        order[rows] = len(self.leaf) + np.arange(len(rows))
        return joined_hits([self, other], self.leaf.shape[1]).take(order)


def joined_hits(parts: Sequence[Hits], k: int) -> Hits:
    """Answers to one block of queries after another."""
    posteriors = [part.posterior for part in parts if part.posterior is not None]
    posterior = joined_posteriors(posteriors) if posteriors or not parts else None
    if not parts:
        no_lists = BestLists(np.empty((0, 0), np.int64), np.empty((0, 0), np.float32))
        nothing = np.empty((0, k), np.int64), np.empty((0, k)), np.empty((0, k)), np.empty(0, str)
        return Hits(*nothing, posterior, no_lists)
    lists = [part.lists for part in parts if part.lists is not None]
    return Hits(
        np.concatenate([part.leaf for part in parts]),
        np.concatenate([part.score for part in parts]),
        np.concatenate([part.probability for part in parts]),
        np.concatenate([part.mode for part in parts]),
        posterior,
        _joined_lists(lists) if lists else None,
    )


def _joined_lists(parts: Sequence[BestLists]) -> BestLists:
    most = max(part.leaf.shape[1] for part in parts)

    def joined(name: str, nothing: float) -> np.ndarray:
        columns = [getattr(part, name) for part in parts]
        wide = [np.pad(each, ((0, 0), (0, most - each.shape[1])), constant_values=nothing) for each in columns]
        return np.concatenate(wide)

    return BestLists(joined("leaf", -1), joined("score", -np.inf))


def best_lists(score: torch.Tensor, n: int, leaf: torch.Tensor | None = None) -> BestLists | None:
    """The n best of leaves by scores (Q, M) float32; None where none are wanted.

    leaf: (Q, M) int64, of which leaf each score is, -1 for none; None: of leaf 0, 1, 2, ...
    """
    if not n:
        return None
    best, place = score.topk(min(n, score.shape[1]))
    found = place if leaf is None else leaf.gather(1, place)
    return BestLists(found.cpu().numpy(), best.cpu().numpy())


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is wanted of queries beside their best leaves, from the same look at the leaves."""

    temperature: float | None = None  # T, with which probabilities are made; None: none are wanted
    left_out: float | None = None  # with T, of posteriors, as for `posterior_of`; None: none are wanted
    n_lists: int = 0  # with posteriors, of how many leaves to look at photos


NOTHING_ELSE = Wanted()


class Search(Protocol):
    """A way to search one bundle."""

    name: str  # of the mode
    counts: str  # the leaves that a probability counts: ALL_LEAVES or VISITED_LEAVES
    facts: Mapping[str, int]  # numbers that it was set to

    def __call__(self, queries: np.ndarray, k: int, wanted: Wanted = NOTHING_ELSE) -> Hits:
        """The k best leaves of queries (Q, D) float32 as they meet geocells, and what else is wanted of them.

        Raises:
            InputError: posteriors are wanted of a search that has none.
        """
        ...


def queries_at_once(counts: str, n_leaves: int) -> int:
    """How many queries of a search, by what it counts, are good to ask for together with their posteriors."""
    return _VISITING if counts.startswith("visited") else max(1, LISTED // n_leaves)
