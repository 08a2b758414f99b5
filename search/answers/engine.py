"""The engine: an opened bundle that answers vectors with places.

In: vectors of photos, from the encoder the bundle was built for. Out: the best finest cells with their scores and
probabilities, and on request the posterior over all cells, and the path of cells above each answer.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from encoder.config import DeviceName
from encoder.models.device import choose_device
from indexer.bundles.bundle import Bundle, open_bundle
from indexer.bundles.registry import Registry
from indexer.errors import ArtifactError, BundleMismatch, InputError
from indexer.vectors.calibration import PhotoFit, Protocol
from indexer.vectors.scoring import level_log_probabilities
from search.answers.answer_maker import AnswerMaker, Answers, Found
from search.answers.constraints import Region, region_digests
from search.answers.gallery_photos import PhotoSearch
from search.answers.leaf_search import LeafSearch
from search.answers.options import DEFAULT_OPTIONS, SearchOptions
from search.answers.owners import GalleryOwners
from search.answers.photo_evidence import PhotoEvidence
from search.answers.precision_cap import CoarseCells
from search.retrieval.found import LISTED, WITH_PHOTOS, Hits, joined_hits, queries_at_once, with_prior
from search.retrieval.gallery_lists import NearPhotos
from search.retrieval.posterior import LEFT_OUT, Posterior

_WEIGHED = 256  # queries whose photos are weighed at once


class Engine:
    """Answers from one bundle for as long as it lives, whatever is published meanwhile; one call at a time.

    Searches keep room for scores from call to call, so threads need an engine each; they share the bundle's memory.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: DeviceName = "cpu",
        options: SearchOptions = DEFAULT_OPTIONS,
        protocol: Protocol = "one",
    ) -> None:
        """protocol: how queries are made of photos, which decides what their probabilities were calibrated by.

        Raises:
            InputError: no GPU for `cuda`; a region without cells; or what `SearchOptions.check` refuses.
        """
        options.check(bundle, protocol=protocol)
        self.bundle, self.device, self.options, self.protocol = bundle, device, options, protocol
        self.calibration = options.calibration(bundle, protocol)
        self.calibrated = self.calibration is not None and options.searches_as_calibrated(bundle)
        cap_km = options.cap_km(bundle)
        self.coarse = None if cap_km is None else CoarseCells(bundle.hierarchy.leaves, cap_km)
        self._region = Region(options.region, options.not_region) if options.within_region else None
        self._allowed = self._allowed_leaves()
        self._leaves = LeafSearch(
            bundle,
            options=options,
            where=choose_device(device),
            allowed=self._allowed,
            calibration=self.calibration,
        )
        self._photos = self._photo_search() if options.uses_gallery(bundle) else None
        self._make = AnswerMaker(
            bundle,
            options=options,
            protocol=protocol,
            calibration=self.calibration,
            calibrated=self.calibrated,
            coarse=self.coarse,
            region=self._region,
            photos=self._photos,
            counts=self.counts,
        )

    def _allowed_leaves(self) -> np.ndarray | None:
        """The leaves of the region that answers are held to, (R,) int64; None for all."""
        if self._region is None:
            return None
        if self.coarse is None:
            return self._region.cells(self.bundle.hierarchy.leaves)
        # Under a cap by whole cells: which leaves a border parts would tell more.
        return np.flatnonzero(np.isin(self.coarse.of_leaf, self._region.cells(self.coarse)))

    def _photo_search(self) -> PhotoSearch:
        """The photos that count beside cells."""
        fit, reranker = None, None
        if self.calibration is not None:
            fit, reranker = self.calibration.fit, self.calibration.reranker
        if fit is None:
            assert self.bundle.gallery is not None, "its photos count"
            fit = self.bundle.gallery.facts.unfitted(self.bundle.hierarchy.leaves.median_width_km)
        model = with_prior(self.bundle.model, self.options.prior_exponent)
        everywhere = self.options.gallery == "all"
        return PhotoSearch(
            self.bundle,
            model,
            fit=fit,
            reranker=reranker,
            everywhere=everywhere,
            region=self._region,
            allowed=self._allowed,
        )

    @property
    def photo_fit(self) -> PhotoFit | None:
        """How photos count; None where cells alone decide."""
        return None if self._photos is None else self._photos.fit

    @classmethod
    def open(
        cls,
        registry: str | Path,
        *,
        version: str | None = None,
        device: DeviceName = "cpu",
        options: SearchOptions = DEFAULT_OPTIONS,
        protocol: Protocol = "one",
    ) -> "Engine":
        """Open the current version of a registry, or the one named.

        Raises:
            InputError: no registry, nothing published, no such version, or as for the class.
            ArtifactError: the bundle is damaged.
        """
        home = Registry(registry)
        while True:
            folder = home.resolve(version)
            try:
                return cls(open_bundle(folder), device=device, options=options, protocol=protocol)
            except ArtifactError:
                # Between the two another version was published and this one retired: then there is a current one.
                if version is not None or home.current == folder.name:
                    raise

    @property
    def counts(self) -> str:
        """The leaves that a probability counts: 'all leaves' or 'visited leaves', or the allowed ones among these."""
        return self._leaves.counts

    @property
    def search_facts(self) -> dict[str, Any]:
        """How it searches, for a run's manifest."""
        return self._leaves.facts

    @property
    def gives_areas(self) -> bool:
        """Whether answers say how near the place is."""
        return self._make.gives_areas

    def check_encoder(self, encoder: str | None, *, source: str) -> None:
        """Raises BundleMismatch where vectors are of another encoder than the bundle's, as far as both are known."""
        built_for = self.bundle.encoder
        if encoder is not None and built_for is not None and encoder != built_for:
            raise BundleMismatch(
                f"{source}: its encoder is {encoder[:8]}, the bundle {self.bundle.version[:8]} was built for "
                f"{built_for[:8]}. Use that encoder, or build a bundle for this one: python -m indexer build"
            )

    @property
    def inputs(self) -> dict[str, str | None]:
        """Digests of what decides answers: the bundle, and files of regions."""
        return {"bundle": self.bundle.version, **region_digests(self.options.region, self.options.not_region)}

    @property
    def n_leaves(self) -> int:
        """How many finest cells are searched."""
        return self._leaves.n_leaves

    def check_k(self, k: int, *, name: str = "k") -> int:
        """That k. Raises InputError where it is no whole number from 1 to that of the cells that answers name.

        name: of the field that it is of.
        """
        if self.coarse is None:
            return self._check_k(k, self.n_leaves, "finest cells", name)
        cells = self.coarse.of_leaf if self._allowed is None else self.coarse.of_leaf[self._allowed]
        return self._check_k(k, len(np.unique(cells)), f"cells of the precision cap of {self.coarse.km:g} km", name)

    def _check_k(self, k: int, most: int, what: str, name: str = "k") -> int:
        if isinstance(k, int | np.integer) and 1 <= k <= most:
            return int(k)  # torch takes no integer of numpy's
        where = "" if self._allowed is None else " in the region"
        raise InputError(f"`{name}` must be a whole number from 1 to {most}, the number of {what}{where}, not {k}.")

    def search(self, vectors: np.ndarray, *, k: int = 1, probability: bool = True) -> Hits:
        """The k best finest cells of each vector, as the engine's options have it.

        vectors: (Q, D) float32; unit vectors, or their mean over crops (not renormalised). Without probabilities it
        is faster where processors multiply bfloat16.

        Raises:
            InputError: wrong width, a value that is not finite, or k not between 1 and the number of leaves.
        """
        return self.search_prepared(self.prepared(vectors), k=k, probability=probability)

    def search_prepared(
        self,
        queries: np.ndarray,
        *,
        k: int,
        probability: bool = True,
        n_photos: np.ndarray | None = None,
    ) -> Hits:
        """The same for vectors as they are compared: what `prepared` gives, or sums of it.

        n_photos: (Q,) int64, how many photos each is a sum of; None: 1. Raises InputError where k is not between 1 and
        the number of leaves.
        """
        k = self._check_k(k, self.n_leaves, "finest cells")
        hits = self._leaves(queries, k=k, probability=probability, n_photos=n_photos)
        return replace(hits, probability=self._inside * hits.probability)

    def find(
        self,
        queries: np.ndarray,
        *,
        k: int = 1,
        n_photos: np.ndarray | None = None,
        owners: np.ndarray | None = None,
        left_out: float = LEFT_OUT,
    ) -> Found:
        """The k best leaves of queries and the probabilities of all that count, by photos too where these count.

        queries, n_photos: as for `search_prepared`. left_out: what leaves that a posterior does not list may hold
        together. owners: (Q, K) int64, numbers of `owners`: whose photos of the gallery a query does not look at; None:
        it looks at everybody's.
        """
        k = self._check_k(k, self.n_leaves, "finest cells")
        hits = self._leaves(queries, k=k, n_photos=n_photos, left_out=left_out, n_lists=self._n_lists)
        made_of = np.ones(len(queries), np.int64) if n_photos is None else n_photos
        if self._photos is None:
            hits = replace(hits, probability=self._inside * hits.probability)
            return Found(hits, hits.posterior, None, np.full(len(queries), self._inside))
        near = self._photos.nearest(queries, hits, owners=owners)
        return self._with_photos(self._photos, queries, hits, near, k=k, n_photos=made_of, owners=owners)

    @property
    def _n_lists(self) -> int:
        """Of how many leaves photos are looked at."""
        return 0 if self._photos is None else min(self._photos.n_lists, self.n_leaves)

    def _with_photos(
        self,
        photos: PhotoSearch,
        queries: np.ndarray,
        hits: Hits,
        near: NearPhotos,
        *,
        k: int,
        n_photos: np.ndarray,
        owners: np.ndarray | None,
    ) -> Found:
        """What was found of queries, with what the photos near them say."""
        evidence = photos(queries, hits, near, n_photos=n_photos, owners=owners)
        inside = self.inside_by_photos(evidence) if self.calibrated else np.ones(len(queries))
        best = photos.best(queries, hits, evidence, k, inside=inside)
        return Found(best, evidence.posterior, evidence, inside)

    @property
    def owners(self) -> GalleryOwners:
        """Whose the gallery's photos are, for those who leave some out. Raises InputError where that is not known."""
        gallery = self.bundle.gallery
        if self._photos is None or gallery is None:
            raise InputError(
                "`owner_column` leaves out photos of the gallery, and here none count beside cells: the bundle "
                f"{self.bundle.version[:8]} has no gallery, or the search is of cells alone. Leave it out."
            )
        if not gallery.facts.owners:
            raise InputError(
                f"`owner_column`: the gallery of the bundle {self.bundle.version[:8]} does not say whose its photos "
                "are. Build it with `owner_column`, from the table that does: python -m indexer build ..."
            )
        return self._photos.owners

    def answers(
        self, queries: np.ndarray, *, k: int, n_photos: np.ndarray | None = None, owners: np.ndarray | None = None
    ) -> Iterator[tuple[slice, Answers]]:
        """`answer`, so many queries at a time as are good to search for together; of no query, no answers once.

        queries, n_photos: as for `search_prepared`. owners: as for `find`.
        """
        step = queries_at_once(self.counts, self.n_leaves)
        if self._photos is None:
            for start in range(0, max(len(queries), 1), step):
                block = slice(start, start + step)
                yield block, self.answer(queries[block], k=k, n_photos=None if n_photos is None else n_photos[block])
            return
        k = self.check_k(k)
        n_photos = np.ones(len(queries), np.int64) if n_photos is None else n_photos
        n_best = k if self.coarse is None else 1
        for block, hits in self._hits_together(queries, n_best, n_photos, step=step):
            own = None if owners is None else owners[block]
            near = self._photos.nearest(queries[block], hits, owners=own)
            # What photos say of a query takes many times the memory of what is told of it.
            for begin in range(0, max(len(near.row), 1), _WEIGHED):
                rows = np.arange(begin, min(begin + _WEIGHED, len(near.row)))
                part = slice(block.start + begin, block.start + begin + len(rows))
                found = self._with_photos(
                    self._photos,
                    queries[part],
                    hits.take(rows),
                    near.take(rows),
                    k=n_best,
                    n_photos=n_photos[part],
                    owners=None if owners is None else owners[part],
                )
                yield part, self._make(queries[part], found, k, n_photos[part])

    def _hits_together(
        self, queries: np.ndarray, k: int, n_photos: np.ndarray, *, step: int
    ) -> Iterator[tuple[slice, Hits]]:
        """Leaves of `step` queries at a time, put together for so many queries as are good to look at photos for."""
        step = -(-WITH_PHOTOS // -(-WITH_PHOTOS // step))  # in equal parts
        parts: list[Hits] = []
        begin = 0
        for start in range(0, max(len(queries), 1), step):
            end = min(start + step, len(queries))
            own, made_of = queries[start:end], n_photos[start:end]
            parts.append(self._leaves(own, k=k, n_photos=made_of, left_out=LEFT_OUT, n_lists=self._n_lists))
            listed = sum(len(part.posterior.leaf) for part in parts if part.posterior is not None)
            if end == len(queries) or end - begin >= WITH_PHOTOS or listed > LISTED // 2:
                yield slice(begin, end), joined_hits(parts, k)
                parts, begin = [], end

    def answer(
        self, queries: np.ndarray, *, k: int, n_photos: np.ndarray | None = None, owners: np.ndarray | None = None
    ) -> Answers:
        """The k best finest cells of queries, where each answer points, and how near the place is where that is known.

        queries, n_photos: as for `search_prepared`. owners: as for `find`. Raises InputError as `check_k`.
        """
        k = self.check_k(k)
        n_photos = np.ones(len(queries), np.int64) if n_photos is None else n_photos
        if self._photos is not None or self.gives_areas or self._make.points.kind == "mass" or self.coarse is not None:
            found = self.find(queries, k=k if self.coarse is None else 1, n_photos=n_photos, owners=owners)
        else:
            hits = self.search_prepared(queries, k=k, n_photos=n_photos)
            found = Found(hits, None, None, np.full(len(queries), self._inside))
        return self._make(queries, found, k, n_photos)

    @property
    def _inside(self) -> float:
        """What probabilities over leaves add up to by cells alone."""
        return self.calibration.inside if self.calibrated and self.calibration is not None else 1.0

    def in_leaves(self, evidence: PhotoEvidence) -> np.ndarray | None:
        """How much of the weight of each query's photos is of photos that lie in a leaf, as `PhotoSearch` has it."""
        assert self._photos is not None, "they gave the evidence"
        return self._photos.in_leaves(evidence)

    def inside_by_photos(self, evidence: PhotoEvidence) -> np.ndarray:
        """How likely each query was taken in a leaf at all, by photos and cells, as it was calibrated: (Q,) float64."""
        assert self.calibration is not None, "there is none without it"
        in_leaves = None if self.calibration.in_leaves is None else self.in_leaves(evidence)
        return self.calibration.inside_by_photos(evidence.by_photos, in_leaves)

    def paths(
        self, queries: np.ndarray, leaves: np.ndarray, posterior: Posterior | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The way down to one leaf for each query, the coarsest cell first.

        queries: as for `search_prepared`. leaves: (Q,) int64. posterior: of photos and cells together, where photos
        count. Returns the cells of each level (Q, L) int64, and (Q, L) float64: what the posterior's leaves below them
        hold, or without one their softmax probabilities within the level, p_l of a score.
        """
        model = self.bundle.model
        cell = model.ancestors[leaves]
        probability = np.empty(cell.shape)
        if posterior is not None:
            query = posterior.query
            below = model.ancestors[posterior.leaf] == cell[query]
            for level in range(cell.shape[1]):
                held = np.where(below[:, level], posterior.probability, 0.0)
                probability[:, level] = np.bincount(query, held, minlength=len(leaves))
            return cell, probability
        for level in range(cell.shape[1]):
            logs = level_log_probabilities(model, queries, level=level)
            probability[:, level] = np.exp(np.take_along_axis(logs, cell[:, level : level + 1], axis=1))[:, 0]
        return cell, probability

    def prepared(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors (Q, D) as they are compared: checked, and transformed where the bundle's geocells are.

        Raises:
            InputError: wrong width, or a value that is not finite.
        """
        geocells = self.bundle.model.geocells
        check_vectors(vectors, width=geocells.width)
        return geocells.compared(np.ascontiguousarray(vectors, np.float32))


def check_vectors(vectors: np.ndarray, *, width: int) -> None:
    """Refuse vectors that a bundle of this width cannot compare. Raises InputError as `Engine.prepared`."""
    if vectors.ndim != 2 or vectors.shape[1] != width:
        raise InputError(
            f"Vectors of shape {vectors.shape}; this bundle takes (n, {width}). Were they made by another encoder?"
        )
    wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if wrong.size:
        raise InputError(f"{wrong.size} vectors hold values that are not finite, the first in row {wrong[0]}.")
