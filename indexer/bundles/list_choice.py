"""How many lists of a gallery have to be looked at: chosen when a bundle is built, where nothing was fitted yet.

In: a gallery and how its leaves are scored. Out: the number of lists of the best leaves that hold 99 % of the weight of
all photos, on average over a sample of the gallery's own photos. Each is a query to the others: itself, and what was
taken at the same place, is not looked at. `search calibrate` chooses again, with photos that nothing was made of.
"""

import numpy as np

from indexer.bundles.gallery import Gallery
from indexer.earth.geo import EARTH_RADIUS_KM, unit_vectors
from indexer.vectors.calibration import PhotoFit
from indexer.vectors.scoring import ScoringModel, leaf_vectors

WEIGHT = 0.99  # of all photos, that the lists must hold
LISTS = (4, 8, 16, 32, 64, 128, 256, 512)  # numbers that are tried
_SAMPLE = 256  # photos; each is compared with all photos of the gallery
_SAME_PLACE_KM = 1.0
_TOGETHER = 1 << 14  # photos compared at once


def enough_lists(gallery: Gallery, model: ScoringModel, fit: PhotoFit, *, seed: int = 0) -> int:
    """The least of LISTS, or all lists, that hold enough of the weight by `fit`."""
    sample = np.sort(np.random.default_rng(seed).permutation(len(gallery))[:_SAMPLE])
    queries = np.concatenate([gallery.vectors(row, row + 1) for row in sample.tolist()])
    rows, similarity = _most_similar(gallery, sample, queries, near=min(fit.near, len(gallery)))
    score = model.extended(queries) @ leaf_vectors(model).T
    leaf = gallery.leaf[rows]
    own = np.take_along_axis(score, leaf, axis=1).astype(np.float64)
    weight = fit.weights(similarity, own, gallery.stands_for[rows], np.ones(len(sample), np.int64))
    rank = np.stack([(row > limits[:, None]).sum(axis=1) for row, limits in zip(score, own, strict=True)])
    known = weight.any(axis=1)
    for n in LISTS:
        if n >= model.n_leaves or not known.any():
            break
        if np.where(rank < n, weight, 0.0)[known].sum(axis=1).mean() >= WEIGHT:
            return n
    return model.n_leaves


def _most_similar(
    gallery: Gallery, sample: np.ndarray, queries: np.ndarray, *, near: int
) -> tuple[np.ndarray, np.ndarray]:
    """The photos most similar to those of the sample, of other places: rows (S, near) and similarities, float64."""
    best_row = np.zeros((len(sample), near), np.int64)
    best = np.full((len(sample), near), -np.inf)
    places = unit_vectors(gallery.lat_deg[sample], gallery.lng_deg[sample])
    for begin in range(0, len(gallery), _TOGETHER):
        end = min(begin + _TOGETHER, len(gallery))
        similarity = (queries @ gallery.vectors(begin, end).T).astype(np.float64)
        others = unit_vectors(gallery.lat_deg[begin:end], gallery.lng_deg[begin:end])
        apart = 2 - 2 * (places @ others.T)
        similarity[apart < (_SAME_PLACE_KM / EARTH_RADIUS_KM) ** 2] = -np.inf
        both = np.concatenate([best, similarity], axis=1)
        rows = np.concatenate([best_row, np.broadcast_to(np.arange(begin, end), similarity.shape)], axis=1)
        order = np.argpartition(-both, near - 1, axis=1)[:, :near]
        best, best_row = (np.take_along_axis(each, order, axis=1) for each in (both, rows))
    return best_row, best
