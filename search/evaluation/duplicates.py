"""Near-duplicates between test photos and reference photos: by perceptual hash, and by embedding.

A test photo that is also a reference is remembered, not recognised. Both searches are exhaustive. References stream
past in blocks, so memory holds the test set and one block, whatever their number; of each test photo the nearest
reference is kept and the others are counted.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import faiss
import imagehash
import numpy as np
from PIL import Image

from indexer.errors import BundleMismatch, InputError
from indexer.photos.sources import PhotoTable
from indexer.vectors.cell_sums import unit_rows
from indexer.vectors.features import FeatureBatch, FeatureSource

HASH_BITS = 64
_HASH_EDGE = 8  # imagehash's default: 8 x 8 low frequencies of a 32 x 32 image
_PLAIN = 2.0  # standard deviation of grey values below which an image has nothing to compare: a wall, a black frame
_BLOCK = 4096  # references held at once


class NearestReferences:
    """Of each of N test photos the nearest reference within the limit, and how many there are."""

    def __init__(self, n: int) -> None:
        self.n_references = np.zeros(n, np.int64)
        self.distance = np.full(n, np.inf)  # differing bits, or 1 - cosine; inf where there is none
        self.reference: list[str | None] = [None] * n
        self.lat_deg, self.lng_deg = np.full((2, n), np.nan)  # of that reference, NaN where unknown

    @property
    def found(self) -> np.ndarray:
        """Which test photos have a near-duplicate: (N,) bool."""
        return self.n_references > 0

    def add(
        self, rows: np.ndarray, begin: np.ndarray, distances: np.ndarray, references: np.ndarray, block: "ReferenceSet"
    ) -> None:
        """Take in what one block has for some test photos, as `range_search` of faiss lays it out.

        rows: (Q,) int64 of the test photos. distances, references: (K,), rows of the block; from begin[q] to
        begin[q + 1], (Q + 1,), they are those of photo q.
        """
        begin = begin.astype(np.int64)
        for query in np.flatnonzero(np.diff(begin)).tolist():
            row, first, end = rows[query], begin[query], begin[query + 1]
            self.n_references[row] += end - first
            best = first + int(np.argmin(distances[first:end]))
            if distances[best] < self.distance[row]:
                self.distance[row], reference = distances[best], references[best]
                self.reference[row] = block.photo[reference]
                self.lat_deg[row], self.lng_deg[row] = block.lat_deg[reference], block.lng_deg[reference]


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceSet(PhotoTable):
    """A block of reference photos."""

    values: np.ndarray  # (B, 8) uint8 hashes, or (B, D) float32 unit rows


def perceptual_hash(image: Image.Image) -> np.ndarray | None:
    """The 64-bit DCT hash of `imagehash.phash` as (8,) uint8; None where an image is too plain to have one.

    Changes of size, quality and brightness leave most bits as they are; a mirror image or a large crop does not.
    """
    small = image.convert("L").resize((4 * _HASH_EDGE, 4 * _HASH_EDGE), Image.Resampling.LANCZOS)
    if np.asarray(small, np.float64).std() < _PLAIN:
        return None
    return np.packbits(imagehash.phash(image, hash_size=_HASH_EDGE).hash)


def nearest_by_hash(hashes: np.ndarray, blocks: Iterable[ReferenceSet], *, max_bits: int) -> NearestReferences:
    """References whose hash differs in at most so many bits. hashes: (N, 8) uint8, of photos that have one."""
    if not 0 <= max_bits < HASH_BITS // 2:
        raise InputError(
            f"`max_bits` must be 0 to {HASH_BITS // 2 - 1}, not {max_bits}: unrelated hashes differ in 32."
        )
    nearest = NearestReferences(len(hashes))
    for block in blocks:
        if not len(block.values) or not len(hashes):
            continue
        index = faiss.IndexBinaryFlat(HASH_BITS)
        index.add(np.ascontiguousarray(block.values))
        found = index.range_search(np.ascontiguousarray(hashes), max_bits + 1)  # strictly below
        nearest.add(np.arange(len(hashes)), *found, block)
    return nearest


def nearest_by_embedding(photos: FeatureBatch, references: FeatureSource, *, min_cosine: float) -> NearestReferences:
    """References whose embedding has at least this cosine with a photo's. Photos without a vector have none.

    InputError for vectors of another width, or a limit that is no cosine.
    """
    if not 0 < min_cosine <= 1:
        raise InputError(f"`min_cosine` must lie above 0 and be at most 1, not {min_cosine}.")
    nearest, rows = NearestReferences(len(photos)), np.flatnonzero(photos.ok)
    # Means of several crops are shorter than 1, which says nothing of what they show.
    vectors = unit_rows(photos.embedding[rows])
    for block in _blocks(references):
        if vectors.shape[1] != block.values.shape[1]:
            raise InputError(
                f"{references.location}: embeddings of {block.values.shape[1]} values; the photos' have "
                f"{vectors.shape[1]}. Compare vectors of one encoder."
            )
        index = faiss.IndexFlatIP(block.values.shape[1])
        index.add(block.values)
        begin, cosines, found = index.range_search(vectors, min_cosine - 1e-6)  # rounding must not lose an exact copy
        nearest.add(rows, begin, 1.0 - cosines.astype(np.float64), found, block)
    return nearest


def check_encoders(photos: FeatureSource, references: FeatureSource) -> None:
    """Raise BundleMismatch where two sets of vectors are known to be of two encoders."""
    if None not in (photos.encoder, references.encoder) and photos.encoder != references.encoder:
        raise BundleMismatch(
            f"{photos.location} and {references.location} were made by two encoders ({str(photos.encoder)[:8]}, "
            f"{str(references.encoder)[:8]}), whose vectors cannot be compared. Embed both with one."
        )


def _blocks(features: FeatureSource) -> Iterator[ReferenceSet]:
    for batch in features:
        rows = np.flatnonzero(batch.ok)
        for first in range(0, len(rows), _BLOCK):
            part = rows[first : first + _BLOCK]
            names = [batch.photo[row] for row in part]
            yield ReferenceSet(names, batch.lat_deg[part], batch.lng_deg[part], unit_rows(batch.embedding[part]))
