"""The leaf search: the best leaves of queries, by the mode, the region and the temperatures that options ask for.

In: queries as they meet geocells. Out: their best leaves as the bundle numbers them, with probabilities that add up to
1 over the leaves that count, and on request the posterior over these and the leaves whose photos are worth a look.
"""

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from indexer.bundles.bundle import Bundle
from indexer.bundles.faiss_index import list_count
from indexer.vectors.calibration import Calibration
from search.answers.options import SearchOptions
from search.retrieval.adaptive import AdaptiveSearch
from search.retrieval.cosine import CosineSearch
from search.retrieval.exact import ExactSearch
from search.retrieval.found import ALL_LEAVES, Hits, Search, Searched, Wanted, joined_hits
from search.retrieval.lists import BeamSearch, HierarchyLists


class LeafSearch:
    """How one bundle's leaves are searched."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        options: SearchOptions,
        where: torch.device,
        allowed: np.ndarray | None,
        calibration: Calibration | None,
    ) -> None:
        """allowed: (R,) int64, the leaves that may answer, ascending; None: all. calibration: of temperatures."""
        self._searched = Searched.of(bundle, leaves=allowed, prior_exponent=options.prior_exponent)
        self._options, self._where, self._allowed, self._calibration = options, where, allowed, calibration

    @property
    def n_leaves(self) -> int:
        """How many leaves may answer."""
        return self._searched.model.n_leaves

    @property
    def counts(self) -> str:
        """The leaves that a probability counts: 'all leaves' or 'visited leaves', or the allowed ones among these."""
        counts = self._search.counts
        if self._allowed is None:
            return counts
        return "allowed leaves" if counts == ALL_LEAVES else "visited allowed leaves"

    @property
    def facts(self) -> dict[str, Any]:
        """How it searches, for a run's manifest."""
        options = self._options
        return {
            "mode": self._search.name,
            "score": options.score,
            "probability_over": self.counts,
            "region": options.region,
            "not_region": options.not_region,
            "prior_exponent": self._searched.model.geocells.prior_exponent,
            **self._search.facts,
            **({} if self._allowed is None else {"allowed_leaves": len(self._allowed)}),
        }

    def __call__(
        self,
        queries: np.ndarray,
        *,
        k: int,
        probability: bool = True,
        n_photos: np.ndarray | None = None,
        left_out: float | None = None,
        n_lists: int = 0,
    ) -> Hits:
        """The k best leaves of queries (Q, D) float32 as they meet geocells.

        n_photos: (Q,) int64, how many photos each is a sum of; None: 1. left_out: what leaves that a posterior does not
        list may hold together; None: no posteriors are wanted. n_lists: with these, of how many leaves to look at
        photos.

        Raises:
            InputError: posteriors are wanted where cosines are multiplied.
        """
        wanted = Wanted(left_out=left_out, n_lists=n_lists)
        if probability and len(queries):
            made_of = np.ones(len(queries), np.int64) if n_photos is None else n_photos
            return self._as_in_bundle(self._by_temperature(queries, k, wanted, made_of))
        return self._as_in_bundle(self._search(queries, k, replace(wanted, temperature=1.0 if probability else None)))

    def _by_temperature(self, queries: np.ndarray, k: int, wanted: Wanted, n_photos: np.ndarray) -> Hits:
        """The queries of one temperature at a time."""
        temperatures = np.ones(len(queries)) if self._calibration is None else self._calibration.temperatures(n_photos)
        values, which = np.unique(temperatures, return_inverse=True)
        rows = [np.flatnonzero(which == number) for number in range(len(values))]
        each = zip(rows, values.tolist(), strict=True)
        parts = [self._search(queries[own], k, replace(wanted, temperature=value)) for own, value in each]
        return parts[0] if len(parts) == 1 else joined_hits(parts, k).take(np.argsort(np.concatenate(rows)))

    def _as_in_bundle(self, hits: Hits) -> Hits:
        """The same leaves by their numbers in the bundle."""
        allowed, posterior, lists = self._allowed, hits.posterior, hits.lists
        if allowed is None:
            return hits
        if posterior is not None:
            posterior = replace(posterior, leaf=allowed[posterior.leaf])
        if lists is not None:
            lists = replace(lists, leaf=np.where(lists.leaf < 0, -1, allowed[lists.leaf]))
        leaf = np.where(hits.leaf < 0, -1, allowed[hits.leaf])
        return replace(hits, leaf=leaf, posterior=posterior, lists=lists)

    @cached_property
    def _search(self) -> Search:
        """Opened by the thread that searches, when it first does.

        Each thread that runs torch on several cores has a pool of threads for it; with more threads than cores they
        sleep between one operation and the next, and a search takes half as long again.
        """
        options, searched, model = self._options, self._searched, self._searched.model
        if options.score != "softmax":
            return CosineSearch(model, "clamped" if options.score == "cosine-clamped" else "affine")
        mode = options.mode
        if mode == "auto":
            mode = "beam" if list_count(searched.leaf_index) else "exact"
        if mode == "exact":
            return ExactSearch.of(searched, self._where)
        lists = HierarchyLists.of(searched)
        if mode == "beam":
            return BeamSearch(model, lists, probes=options.probes)
        rows = searched.leaf_vectors
        return AdaptiveSearch(model, lists, rows, probes=options.probes, max_probes=options.max_probes)
