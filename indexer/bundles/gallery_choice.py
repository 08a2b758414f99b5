"""How the photos of a gallery count where nothing was fitted: chosen when a bundle is built.

In: a gallery and how its leaves are scored. Out: tau_x, by which similarities become weights, under which the places of
the gallery's own photos are likeliest by what the others say; and the number of lists of the best leaves that hold 99 %
of the weight of all photos, on average. Both by a sample, each of which is a query to the others: itself, and what was
taken at the same place or by the same owner, is not looked at; and cells are ranked as if they were means without this
photo, else its own would be better for it than for any photo that comes later. `search calibrate` fits these numbers
and all others to photos that nothing was made of.

One tau_x does not serve all encoders: where vectors are alike everywhere, or noisy, the most similar photo says little,
and with a small tau_x answers are farther off than by cells alone.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from indexer.bundles.gallery import Gallery
from indexer.earth.geo import EARTH_RADIUS_KM, bell_density, unit_vectors
from indexer.vectors.calibration import PhotoFit, usual_photo_fit
from indexer.vectors.scoring import ScoringModel, leaf_vectors

WEIGHT = 0.99  # of all photos, that the lists must hold
# Standard errors by which a sample must hold more: then other queries hold it 19 times in 20. The margin also stands
# in for how far points move, which only missing weight moves; that is measured by `search calibrate`.
_SURE = 1.645
LISTS = (4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)  # numbers that are tried
_SIMILARITIES = np.geomspace(0.005, 0.32, 25)  # tau_x that are tried,
_WIDTHS = (0.25, 0.5, 1.0, 2.0)  # each with the best of these widths of bells, in median leaves
_FLOOR = 0.01  # of the mass, spread evenly over discs as wide as the median leaf, one for each: no photo decides alone
_SAMPLE = 512  # photos; each is compared with all photos of the gallery
_SAME_PLACE_KM, _SAME_PLACE_WIDTHS = 1.0, 0.1  # the lesser of these, in km and in median leaves
_TOGETHER = 1 << 14  # photos compared at once


@dataclass(frozen=True, slots=True)
class GalleryChoice:
    """What was chosen."""

    similarity: float  # tau_x
    lists: int


def choose(gallery: Gallery, model: ScoringModel, *, leaf_width_km: float, seed: int = 0) -> GalleryChoice:
    """Choose for a gallery of photos; its tau_x stays where similarities alone count.

    leaf_width_km: the median over leaves.
    """
    rng, usual = np.random.default_rng(seed), usual_photo_fit(leaf_width_km)
    sample = np.sort(rng.permutation(len(gallery))[:_SAMPLE])
    queries = np.concatenate([gallery.vectors(row, row + 1) for row in sample.tolist()])
    same_km = min(_SAME_PLACE_KM, _SAME_PLACE_WIDTHS * leaf_width_km)
    near = _most_similar(gallery, sample, queries, near=min(usual.near, len(gallery)), same_km=same_km)
    fit = gallery.facts.unfitted(leaf_width_km)
    if not gallery.facts.alone:
        fit = usual_photo_fit(leaf_width_km, similarity=likeliest_similarity(gallery, sample, *near, usual))
    return GalleryChoice(fit.similarity, enough_lists(gallery, model, sample, queries, *near, fit))


def likeliest_similarity(
    gallery: Gallery, sample: np.ndarray, rows: np.ndarray, similarity: np.ndarray, usual: PhotoFit
) -> float:
    """The tau_x under which the places of a sample are likeliest by the photos near to it alone.

    sample: (S,) int64, rows of the gallery. rows, similarity: (S, near), the photos most similar to each. usual: what
    it is where no photo has another to ask, and as wide as the median leaf.
    """
    known = np.isfinite(similarity).any(axis=1)
    if not known.any():
        return usual.similarity
    sample, rows, similarity = sample[known], rows[known], similarity[known]
    places, others = (unit_vectors(gallery.lat_deg[each], gallery.lng_deg[each]) for each in (sample, rows))
    apart = np.square(others - places[:, None]).sum(axis=2)
    leaf_area = np.pi * (usual.width_km / 2) ** 2
    floor = _FLOOR / (leaf_area * len(gallery.begins[1:]))
    bells = [bell_density(apart, factor * usual.width_km) for factor in _WIDTHS]
    stands_for, alone = gallery.stands_for[rows], np.ones(len(sample), np.int64)

    def loss(tau: float) -> float:
        fit = usual_photo_fit(usual.width_km, similarity=tau)
        weight = fit.weights(similarity, np.zeros(similarity.shape), stands_for, alone)
        return min(-float(np.log((1 - _FLOOR) * (weight * bell).sum(axis=1) + floor).mean()) for bell in bells)

    return min(_SIMILARITIES.tolist(), key=loss)


def enough_lists(
    gallery: Gallery,
    model: ScoringModel,
    sample: np.ndarray,
    queries: np.ndarray,
    rows: np.ndarray,
    similarity: np.ndarray,
    fit: PhotoFit,
) -> int:
    """The least of LISTS, or all lists, that hold enough of the weight by `fit`.

    sample: (S,) int64, rows of the gallery. queries: (S, D) float32, their vectors. rows, similarity: (S, near), the
    photos most similar to each.
    """
    leaves = gallery.leaf
    score = model.extended(queries) @ leaf_vectors(model).T
    score -= _own_share(gallery, model, leaves[sample], queries)
    leaf = leaves[rows]
    own = np.take_along_axis(score, leaf, axis=1).astype(np.float64)
    weight = fit.weights(similarity, own, gallery.stands_for[rows], np.ones(len(queries), np.int64))
    rank = np.stack([(row > limits[:, None]).sum(axis=1) for row, limits in zip(score, own, strict=True)])
    known = weight.any(axis=1)
    for n in LISTS:
        if n >= model.n_leaves or not known.any():
            break
        held = np.where(rank < n, weight, 0.0)[known].sum(axis=1)
        if held.mean() - _SURE * held.std() / np.sqrt(len(held)) >= WEIGHT:
            return n
    return model.n_leaves


def _own_share(gallery: Gallery, model: ScoringModel, leaf: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """What photos add to scores by their own part in cells, were these means of photos: (S, leaves) float32.

    leaf: (S,), of each photo. queries: (S, D) float32, their vectors.
    """
    in_leaf = np.zeros((model.n_leaves, gallery.width))
    for each, (begin, end) in enumerate(pairwise(gallery.begins.tolist())):
        in_leaf[each] = gallery.stands_for[begin:end].astype(np.float64) @ gallery.vectors(begin, end)
    result, least = np.zeros((len(leaf), model.n_leaves), np.float32), np.finfo(np.float64).tiny
    for cells, ancestors, scale in zip(model.geocells.vectors, model.ancestors.T, model.scales, strict=True):
        in_cell = np.zeros((len(cells), gallery.width))
        np.add.at(in_cell, ancestors, in_leaf)
        own = ancestors[leaf]
        cosine = np.zeros(len(leaf))
        for sign, total in ((1, in_cell[own]), (-1, in_cell[own] - queries)):
            cosine += sign * (total * queries).sum(axis=1) / np.maximum(np.linalg.norm(total, axis=1), least)
        share = scale * np.linalg.norm(cells[own], axis=1) * cosine
        result += np.where(ancestors == own[:, None], share[:, None], 0).astype(np.float32)
    return result


def _most_similar(
    gallery: Gallery, sample: np.ndarray, queries: np.ndarray, *, near: int, same_km: float
) -> tuple[np.ndarray, np.ndarray]:
    """The photos most similar to those of the sample, of other places and owners: rows and similarities (S, near)."""
    owner = gallery.owner_numbers()[0] if gallery.facts.owners else None
    best_row = np.zeros((len(sample), near), np.int64)
    best = np.full((len(sample), near), -np.inf)
    places = unit_vectors(gallery.lat_deg[sample], gallery.lng_deg[sample])
    for begin in range(0, len(gallery), _TOGETHER):
        end = min(begin + _TOGETHER, len(gallery))
        similarity = (queries @ gallery.vectors(begin, end).T).astype(np.float64)
        others = unit_vectors(gallery.lat_deg[begin:end], gallery.lng_deg[begin:end])
        apart = 2 - 2 * (places @ others.T)
        same = apart < (same_km / EARTH_RADIUS_KM) ** 2
        if owner is not None:
            same |= (owner[sample, None] == owner[begin:end]) & (owner[begin:end] >= 0)
        similarity[same | (sample[:, None] == np.arange(begin, end))] = -np.inf
        both = np.concatenate([best, similarity], axis=1)
        rows = np.concatenate([best_row, np.broadcast_to(np.arange(begin, end), similarity.shape)], axis=1)
        order = np.argpartition(-both, near - 1, axis=1)[:, :near]
        best, best_row = (np.take_along_axis(each, order, axis=1) for each in (both, rows))
    return best_row, best
