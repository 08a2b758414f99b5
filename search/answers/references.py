"""Reference photos of an answer: which of the answering cell's typical photos look most like the query.

They explain an answer, and may refine it: a cell is as large as a region where photos are few, and the most similar of
its photos says where in it. Similarity is the cosine of the two vectors as they meet geocells.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from indexer.bundles.bundle import Bundle

_VECTORS = 1 << 22  # numbers of reference vectors looked at together: 16 MB of float32


@dataclass(frozen=True, slots=True, eq=False)
class SimilarPhotos:
    """The reference photos of Q answers, the most similar first; None and NaN where a cell has fewer than K."""

    photo: np.ndarray  # (Q, K) str
    lat_deg: np.ndarray  # (Q, K) float64
    lng_deg: np.ndarray  # (Q, K) float64
    cosine: np.ndarray  # (Q, K) float64


class ReferencePhotos:
    """The reference photos of a bundle that has some, by leaf."""

    def __init__(self, bundle: Bundle) -> None:
        assert bundle.references is not None, "`SearchOptions.check` refuses bundles without"
        table = bundle.references.combine_chunks()
        self._begins = np.searchsorted(table["leaf"].to_numpy(), np.arange(bundle.model.n_leaves + 1))
        vectors = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        self._vectors = vectors.reshape(table.num_rows, -1)
        self._lat_deg, self._lng_deg = table["lat"].to_numpy(), table["lng"].to_numpy()
        self._photo = table["photo"]

    def most_similar(self, queries: np.ndarray, leaves: np.ndarray, k: int) -> SimilarPhotos:
        """The k most similar reference photos of one leaf for each query; of equals the more typical one.

        queries: (Q, D) float32, as they meet geocells. leaves: (Q,) int64.
        """
        row, cosine = np.full((len(queries), k), -1), np.full((len(queries), k), np.nan)
        counts = np.diff(self._begins)[leaves]
        most = max(1, int(counts.max(initial=1)))
        step = max(1, _VECTORS // (most * queries.shape[1]))
        for start in range(0, len(queries), step):
            block = slice(start, start + step)
            rows = self._begins[leaves[block], None] + np.arange(most)
            there = np.arange(most) < counts[block, None]
            vectors = self._vectors[np.where(there, rows, 0)].astype(np.float32)
            own = np.linalg.norm(queries[block], axis=1)[:, None] * np.linalg.norm(vectors, axis=2)
            likeness = np.einsum("qd,qkd->qk", queries[block], vectors) / np.maximum(own, np.finfo(np.float32).tiny)
            likeness = np.where(there, likeness, -np.inf)
            order = np.argsort(-likeness, axis=1, kind="stable")[:, :k]
            found = np.take_along_axis(likeness, order, axis=1)
            width = order.shape[1]
            row[block, :width] = np.where(found > -np.inf, np.take_along_axis(rows, order, axis=1), -1)
            cosine[block, :width] = np.where(found > -np.inf, found, np.nan)
        names = self._photo.take(pa.array(row.ravel(), mask=row.ravel() < 0)).to_pylist()
        lat, lng = (np.where(row < 0, np.nan, degrees[row]) for degrees in (self._lat_deg, self._lng_deg))
        return SimilarPhotos(np.array(names, object).reshape(row.shape), lat, lng, cosine)
