"""What a score means: the product over levels of the softmax probability of the cell that contains a finest cell.

    p_l(c | v) = softmax over all cells c of level l of (v . E_l[c] / tau_l)
    score(r | v) = product over l of p_l(anc_l(r) | v) ** lambda_l  *  (n_r / n) ** beta

(paper section III-D. Its first version says cosine similarity and multiplies; notes of others on the second say softmax
probabilities. These are taken: two negative cosines would multiply to a large score.) n_r of
all n photos lie in leaf r; the prior exponent beta is 0 unless it was fitted. A level's normaliser does not depend on
r, so ranking by the product is ranking by v . G_r + b_r, where the leaf vector G_r is the sum over l of
lambda_l * E_l[anc_l(r)] / tau_l, and the bias b_r is beta * log(n_r / n). A bias is one more dimension of G_r, where
queries hold a 1. The classes of a classifier have logits v . E_l[c] / tau_l + bias_l[c], with E_l[c] of any length;
their biases are added up to b_r as their vectors are to G_r. Everything here is worked in logs and float64: it is the
reference that every faster way of searching is tested against.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from indexer.errors import InputError
from indexer.vectors.geocells import Geocells

CosineKind = Literal["clamped", "affine"]
_ROWS = 1 << 14  # leaf vectors made at once in float64: 100 MB at 768 dims


@dataclass(frozen=True, slots=True, eq=False)
class ScoringModel:
    """Geocell vectors and the hierarchy of their cells: all that a score depends on beside the photo."""

    geocells: Geocells
    ancestors: np.ndarray  # (leaves, L) int64
    n_photos: np.ndarray  # (leaves,) int64, positive
    all_photos: int | None = None  # of which these are some, where leaves were left out; None: these are all

    @property
    def n_leaves(self) -> int:
        """How many finest cells there are."""
        return len(self.ancestors)

    @property
    def scales(self) -> np.ndarray:
        """lambda_l / tau_l of each level: (L,) float64."""
        return np.asarray(self.geocells.level_weights / self.geocells.temperatures)

    @property
    def prior(self) -> np.ndarray | None:
        """What the number of photos adds to the score of each leaf: (leaves,) float64; None where it does not count."""
        if not self.geocells.prior_exponent:
            return None
        return np.asarray(self.geocells.prior_exponent * np.log(self.n_photos / self._total))

    @property
    def bias(self) -> np.ndarray | None:
        """b_r of each leaf: (leaves,) float64, the prior and the biases of classes; None where there are neither."""
        if self.geocells.biases is None:
            return self.prior
        levels = zip(self.geocells.level_weights, self.geocells.biases, self.ancestors.T, strict=True)
        of_classes = np.sum([weight * biases[cells].astype(np.float64) for weight, biases, cells in levels], axis=0)
        return np.asarray(of_classes if self.prior is None else of_classes + self.prior)

    @property
    def has_bias(self) -> bool:
        """Whether leaf vectors have a bias."""
        return bool(self.geocells.prior_exponent) or self.geocells.biases is not None

    @property
    def _total(self) -> int:
        return int(self.n_photos.sum()) if self.all_photos is None else self.all_photos

    def only(self, leaves: np.ndarray) -> "ScoringModel":
        """The same scores of some of the leaves, (R,) int64, which are numbered anew in that order."""
        return replace(self, ancestors=self.ancestors[leaves], n_photos=self.n_photos[leaves], all_photos=self._total)

    @property
    def leaf_width(self) -> int:
        """Dimensions of a leaf vector, the bias included."""
        return self.geocells.width + self.has_bias

    @property
    def longest(self) -> float:
        """What no leaf vector is longer than, the bias included."""
        lengths = np.full(len(self.scales), 1.001)  # geocell vectors are of norm 1 to within a thousandth
        if self.geocells.biases is not None:
            lengths *= [np.linalg.norm(level.astype(np.float64), axis=1).max() for level in self.geocells.vectors]
        within, bias = lengths @ np.abs(self.scales), self.bias
        return float(within if bias is None else np.hypot(within, np.abs(bias).max()))

    def extended(self, queries: np.ndarray) -> np.ndarray:
        """Queries (Q, D) as they meet leaf vectors: with a 1 where there is a bias, (Q, leaf_width) float32."""
        if not self.has_bias:
            return queries
        return np.concatenate([queries, np.ones((len(queries), 1), np.float32)], axis=1)


def leaf_vectors(model: ScoringModel) -> np.ndarray:
    """G, with the bias as its last column where there is one: (leaves, leaf_width) float32.

    The inner product with an extended query is the log of the product up to a constant of the query.
    """
    result = np.empty((model.n_leaves, model.leaf_width), np.float32)
    for start in range(0, model.n_leaves, _ROWS):
        ancestors = model.ancestors[start : start + _ROWS]
        rows = np.zeros((len(ancestors), model.geocells.width))
        for level, vectors in enumerate(model.geocells.vectors):
            rows += model.scales[level] * vectors[ancestors[:, level]].astype(np.float64)
        result[start : start + _ROWS, : model.geocells.width] = rows
    if (bias := model.bias) is not None:
        result[:, -1] = bias
    return result


def level_log_probabilities(model: ScoringModel, queries: np.ndarray, *, level: int) -> np.ndarray:
    """Log of p_l(c | v) for every cell c of one level.

    queries: (Q, D), norm at most 1. Returns (Q, N_l) float64.
    """
    vectors, biases = model.geocells.vectors[level].astype(np.float64), model.geocells.biases
    logits = queries.astype(np.float64) @ vectors.T / model.geocells.temperatures[level]
    return log_softmax(logits if biases is None else logits + biases[level])


def log_product(model: ScoringModel, queries: np.ndarray) -> np.ndarray:
    """Log of the product of similarities for every leaf, by brute force: (Q, leaves) float64."""
    result = np.zeros((len(queries), model.n_leaves))
    for level, weight in enumerate(model.geocells.level_weights):
        probabilities = level_log_probabilities(model, queries, level=level)
        result += weight * probabilities[:, model.ancestors[:, level]]
    return result if model.prior is None else result + model.prior


def check_cosines(model: ScoringModel) -> None:
    """Raise InputError where cells are the classes of a classifier."""
    if model.geocells.biases is not None:
        raise InputError("`score` multiplies cosines, which the classes of a classifier do not have. Use product.")


def cosine_product(model: ScoringModel, queries: np.ndarray, *, kind: CosineKind) -> np.ndarray:
    """The product over levels of raw cosines, by brute force: (Q, leaves) float64; for comparison only.

    A cosine c counts as max(c, 0) where `clamped`, as (1 + c) / 2 where `affine`: as they are, two negative ones would
    multiply to a large score. Weights and prior act as in the product of softmaxes; temperatures have no part in it.
    This does not collapse into one inner product: all cells of all levels are compared. InputError for classes.
    """
    check_cosines(model)
    logs = np.zeros((len(queries), model.n_leaves))
    for level, (vectors, weight) in enumerate(zip(model.geocells.vectors, model.geocells.level_weights, strict=True)):
        if not weight:
            continue  # and not 0 * log(0)
        cosine = queries.astype(np.float64) @ vectors.T.astype(np.float64)
        factor = np.maximum(cosine, 0) if kind == "clamped" else np.maximum((1 + cosine) / 2, 0)
        with np.errstate(divide="ignore"):
            logs += weight * np.log(factor)[:, model.ancestors[:, level]]
    return np.exp(logs if model.prior is None else logs + model.prior)


def scores_of(model: ScoringModel, queries: np.ndarray, leaves: np.ndarray) -> np.ndarray:
    """Scores v . G_r + b_r in float64 for chosen leaves of each query; a leaf's is the same wherever it stands.

    queries: (Q, D). leaves: (Q, K) int64. Returns (Q, K) float64.
    """
    wide = queries.astype(np.float64)
    result = np.zeros(leaves.shape)
    for level, vectors in enumerate(model.geocells.vectors):
        # In float64 before it is summed up: einsum converts in blocks that end anywhere in a row, and rounds there.
        chosen = vectors[model.ancestors[leaves, level]].astype(np.float64)
        result += model.scales[level] * np.einsum("qd,qkd->qk", wide, chosen)
    return result if (bias := model.bias) is None else result + bias[leaves]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log of the softmax over the last axis, in float64."""
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
