"""Raw cosines in place of softmax probabilities: the other reading of "product of similarities", for comparison only.

Brute force over all cells of all levels, because this product does not collapse into one inner product. Its scores are
the products themselves, and a probability is a leaf's share of their sum, with no temperature.
"""

from collections.abc import Mapping

import numpy as np

from indexer.errors import InputError
from indexer.vectors.scoring import CosineKind, ScoringModel, check_cosines, cosine_product
from search.retrieval.found import ALL_LEAVES, NOTHING_ELSE, Hits, Wanted, joined_hits

_SCORES = 1 << 22  # held at once: 32 MB of float64


class CosineSearch:
    """Compares all cells of all levels."""

    counts = ALL_LEAVES

    def __init__(self, model: ScoringModel, kind: CosineKind) -> None:
        check_cosines(model)
        self.facts: Mapping[str, int] = {}
        self._model = model
        self._kind = kind
        self.name = f"cosine-{kind}"

    def __call__(self, queries: np.ndarray, k: int, wanted: Wanted = NOTHING_ELSE) -> Hits:
        """As `Search`; a probability is a share of the sum, whatever the temperature.

        Raises:
            InputError: posteriors are wanted; a share of a sum of cosines is no probability that could be calibrated.
        """
        if wanted.left_out is not None:
            raise InputError(f"`score` {self.name} has no radii or maps: products of cosines are no probabilities.")
        step = max(1, _SCORES // self._model.n_leaves)
        parts = [self._block(queries[start : start + step], k) for start in range(0, len(queries), step)]
        return joined_hits(parts, k)

    def _block(self, queries: np.ndarray, k: int) -> Hits:
        product = cosine_product(self._model, queries, kind=self._kind)
        leaf = np.argsort(-product, axis=1, kind="stable")[:, :k]
        score = np.take_along_axis(product, leaf, axis=1)
        total = product.sum(axis=1, keepdims=True)
        # Clamped cosines may multiply to 0 everywhere: then no leaf is likelier than another.
        share = np.divide(score, total, out=np.full(score.shape, 1 / self._model.n_leaves), where=total > 0)
        return Hits(leaf, score, share, np.full(len(queries), self.name))
