"""Photos of known places beside cells: which are looked at for a query, and which of them are told with its answer.

In: what a search of cells found. Out: what photos and cells say together (`search.answers.photo_evidence`), as leaves
that are best by both.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from indexer.bundles.bundle import Bundle
from indexer.bundles.gallery import Gallery
from indexer.cells.hierarchy import Level, s2_ids_of
from indexer.earth import s2
from indexer.earth.geo import lat_lng, point_tree, unit_vectors
from indexer.vectors.calibration import PhotoFit
from indexer.vectors.reranker import Reranker
from indexer.vectors.scoring import ScoringModel
from search.answers.constraints import Region
from search.answers.owners import GalleryOwners, OwnedLeaves
from search.answers.photo_evidence import PhotoEvidence, photo_evidence
from search.answers.photo_properties import PhotoProperties
from search.answers.radii import LeafDiscs
from search.retrieval.found import Hits
from search.retrieval.gallery_lists import GalleryLists, NearPhotos
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
        reranker: what changes their weights; None: nothing.
        everywhere: look at all photos, not at those of the best leaves' lists.
        region: where answers may lie, if that is said: only photos in it are looked at.
        allowed: (R,) int64, the leaves of that region. A photo of another leaf counts for the one whose point is
            nearest to it.
    """

    def __init__(
        self,
        bundle: Bundle,
        model: ScoringModel,
        *,
        fit: PhotoFit,
        reranker: Reranker | None = None,
        everywhere: bool,
        region: Region | None = None,
        allowed: np.ndarray | None = None,
    ) -> None:
        assert bundle.gallery is not None, "`SearchOptions.uses_gallery` is for those that have one"
        self.gallery, self.fit = bundle.gallery, fit
        self.evidence = IN_ALL if everywhere else IN_LISTS
        self.n_lists = 1 if everywhere else fit.lists  # leaves that a search of cells has to name
        self._leaves, self._everywhere = bundle.hierarchy.leaves, everywhere
        self._discs = LeafDiscs.of(self._leaves)
        self._region, gallery = region, self.gallery
        self._wanted = wanted = None if region is None else region.holds(gallery.lat_deg, gallery.lng_deg)
        self._lists = GalleryLists(gallery, photos=wanted)
        self._counts_for: np.ndarray | None = None  # (N,) int64, the leaf that each photo counts for; None: its own
        self._more_lists: np.ndarray | None = None  # (leaves, M) int64, whose photos count for a leaf too, -1 for none
        self._with_photos = self._lists.sizes > 0
        if allowed is not None and wanted is not None:
            self._counts_for = _nearest_allowed(gallery, self._leaves, allowed)
            counted = self._counts_for[wanted]
            self._with_photos = np.bincount(counted, minlength=len(self._leaves)) > 0
            self._more_lists = _more_lists(gallery.leaf[wanted], counted, len(self._leaves))
        self._score = LeafScores(model, torch.device("cpu"))
        self._reranker = reranker
        self._properties = None if reranker is None else PhotoProperties(gallery, self._leaves, fit=fit)

    @cached_property
    def owners(self) -> GalleryOwners:
        """Whose the photos are, of a gallery that has recorded it."""
        return GalleryOwners.of(self.gallery)

    @cached_property
    def _owned(self) -> OwnedLeaves:
        wanted = slice(None) if self._wanted is None else self._wanted
        leaf = self.gallery.leaf if self._counts_for is None else self._counts_for
        return OwnedLeaves(self.owners.of_photo[wanted], leaf[wanted].astype(np.int64), len(self._leaves))

    def nearest(self, queries: np.ndarray, hits: Hits, *, owners: np.ndarray | None = None) -> NearPhotos:
        """The photos most like queries (Q, D) float32, with the leaves that they count for.

        hits: with the `n_lists` leaves to look at. owners: (Q, K) int64, numbers of `owners`, whose photos a query does
        not look at; None: it looks at everybody's.
        """
        assert hits.lists is not None, "they are wanted"
        lists = None if self._everywhere else self._with_more(hits.lists.leaf)
        own = None if owners is None else (self.owners.of_photo, owners)
        near = self._lists.nearest(queries, lists, near=self.fit.near, owners=own)
        if self._counts_for is None:
            return near
        return replace(near, leaf=np.where(near.row < 0, -1, self._counts_for[near.row]))

    def __call__(
        self,
        queries: np.ndarray,
        hits: Hits,
        near: NearPhotos,
        *,
        n_photos: np.ndarray,
        owners: np.ndarray | None = None,
    ) -> PhotoEvidence:
        """What photos say of queries (Q, D) float32 beside cells.

        hits: their best leaves, with probabilities that add up to 1 over all leaves, and their posterior. near, owners:
        as `nearest` gave and took them. n_photos: (Q,) int64, how many photos each query is made of.
        """
        assert hits.posterior is not None, "it is wanted"
        cells, emptied = with_leaves(hits.posterior, hits), None
        if owners is not None:
            emptied = self._owned.emptied(cells.leaf, owners, cells.query)
        leaf_score = self._scores(queries, near.leaf, hits)
        reranked = None
        if self._reranker is not None and self._properties is not None:
            reranked = self._reranker(self._properties(near, leaf_score, n_photos))
        evidence = photo_evidence(
            cells,
            near,
            leaf_score,
            gallery=self.gallery,
            discs=self._discs,
            with_photos=self._with_photos,
            emptied=emptied,
            fit=self.fit,
            n_photos=n_photos,
            reranked=reranked,
        )
        if self._region is None:
            return evidence
        lat, lng = lat_lng(np.nan_to_num(evidence.points))
        left = evidence.there & ~self._region.holds(lat, lng)  # moved out of the region: back to the photo's own place
        row = np.take_along_axis(near.row, evidence.photo_density.argmax(axis=1)[:, None], axis=1)[:, 0]
        back = unit_vectors(self.gallery.lat_deg[row], self.gallery.lng_deg[row])
        return replace(evidence, points=np.where(left[:, None], back, evidence.points))

    def _with_more(self, lists: np.ndarray) -> np.ndarray:
        """Lists (Q, P) int64, and those whose photos count for the same leaves."""
        if self._more_lists is None:
            return lists
        more = np.where(lists[:, :, None] < 0, -1, self._more_lists[lists])
        more = more.reshape(len(lists), more.shape[1] * more.shape[2])  # also of no query
        more = np.sort(more, axis=1)
        more[:, 1:][more[:, 1:] == more[:, :-1]] = -1  # each once
        return np.concatenate([lists, more], axis=1)

    def in_leaves(self, evidence: PhotoEvidence) -> np.ndarray | None:
        """How much of the weight of each query's photos is of photos that lie in a leaf: (Q,) float64, 0 to 1.

        None where leaves have no borders.
        """
        if self._leaves.s2_ids is None:
            return None
        known = evidence.near.row >= 0
        row, own = evidence.near.row[known], s2_ids_of(self._leaves)[evidence.near.leaf[known]]
        point = s2.point_ids(self.gallery.lat_deg[row], self.gallery.lng_deg[row])
        there = np.zeros(known.shape)
        # A photo that lies in any leaf lies in the one that it is listed under.
        there[known] = (s2.range_min(own) <= point) & (point <= s2.range_max(own))
        return np.asarray((evidence.weight * there).sum(axis=1))

    def best(self, queries: np.ndarray, hits: Hits, evidence: PhotoEvidence, k: int, *, inside: np.ndarray) -> Hits:
        """The k best leaves by photos and cells together, with their scores by cells.

        hits: what the evidence was made of. inside: (Q,) float64, what probabilities add up to.
        """
        leaf, probability = evidence.posterior.likeliest(k)
        score = np.full(leaf.shape, -np.inf)
        query, place = np.nonzero(leaf >= 0)
        score[query, place] = self._score(
            tensor_of(queries), torch.from_numpy(query), torch.from_numpy(leaf[query, place])
        ).numpy()
        share = np.where(leaf < 0, np.nan, inside[:, None] * probability)
        return Hits(leaf, score, share, hits.mode, evidence.posterior)

    def heaviest(self, queries: np.ndarray, evidence: PhotoEvidence, k: int) -> GalleryPhotos:
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


def _nearest_allowed(gallery: Gallery, leaves: Level, allowed: np.ndarray) -> np.ndarray:
    """The leaf that each photo counts for where only some leaves are allowed, (R,) int64: (N,) int64."""
    counts_for = gallery.leaf.astype(np.int64)
    others = np.flatnonzero(~np.isin(counts_for, allowed))
    near = point_tree(leaves.lat_deg[allowed], leaves.lng_deg[allowed])
    counts_for[others] = allowed[near.query(unit_vectors(gallery.lat_deg[others], gallery.lng_deg[others]))[1]]
    return counts_for


def _more_lists(leaf: np.ndarray, counted: np.ndarray, n_leaves: int) -> np.ndarray | None:
    """Lists whose photos count for another leaf: (leaves, M) int64, -1 for none; None where there are none.

    leaf, counted: (N,) integers, the list that each photo stands in, and the leaf that it counts for.
    """
    other = np.flatnonzero(leaf != counted)
    if not other.size:
        return None
    counted_leaf, own = np.divmod(np.unique(counted[other] * n_leaves + leaf[other]), n_leaves)
    place = np.arange(len(own)) - np.searchsorted(counted_leaf, counted_leaf)
    lists = np.full((n_leaves, int(place.max()) + 1), -1)
    lists[counted_leaf, place] = own
    return lists


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
