"""What a score means: the product over levels of the softmax probability of the cell that contains a finest cell.

    p_l(c | v) = softmax over all cells c of level l of (v . E_l[c] / tau_l)
    score(r | v) = product over l of p_l(anc_l(r) | v) ** lambda_l

(paper section III-D; softmax probabilities, not raw cosines: two negative cosines multiply to a large score). A level's
normaliser does not depend on r, so ranking by the product is ranking by v . G_r with the leaf vector
G_r = sum over l of lambda_l * E_l[anc_l(r)] / tau_l. Everything here is worked in logs and float64: it is the reference
that every faster way of searching is tested against.
"""

from dataclasses import dataclass

import numpy as np

from indexer.geocells import Geocells


@dataclass(frozen=True, slots=True, eq=False)
class ScoringModel:
    """Geocell vectors and the tree over them: all that a score depends on beside the photo."""

    geocells: Geocells
    ancestors: np.ndarray  # (leaves, L) int64

    @property
    def n_leaves(self) -> int:
        """How many finest cells there are."""
        return len(self.ancestors)

    @property
    def scales(self) -> np.ndarray:
        """lambda_l / tau_l of each level: (L,) float64."""
        return np.asarray(self.geocells.level_weights / self.geocells.temperatures)


def leaf_vectors(model: ScoringModel) -> np.ndarray:
    """G: (leaves, D) float32, so that v . G_r is the log of the product up to a constant of v."""
    result = np.zeros((model.n_leaves, model.geocells.width))
    for level, vectors in enumerate(model.geocells.vectors):
        result += model.scales[level] * vectors[model.ancestors[:, level]].astype(np.float64)
    return result.astype(np.float32)


def level_log_probabilities(model: ScoringModel, queries: np.ndarray, *, level: int) -> np.ndarray:
    """Log of p_l(c | v) for every cell c of one level.

    queries: (Q, D), norm at most 1. Returns (Q, N_l) float64.
    """
    vectors = model.geocells.vectors[level].astype(np.float64)
    return log_softmax(queries.astype(np.float64) @ vectors.T / model.geocells.temperatures[level])


def log_product(model: ScoringModel, queries: np.ndarray) -> np.ndarray:
    """Log of the product of similarities for every leaf, by brute force: (Q, leaves) float64."""
    result = np.zeros((len(queries), model.n_leaves))
    for level, weight in enumerate(model.geocells.level_weights):
        probabilities = level_log_probabilities(model, queries, level=level)
        result += weight * probabilities[:, model.ancestors[:, level]]
    return result


def scores_of(model: ScoringModel, queries: np.ndarray, leaves: np.ndarray) -> np.ndarray:
    """Scores v . G_r in float64 for chosen leaves of each query.

    queries: (Q, D). leaves: (Q, K) int64. Returns (Q, K) float64.
    """
    wide = queries.astype(np.float64)
    result = np.zeros(leaves.shape)
    for level, vectors in enumerate(model.geocells.vectors):
        chosen = vectors[model.ancestors[leaves, level]]
        result += model.scales[level] * np.einsum("qd,qkd->qk", wide, chosen, optimize=True)
    return result


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log of the softmax over the last axis, in float64."""
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
