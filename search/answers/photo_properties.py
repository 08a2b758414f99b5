"""What a reranker sees of each photo near a query: nine properties.

In: the near photos of each query with their similarities, places and weights before reranking. Out: (Q, near, 9)
float32. With n photos of the query, tau_x and growth of `PhotoFit`, and h the width of the median leaf:

    1   q . x / tau_x / n^growth                  how similar the photo is
    2   the same, less that of the most similar
    3   q . G_r / n^growth of its leaf, less that of the best leaf that a near photo lies in
    4   (q . x - n mean) / tau_x / n^growth       mean: how similar it is to the other photos of its list
    5,6 log of the sum over the near photos of a bell of h/2 and of h around each
    7-9 log of the same sum, each times its weight, of h/4, of h and of 4 h

So what it sees is measured in what evidence and leaves are measured in: the same for a city and for the Earth.
"""

import numpy as np

from indexer.bundles.gallery import Gallery
from indexer.cells.hierarchy import Level
from indexer.earth.geo import EARTH_RADIUS_KM, unit_vectors
from indexer.vectors.calibration import PhotoFit
from indexer.vectors.reranker import N_PROPERTIES
from search.retrieval.gallery_lists import NearPhotos
from search.retrieval.list_similarity import ListSimilarity

_LEAST_WIDTH_KM = 0.05  # of the median leaf
_LEAST_HELD = 1e-6  # of all weight, before its logarithm
_TOGETHER = 1 << 16  # pairs of near photos of a query that are looked at together: what a processor's cache holds


class PhotoProperties:
    """The properties of photos of one gallery.

    Args:
        gallery: whose photos they are.
        leaves: its lists.
        fit: how photos count before reranking.
    """

    def __init__(self, gallery: Gallery, leaves: Level, *, fit: PhotoFit) -> None:
        self._gallery, self._fit = gallery, fit
        self._width_km = max(leaves.median_width_km, _LEAST_WIDTH_KM)
        self._of_list = ListSimilarity(gallery)

    def __call__(self, near: NearPhotos, leaf_score: np.ndarray, n_photos: np.ndarray) -> np.ndarray:
        """The properties of the near photos: (Q, near, 9) float32, NaN where one is not known or there is no photo.

        leaf_score: (Q, near) float64, of the leaves that they count for. n_photos: (Q,) int64, of each query.
        """
        known, gallery, fit = near.row >= 0, self._gallery, self._fit
        row = np.maximum(near.row, 0)
        result = np.full((*known.shape, N_PROPERTIES), np.nan, np.float32)
        sureness = n_photos.astype(np.float64)[:, None] ** fit.growth
        similarity = near.similarity / (fit.similarity * sureness)
        best_score = np.where(known, leaf_score, -np.inf).max(axis=1, keepdims=True)
        like_list = np.full(known.shape, np.nan)
        in_list = np.searchsorted(gallery.begins, row[known], side="right") - 1  # in a region it counts for another
        like_list[known] = self._of_list(row[known], in_list)
        with np.errstate(invalid="ignore"):  # minus infinity where there is no photo
            result[..., 0] = similarity
            result[..., 1] = similarity - similarity[:, :1]
            result[..., 2] = (leaf_score - best_score) / sureness
            result[..., 3] = similarity - n_photos[:, None] * like_list / (fit.similarity * sureness)
        weight = fit.weights(near.similarity, leaf_score, gallery.stands_for[row], n_photos)
        step = max(1, _TOGETHER // known.shape[1] ** 2)
        for start in range(0, len(known), step):
            block = slice(start, start + step)
            places = unit_vectors(gallery.lat_deg[row[block]], gallery.lng_deg[row[block]])
            result[block, :, 4:] = self._around(places, known[block], weight[block])
        result[~known] = np.nan
        return result

    def _around(self, places: np.ndarray, known: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Properties 5 to 9 of photos at places (B, near, 3): (B, near, 5) float32."""
        sums = np.stack([known, weight], axis=2).astype(np.float32)
        steepness = (EARTH_RADIUS_KM / (4 * self._width_km)) ** 2
        cosine = places @ places.transpose(0, 2, 1)  # in float64 one product is as exact as chords
        cosine -= 1
        widest = cosine.astype(np.float32)
        widest *= np.float32(steepness)
        np.exp(np.clip(widest, -80, 0, out=widest), out=widest)
        # A bell half as wide is the fourth power: exp is worked out once. What is too little to matter is cut off
        # before, as numbers that nearly vanish take a processor ten times as long.
        one = np.maximum(widest, 1e-2)
        for _ in range(4):
            np.square(one, out=one)
        half, quarter = np.empty_like(one), np.empty_like(one)
        for bell, narrower in ((one, half), (half, quarter)):
            np.maximum(bell, 1e-9, out=narrower)
            for _ in range(2):
                np.square(narrower, out=narrower)
        by_quarter, by_half, by_one, by_widest = (bell @ sums for bell in (quarter, half, one, widest))
        count = np.stack([by_half[..., 0], by_one[..., 0]], axis=2)
        held = np.stack([by_quarter[..., 1], by_one[..., 1], by_widest[..., 1]], axis=2)
        with np.errstate(divide="ignore"):  # where there is no photo
            return np.log(np.concatenate([count, held + _LEAST_HELD], axis=2))
