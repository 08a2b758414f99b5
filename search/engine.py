"""The engine: an opened bundle that answers vectors with places.

In: vectors of photos, from the encoder the bundle was built for. Out: the best finest cells with their scores and
probabilities, and on request the path of cells above each answer.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from encoder.config import DeviceName
from encoder.device import choose_device
from indexer.bundle import Bundle, open_bundle
from indexer.errors import ArtifactError, BundleMismatch, InputError
from indexer.registry import Registry
from indexer.scoring import level_log_probabilities
from search.found import Search
from search.modes import DEFAULT_OPTIONS, SearchOptions, open_search


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """Answers to Q queries, the best first."""

    leaf: np.ndarray  # (Q, K) int64, finest cells
    score: np.ndarray  # (Q, K) float64, v . G_r + b_r, descending; the product itself where cosines are multiplied
    probability: np.ndarray  # (Q, K) float64, softmax of the score over the leaves that count; NaN if not asked for
    mode: (
        np.ndarray
    )  # (Q,) str, how each was found: 'exact', 'beam', 'adaptive-proved', 'adaptive-budget', 'cosine-...'


@dataclass(frozen=True, slots=True, eq=False)
class Paths:
    """The cells above one answer to each of Q queries, coarsest first."""

    cell: np.ndarray  # (Q, L) int64, the cell of each level
    probability: np.ndarray  # (Q, L) float64, its softmax probability within its level


class Engine:
    """Answers from one bundle for as long as it lives, whatever is published meanwhile; one call at a time.

    Searches keep room for scores from call to call, so threads need an engine each; they share the bundle's memory.
    """

    def __init__(self, bundle: Bundle, *, device: DeviceName = "cpu", options: SearchOptions = DEFAULT_OPTIONS) -> None:
        self.bundle = bundle
        self.device = device
        self.options = options
        self._where = choose_device(device)

    @cached_property
    def _search(self) -> Search:
        """Opened by the thread that searches, when it first does.

        Each thread that runs torch on several cores has a pool of threads for it; with more threads than cores they
        sleep between one operation and the next, and a search takes half as long again.
        """
        return open_search(self.bundle, self.options, device=self._where)

    @classmethod
    def open(
        cls,
        registry: Path,
        *,
        version: str | None = None,
        device: DeviceName = "cpu",
        options: SearchOptions = DEFAULT_OPTIONS,
    ) -> "Engine":
        """Open the current version of a registry, or the one named.

        Raises:
            InputError: no registry, nothing published, no such version, or no GPU for `cuda`.
            ArtifactError: the bundle is damaged.
        """
        home = Registry(registry)
        while True:
            folder = home.resolve(version)
            try:
                return cls(open_bundle(folder), device=device, options=options)
            except ArtifactError:
                # Between the two another version was published and this one retired: then there is a current one.
                if version is not None or home.current == folder.name:
                    raise

    @property
    def counts(self) -> str:
        """The leaves that a probability counts: 'all leaves' or 'visited leaves'."""
        return self._search.counts

    @property
    def search_facts(self) -> dict[str, Any]:
        """How it searches, for a run's manifest."""
        return {
            "mode": self._search.name,
            "score": self.options.score,
            "probability_over": self.counts,
            **self._search.facts,
        }

    @property
    def calibrated(self) -> bool:
        """Whether probabilities were calibrated on held-out photos."""
        return self.bundle.temperature is not None

    def check_encoder(self, encoder: str | None, *, source: str) -> None:
        """Refuse vectors of another encoder than the bundle's.

        Raises:
            BundleMismatch: both encoders are known and differ.
        """
        built_for = self.bundle.encoder
        if encoder is not None and built_for is not None and encoder != built_for:
            raise BundleMismatch(
                f"{source}: its encoder is {encoder[:8]}, the bundle {self.bundle.version[:8]} was built for "
                f"{built_for[:8]}. Use that encoder, or build a bundle for this one: "
                "python -m indexer build --checkpoint ..."
            )

    def check_k(self, k: int) -> None:
        """Refuse a number of answers that cannot be given.

        Raises:
            InputError: k is not between 1 and the number of leaves.
        """
        n_leaves = self.bundle.model.n_leaves
        if not 1 <= k <= n_leaves:
            raise InputError(f"top-k must be from 1 to {n_leaves}, the number of finest cells, not {k}.")

    def search(self, vectors: np.ndarray, *, k: int = 1, probability: bool = True) -> Hits:
        """The k best finest cells of each vector, as the engine's options have it.

        vectors: (Q, D) float32; unit vectors, or their mean over crops (not renormalised). Without probabilities it
        is faster where processors multiply bfloat16.

        Raises:
            InputError: wrong width, a value that is not finite, or k not between 1 and the number of leaves.
        """
        return self.search_prepared(self.prepared(vectors), k=k, probability=probability)

    def search_prepared(self, queries: np.ndarray, *, k: int, probability: bool = True) -> Hits:
        """The same for vectors as they are compared: what `prepared` gives, or sums of it.

        Raises:
            InputError: k is not between 1 and the number of leaves.
        """
        self.check_k(k)
        found = self._search(queries, k, temperature=(self.bundle.temperature or 1.0) if probability else None)
        return Hits(found.leaf, found.score, found.probability, found.mode)

    def paths(self, vectors: np.ndarray, leaves: np.ndarray) -> Paths:
        """The way down to one leaf for each vector, with p_l of the paper at every level.

        vectors: (Q, D) float32. leaves: (Q,) int64.
        """
        model, queries = self.bundle.model, self.prepared(vectors)
        cell = model.ancestors[leaves]
        probability = np.empty(cell.shape)
        for level in range(cell.shape[1]):
            logs = level_log_probabilities(model, queries, level=level)
            probability[:, level] = np.exp(np.take_along_axis(logs, cell[:, level : level + 1], axis=1))[:, 0]
        return Paths(cell, probability)

    def prepared(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors (Q, D) as they are compared: checked, and transformed where the bundle's geocells are.

        Raises:
            InputError: wrong width, or a value that is not finite.
        """
        model = self.bundle.model
        if vectors.ndim != 2 or vectors.shape[1] != model.geocells.width:
            raise InputError(
                f"Vectors of shape {vectors.shape}; this bundle takes (n, {model.geocells.width}). "
                "Were they made by another encoder?"
            )
        wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if wrong.size:
            raise InputError(f"{wrong.size} vectors hold values that are not finite, the first in row {wrong[0]}.")
        return model.geocells.compared(np.ascontiguousarray(vectors, np.float32))
