"""The engine: an opened bundle that answers vectors with places.

In: vectors of photos, from the encoder the bundle was built for. Out: the best finest cells with their scores and
probabilities, and on request the posterior over all cells, and the path of cells above each answer.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from encoder.config import DeviceName
from encoder.device import choose_device
from indexer.bundles.bundle import Bundle, open_bundle
from indexer.bundles.faiss_index import list_count
from indexer.bundles.registry import Registry
from indexer.errors import ArtifactError, BundleMismatch, InputError
from indexer.vectors.calibration import Protocol
from indexer.vectors.scoring import level_log_probabilities
from search.answers.constraints import allowed_cells, region_digests
from search.answers.options import DEFAULT_OPTIONS, SearchOptions
from search.answers.points import AnswerPoints, Places
from search.answers.precision_cap import CoarseCells, NamedCells
from search.answers.radii import radii_km
from search.answers.references import ReferencePhotos, SimilarPhotos
from search.retrieval.adaptive import AdaptiveSearch
from search.retrieval.cosine import CosineSearch
from search.retrieval.exact import ExactSearch
from search.retrieval.found import ALL_LEAVES, Hits, Search, Searched, joined_hits, queries_at_once
from search.retrieval.lists import BeamSearch, HierarchyLists
from search.retrieval.posterior import LEFT_OUT, Posterior


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """The answers to Q queries."""

    cells: NamedCells  # that places are named by: leaves, or those of a precision cap
    hits: Hits  # with these cells in place of leaves, -1 and NaN where there are fewer than K
    at: Places  # where they point
    # How near the places are, by what was calibrated; None where that is not known, or not wanted. Radii are None also
    # around other points than those that they were calibrated around.
    radius_50_km: np.ndarray | None  # (Q,) float64; half of such photos were taken within it
    radius_90_km: np.ndarray | None  # (Q,) float64; nine in ten were
    entropy: np.ndarray | None  # (Q,) float64, of the posterior over leaves, in nats
    abstain: np.ndarray | None  # (Q,) bool; the photo is like nothing that the bundle knows
    references: SimilarPhotos | None  # of the best cell; None where they are not wanted
    calibrated: bool  # whether probabilities were calibrated on held-out photos
    probability_over: str  # the leaves that a probability counts
    n_photos: np.ndarray  # (Q,) int64, how many photos each query is made of

    def __len__(self) -> int:
        return len(self.hits.leaf)

    @property
    def best(self) -> np.ndarray:
        """The best of the cells, (Q,) int64."""
        return self.hits.leaf[:, 0]

    @property
    def s2_ids(self) -> np.ndarray | None:
        """Its S2 cell, (Q,) uint64; None where cells are labels."""
        return None if self.cells.s2_ids is None else self.cells.s2_ids[self.best]


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
        self.calibration = bundle.calibrations.get(protocol) if options.score == "softmax" else None
        self.calibrated = self.calibration is not None and options.searches_as_calibrated(bundle)
        cap_km = options.cap_km(bundle)
        self.coarse = None if cap_km is None else CoarseCells(bundle.hierarchy.leaves, cap_km)
        self._allowed = self._allowed_leaves()
        self._searched = Searched.of(bundle, leaves=self._allowed, prior_exponent=options.prior_exponent)
        self.reference_photos = ReferencePhotos(bundle) if options.wants_references else None
        self._points = AnswerPoints(bundle, options.point, within_km=options.within_km, photos=self.reference_photos)
        self._where = choose_device(device)

    def _allowed_leaves(self) -> np.ndarray | None:
        """The leaves of the region that answers are held to, (R,) int64; None for all."""
        region, not_region = self.options.region, self.options.not_region
        if region is None and not_region is None:
            return None
        if self.coarse is None:
            return allowed_cells(self.bundle.hierarchy.leaves, region=region, not_region=not_region)
        # Under a cap by whole cells: which leaves a border parts would tell more.
        allowed = allowed_cells(self.coarse, region=region, not_region=not_region)
        return np.flatnonzero(np.isin(self.coarse.of_leaf, allowed))

    @cached_property
    def _search(self) -> Search:
        """Opened by the thread that searches, when it first does.

        Each thread that runs torch on several cores has a pool of threads for it; with more threads than cores they
        sleep between one operation and the next, and a search takes half as long again.
        """
        options, searched, model = self.options, self._searched, self._searched.model
        if options.score != "softmax":
            return CosineSearch(model, "clamped" if options.score == "cosine-clamped" else "affine")
        mode = options.mode
        if mode == "auto":
            mode = "beam" if list_count(searched.leaf_index) else "exact"
        if mode == "exact":
            return ExactSearch.of(searched, self._where)
        lists = HierarchyLists.of(searched)
        if mode == "beam":
            return BeamSearch(model, lists, probes=options.probes)
        rows = searched.leaf_vectors
        return AdaptiveSearch(model, lists, rows, probes=options.probes, max_probes=options.max_probes)

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
        counts = self._search.counts
        if self._allowed is None:
            return counts
        return "allowed leaves" if counts == ALL_LEAVES else "visited allowed leaves"

    @property
    def search_facts(self) -> dict[str, Any]:
        """How it searches, for a run's manifest."""
        return {
            "mode": self._search.name,
            "score": self.options.score,
            "probability_over": self.counts,
            "region": self.options.region,
            "not_region": self.options.not_region,
            "prior_exponent": self._searched.model.geocells.prior_exponent,
            **self._search.facts,
            **({} if self._allowed is None else {"allowed_leaves": len(self._allowed)}),
        }

    @property
    def gives_areas(self) -> bool:
        """Whether answers say how near the place is."""
        return self.options.radii is not False and self.calibrated

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
        return self._searched.model.n_leaves

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
        left_out: float | None = None,
    ) -> Hits:
        """The same for vectors as they are compared: what `prepared` gives, or sums of it.

        n_photos: (Q,) int64, how many photos each is a sum of; None: 1. left_out: what leaves that a posterior does not
        list may hold together; None: no posteriors are wanted.

        Raises:
            InputError: k is not between 1 and the number of leaves, or posteriors are wanted where cosines are
                multiplied, which gives no probabilities.
        """
        k = self._check_k(k, self.n_leaves, "finest cells")
        if not probability or not len(queries):
            hits = self._search(queries, k, temperature=1.0 if probability else None, left_out=left_out)
        else:  # the queries of one temperature at a time
            made_of = np.ones(len(queries), np.int64) if n_photos is None else n_photos
            temperatures = np.ones(len(queries)) if self.calibration is None else self.calibration.temperatures(made_of)
            values, which = np.unique(temperatures, return_inverse=True)
            rows = [np.flatnonzero(which == number) for number in range(len(values))]
            each = zip(rows, values.tolist(), strict=True)
            parts = [self._search(queries[own], k, temperature=value, left_out=left_out) for own, value in each]
            hits = parts[0] if len(parts) == 1 else joined_hits(parts, k).take(np.argsort(np.concatenate(rows)))
        leaf, posterior = hits.leaf, hits.posterior
        if self._allowed is not None:  # as they are numbered in the bundle
            leaf = np.where(leaf < 0, -1, self._allowed[leaf])
            if posterior is not None:
                posterior = replace(posterior, leaf=self._allowed[posterior.leaf])
        return replace(hits, leaf=leaf, probability=self._inside * hits.probability, posterior=posterior)

    def with_posterior(
        self, queries: np.ndarray, *, k: int = 1, n_photos: np.ndarray | None = None, left_out: float = LEFT_OUT
    ) -> tuple[Hits, Posterior]:
        """The same with the probabilities of all cells that count, from one look at them."""
        hits = self.search_prepared(queries, k=k, n_photos=n_photos, left_out=left_out)
        assert hits.posterior is not None, "it was wanted"
        return hits, hits.posterior

    def answers(
        self, queries: np.ndarray, *, k: int, n_photos: np.ndarray | None = None
    ) -> Iterator[tuple[slice, Answers]]:
        """`answer`, so many queries at a time as are good to search for together; of no query, no answers once.

        queries, n_photos: as for `search_prepared`.
        """
        step = queries_at_once(self.counts, self.n_leaves)
        for start in range(0, max(len(queries), 1), step):
            block = slice(start, start + step)
            yield block, self.answer(queries[block], k=k, n_photos=None if n_photos is None else n_photos[block])

    def answer(self, queries: np.ndarray, *, k: int, n_photos: np.ndarray | None = None) -> Answers:
        """The k best finest cells of queries, where each answer points, and how near the place is where that is known.

        queries, n_photos: as for `search_prepared`. Raises InputError as `check_k`.
        """
        k = self.check_k(k)
        n_photos = np.ones(len(queries), np.int64) if n_photos is None else n_photos
        options, coarse = self.options, self.coarse
        if self.gives_areas or options.point == "mass" or coarse is not None:
            hits, posterior = self.with_posterior(queries, k=k if coarse is None else 1, n_photos=n_photos)
        else:
            hits, posterior = self.search_prepared(queries, k=k, n_photos=n_photos), None
        cells: NamedCells = self.bundle.hierarchy.leaves
        leaf, similar = hits.leaf[:, 0], None
        half = most = entropy = abstain = None
        if coarse is not None and posterior is not None:
            cells, hits = coarse, coarse.hits(posterior, k, mode=hits.mode, inside=self._inside)
            into = coarse.of_leaf[self._points.leaves(leaf, posterior)] if options.point == "mass" else hits.leaf[:, 0]
            at = Places(coarse.lat_deg[into], coarse.lng_deg[into], coarse.city[into], coarse.country[into])
        else:
            if options.references and self.reference_photos is not None:
                similar = self.reference_photos.most_similar(queries, leaf, options.references)
            at = self._points(queries, leaf, posterior, similar=similar)
            if posterior is not None and self.calibration is not None and self.gives_areas:
                masses = options.masses(self.calibration)
                if masses is not None:
                    half, most = radii_km(posterior, self._points.discs, at.lat_deg, at.lng_deg, masses).T
                entropy = posterior.entropy()
                abstain = hits.score[:, 0] / n_photos < self.calibration.least_score
        near = half, most, entropy, abstain
        return Answers(cells, hits, at, *near, similar, self.calibrated, self.counts, n_photos)

    @property
    def _inside(self) -> float:
        """What probabilities over leaves add up to."""
        return self.calibration.inside if self.calibrated and self.calibration is not None else 1.0

    def paths(self, queries: np.ndarray, leaves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The way down to one leaf for each query, the coarsest cell first.

        queries: as for `search_prepared`. leaves: (Q,) int64. Returns the cells of each level (Q, L) int64, and their
        softmax probabilities within the level, p_l of the paper, (Q, L) float64.
        """
        model = self.bundle.model
        cell = model.ancestors[leaves]
        probability = np.empty(cell.shape)
        for level in range(cell.shape[1]):
            logs = level_log_probabilities(model, queries, level=level)
            probability[:, level] = np.exp(np.take_along_axis(logs, cell[:, level : level + 1], axis=1))[:, 0]
        return cell, probability

    def prepared(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors (Q, D) as they are compared: checked, and transformed where the bundle's geocells are.

        Raises:
            InputError: wrong width, or a value that is not finite.
        """
        model = self.bundle.model
        if vectors.ndim != 2 or vectors.shape[1] != model.geocells.width:
            raise InputError(
                f"Vectors of shape {vectors.shape}; this bundle takes (n, {model.geocells.width}). "
                "Were they made by another encoder?"
            )
        wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if wrong.size:
            raise InputError(f"{wrong.size} vectors hold values that are not finite, the first in row {wrong[0]}.")
        return model.geocells.compared(np.ascontiguousarray(vectors, np.float32))
