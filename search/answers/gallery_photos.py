"""Photos of known places beside cells: which are looked at for a query, and which of them are told with its answer.

In: what a search of cells found. Out: what photos and cells say together (`search.answers.photo_evidence`), as leaves
that are best by both.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from indexer.bundles.bundle import Bundle
from indexer.vectors.calibration import PhotoFit
from indexer.vectors.scoring import ScoringModel
from search.answers.photo_evidence import PhotoEvidence, photo_evidence
from search.retrieval.found import Hits
from search.retrieval.gallery_lists import GalleryLists
from search.retrieval.posterior import Posterior
from search.retrieval.proof import LeafScores, tensor_of

CELLS, IN_LISTS, IN_ALL = "cells", "cells+photos (lists)", "cells+photos (all)"


@dataclass(frozen=True, slots=True, eq=False)
class GalleryPhotos:
    """The photos that decided Q answers, the heaviest first; None and NaN where there are fewer than K."""

    photo: np.ndarray  # (Q, K) str
    lat_deg: np.ndarray  # (Q, K) float64
    lng_deg: np.ndarray  # (Q, K) float64
    cosine: np.ndarray  # (Q, K) float64, of the photo's vector and the query
    weight: np.ndarray  # (Q, K) float64, of all photos of an answer together 1


class PhotoSearch:
    """The gallery of a bundle, as it counts for answers.

    Args:
        bundle: one with a gallery.
        model: how its leaves are scored.
        fit: how photos count.
        everywhere: look at all photos, not at those of the best leaves' lists.
    """

    def __init__(self, bundle: Bundle, model: ScoringModel, *, fit: PhotoFit, everywhere: bool) -> None:
        assert bundle.gallery is not None, "`SearchOptions.uses_gallery` is for those that have one"
        self.gallery, self.fit = bundle.gallery, fit
        self.evidence = IN_ALL if everywhere else IN_LISTS
        self.n_lists = 1 if everywhere else fit.lists  # leaves that a search of cells has to name
        self._leaves, self._everywhere = bundle.hierarchy.leaves, everywhere
        self._lists = GalleryLists(self.gallery)
        self._with_photos = self._lists.sizes > 0
        self._score = LeafScores(model, torch.device("cpu"))

    def __call__(self, queries: np.ndarray, hits: Hits, cells: Posterior, *, n_photos: np.ndarray) -> PhotoEvidence:
        """What photos say of queries (Q, D) float32 beside cells.

        hits: their best leaves, with probabilities that add up to 1 over all leaves, and the `n_lists` to look at.
        cells: the posterior over leaves. n_photos: (Q,) int64, how many photos each query is made of.
        """
        assert hits.lists is not None, "they are wanted"
        lists = None if self._everywhere else hits.lists.leaf
        near = self._lists.nearest(queries, lists, near=self.fit.near)
        return photo_evidence(
            with_leaves(cells, hits),
            near,
            self._scores(queries, near.leaf, hits),
            gallery=self.gallery,
            leaves=self._leaves,
            with_photos=self._with_photos,
            fit=self.fit,
            n_photos=n_photos,
        )

    def best(self, queries: np.ndarray, hits: Hits, evidence: PhotoEvidence, k: int, *, inside: float) -> Hits:
        """The k best leaves by photos and cells together, with their scores by cells; probabilities add up to inside.

        hits: what the evidence was made of.
        """
        leaf, probability = evidence.posterior.likeliest(k)
        score = np.full(leaf.shape, -np.inf)
        query, place = np.nonzero(leaf >= 0)
        score[query, place] = self._score(
            tensor_of(queries), torch.from_numpy(query), torch.from_numpy(leaf[query, place])
        ).numpy()
        share = np.where(leaf < 0, np.nan, inside * probability)
        return Hits(leaf, score, share, hits.mode, evidence.posterior)

    def told(self, queries: np.ndarray, evidence: PhotoEvidence, k: int) -> GalleryPhotos:
        """The k heaviest photos of each query."""
        near = evidence.near
        order = np.argsort(-evidence.weight, axis=1, kind="stable")[:, :k]
        row, similarity, weight = (
            np.take_along_axis(each, order, axis=1) for each in (near.row, near.similarity, evidence.weight)
        )
        known = row >= 0
        photo = np.full(row.shape, None, object)
        photo[known] = self.gallery.names(row[known])
        lat, lng = (np.where(known, deg[row], np.nan) for deg in (self.gallery.lat_deg, self.gallery.lng_deg))
        length = np.linalg.norm(queries, axis=1)[:, None]
        return GalleryPhotos(
            photo, lat, lng, np.where(known, similarity / length, np.nan), np.where(known, weight, np.nan)
        )

    def densest(self, evidence: PhotoEvidence, leaf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The place of the densest photo of each leaf (Q, K) int64, else the leaf's point: (Q, K) degrees each."""
        lat, lng = self._leaves.lat_deg[leaf], self._leaves.lng_deg[leaf]
        for column in range(leaf.shape[1]):
            own = np.where(evidence.near.leaf == leaf[:, column : column + 1], evidence.photo_density, -np.inf)
            best = own.argmax(axis=1)[:, None]
            there = np.take_along_axis(own, best, axis=1)[:, 0] > -np.inf
            row = np.take_along_axis(evidence.near.row, best, axis=1)[there, 0]
            lat[there, column], lng[there, column] = self.gallery.lat_deg[row], self.gallery.lng_deg[row]
        return lat, lng

    def _scores(self, queries: np.ndarray, leaf: np.ndarray, hits: Hits) -> np.ndarray:
        """Q . G_r + b_r of leaves (Q, K) int64, 0 for -1: (Q, K) float64, as exact as weights of photos need it.

        Those of the lists that were looked at are known from there.
        """
        assert hits.lists is not None, "they are wanted"
        n_leaves, first = self._score.n_leaves, np.arange(len(leaf))[:, None]
        known = np.where(hits.lists.leaf < 0, -1, first * n_leaves + hits.lists.leaf).ravel()
        order = np.argsort(known)
        wanted = np.where(leaf < 0, -1, first * n_leaves + leaf).ravel()
        score = np.full(len(wanted), np.nan)
        if len(known):
            place = order[np.searchsorted(known, wanted, sorter=order).clip(max=len(known) - 1)]
            score = np.where(known[place] == wanted, hits.lists.score.ravel()[place].astype(np.float64), np.nan)
        score[wanted < 0] = 0.0
        rest = np.flatnonzero(np.isnan(score))
        if rest.size:
            row, missing = (torch.from_numpy(each) for each in (rest // leaf.shape[1], leaf.ravel()[rest]))
            score[rest] = self._score(tensor_of(queries), row, missing).numpy()
        return score.reshape(leaf.shape)


def with_leaves(posterior: Posterior, hits: Hits) -> Posterior:
    """A posterior that also lists the leaves that were found, whose probabilities are known more exactly.

    hits: with probabilities that add up to 1 over all leaves.
    """
    query, place = np.nonzero(hits.leaf >= 0)
    most = int(max(posterior.leaf.max(initial=0), hits.leaf.max(initial=0))) + 1
    keys = np.concatenate([query * most + hits.leaf[query, place], posterior.query * most + posterior.leaf])
    share = np.concatenate([hits.probability[query, place], posterior.probability])
    keys, first = np.unique(keys, return_index=True)  # of two that are the same the first, which is of the hits
    of_query, leaf = np.divmod(keys, most)
    begins = np.searchsorted(of_query, np.arange(len(posterior) + 1)).astype(np.int64)
    return replace(posterior, begins=begins, leaf=leaf, probability=share[first])
