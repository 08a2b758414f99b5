"""What queries were answered with."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """Answers to Q queries, the best first."""

    leaf: np.ndarray  # (Q, K) int64, finest cells
    score: np.ndarray  # (Q, K) float64, v . G_r + b_r, descending; the product itself where cosines are multiplied
    # (Q, K) float64, softmax of score / T over the leaves that count, times what they were calibrated to add up to; NaN
    # if not asked for
    probability: np.ndarray
    mode: (
        np.ndarray
    )  # (Q,) str, how each was found: 'exact', 'beam', 'adaptive-proved', 'adaptive-budget', 'cosine-...'
