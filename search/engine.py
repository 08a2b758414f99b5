"""The engine: an opened bundle that answers vectors with places.

In: vectors of photos, from the encoder the bundle was built for. Out: the best finest cells with their scores and
probabilities, and on request the path of cells above each answer.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from indexer.bundle import Bundle, open_bundle
from indexer.errors import ArtifactError, BundleMismatch, InputError
from indexer.faiss_index import GPU_LIMIT, Device, is_exact, list_count, on_device, search_index
from indexer.registry import Registry
from indexer.scoring import level_log_probabilities
from search.approximate import approximate_search
from search.exact import exact_search

EXACT = "exact"  # every leaf was compared; other modes are named by their index, such as 'ivf-fp16'
_BLOCK_SCORES = 1 << 24  # scores held at once while probabilities are normalised: 64 MB of float32


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """Answers to Q queries, the best first."""

    leaf: np.ndarray  # (Q, K) int64, finest cells
    score: np.ndarray  # (Q, K) float64, v . G_r + b_r, descending
    probability: np.ndarray  # (Q, K) float64, softmax of the score over all leaves
    mode: str  # how they were found: 'exact', or the kind of the index that found them


@dataclass(frozen=True, slots=True, eq=False)
class Paths:
    """The cells above one answer to each of Q queries, coarsest first."""

    cell: np.ndarray  # (Q, L) int64, the cell of each level
    probability: np.ndarray  # (Q, L) float64, its softmax probability within its level


class Engine:
    """Answers from one bundle for as long as it lives, whatever is published meanwhile."""

    def __init__(self, bundle: Bundle, *, device: Device = "cpu") -> None:
        self.bundle = bundle
        self._leaf_vectors = bundle.leaf_vectors
        self._on_device = on_device(bundle.leaf_index, device)

    @classmethod
    def open(cls, registry: Path, *, version: str | None = None, device: Device = "cpu") -> "Engine":
        """Open the current version of a registry, or the one named.

        Raises:
            InputError: no registry, nothing published, no such version, or no GPU for `cuda`.
            ArtifactError: the bundle is damaged.
        """
        home = Registry(registry)
        while True:
            folder = home.resolve(version)
            try:
                return cls(open_bundle(folder), device=device)
            except ArtifactError:
                # Between the two another version was published and this one retired: then there is a current one.
                if version is not None or home.current == folder.name:
                    raise

    @property
    def mode(self) -> str:
        """How answers are found: 'exact', or the kind of the index."""
        facts = self.bundle.manifest.facts["leaf_index"]
        return EXACT if is_exact(self.bundle.leaf_index) else f"{facts['kind']}-{facts['precision']}"

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

    def search(self, vectors: np.ndarray, *, k: int = 1) -> Hits:
        """The k best finest cells of each vector; exactly, where the bundle's index is exhaustive (see `mode`).

        vectors: (Q, D) float32; unit vectors, or their mean over crops (not renormalised).

        Raises:
            InputError: wrong width, a value that is not finite, or k not between 1 and the number of leaves.
        """
        self.check_k(k)
        queries = self._prepared(vectors)
        leaf, score = self._find(queries, k)
        log_odds = score / (self.bundle.temperature or 1.0)
        others = self._log_sum_of_others(queries, leaf[:, 0])
        probability = np.exp(log_odds - np.logaddexp(log_odds[:, 0], others)[:, None])
        return Hits(leaf, score, probability, self.mode)

    def paths(self, vectors: np.ndarray, leaves: np.ndarray) -> Paths:
        """The way down to one leaf for each vector, with p_l of the paper at every level.

        vectors: (Q, D) float32. leaves: (Q,) int64.
        """
        model, queries = self.bundle.model, self._prepared(vectors)
        cell = model.ancestors[leaves]
        probability = np.empty(cell.shape)
        for level in range(cell.shape[1]):
            logs = level_log_probabilities(model, queries, level=level)
            probability[:, level] = np.exp(np.take_along_axis(logs, cell[:, level : level + 1], axis=1))[:, 0]
        return Paths(cell, probability)

    def _find(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        model, index = self.bundle.model, self.bundle.leaf_index
        if is_exact(index):
            return exact_search(queries, candidates=self._candidates, leaf_vectors=self._leaf_vectors, model=model, k=k)
        return approximate_search(queries, candidates=self._candidates, n_lists=list_count(index), model=model, k=k)

    def _candidates(self, queries: np.ndarray, n: int, *, probes: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        # More than a GPU can compute is left to the CPU.
        index = self._on_device if max(n, probes or 0) <= GPU_LIMIT else self.bundle.leaf_index
        return search_index(index, self.bundle.model.extended(queries), n, probes=probes)

    def _log_sum_of_others(self, queries: np.ndarray, best: np.ndarray) -> np.ndarray:
        """Log of the sum of exp(score / temperature) over all leaves but the best one: (Q,) float64.

        From float32 scores, to about 1e-5. The best leaf is left to its float64 score, so that no probability can
        round to more than 1 and a probability near 1 is right in what it lacks.
        """
        rows = self._leaf_vectors
        queries = self.bundle.model.extended(queries)
        step = max(1, _BLOCK_SCORES // len(rows))
        result = np.empty(len(queries))
        for start in range(0, len(queries), step):
            scores = queries[start : start + step] @ rows.T
            scores /= np.float32(self.bundle.temperature or 1.0)
            top = scores.max(axis=1, keepdims=True)
            np.put_along_axis(scores, best[start : start + step, None], -np.inf, axis=1)
            total = np.exp(scores - top).sum(axis=1, dtype=np.float64)
            with np.errstate(divide="ignore"):  # a bundle of one leaf has no others
                result[start : start + step] = top[:, 0] + np.log(total)
        return result

    def _prepared(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors as they are compared: checked, and transformed where the bundle's geocells are."""
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
