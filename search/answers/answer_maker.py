"""From what was found to answers: where they point, how near the places are, the cells and photos that they name.

In: the best leaves of queries, with the posterior and what photos near them say. Out: `Answers`, held to a region and
to a precision cap where there is one.
"""

from dataclasses import dataclass, replace

import numpy as np

from indexer.bundles.bundle import Bundle
from indexer.earth.places import nearest_cities
from indexer.vectors.calibration import Calibration, Protocol
from search.answers.constraints import Region
from search.answers.gallery_photos import CELLS, GalleryPhotos, PhotoSearch
from search.answers.options import SearchOptions
from search.answers.photo_evidence import PhotoEvidence
from search.answers.points import AnswerPoints, CapPoints, Places
from search.answers.precision_cap import CoarseCells, NamedCells
from search.retrieval.found import Hits
from search.retrieval.posterior import Posterior


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """The answers to Q queries."""

    cells: NamedCells  # that places are named by: leaves, or those of a precision cap
    hits: Hits  # with these cells in place of leaves, -1 and NaN where there are fewer than K
    at: Places  # where they point
    cell_lat_deg: np.ndarray  # (Q, K) float64, of the densest photo of each of these cells, else of its point
    cell_lng_deg: np.ndarray  # (Q, K) float64
    posterior: Posterior | None  # over leaves, of photos and cells together; None where cells alone decided
    inside: np.ndarray  # (Q,) float64, what probabilities of leaves add up to: how likely it was taken in one at all
    evidence: np.ndarray  # (Q,) str, what decided: `CELLS`, or that with photos
    calibrated: bool  # whether probabilities were calibrated on held-out photos
    probability_over: str  # the leaves that a probability counts
    n_photos: np.ndarray  # (Q,) int64, how many photos each query is made of
    point_leaf: np.ndarray | None = None  # (Q,) int64, the leaf that the place lies in, -1 for none; None: not told
    photos: GalleryPhotos | None = None  # that decided; None where cells alone did, or they are not told
    # How near the places are, by what was calibrated; None where that is not known, or not wanted. Radii are None also
    # around other points than those that they were calibrated around.
    radius_50_km: np.ndarray | None = None  # (Q,) float64; half of such photos were taken within it
    radius_90_km: np.ndarray | None = None  # (Q,) float64; nine in ten were
    entropy: np.ndarray | None = None  # (Q,) float64, of the posterior over leaves, in nats
    abstain: np.ndarray | None = None  # (Q,) bool; the photo is like nothing that the bundle knows

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


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What was found of Q queries before it is told."""

    hits: Hits
    posterior: Posterior | None  # over leaves; None where nobody needs it
    evidence: PhotoEvidence | None  # None where cells alone decided
    inside: np.ndarray  # (Q,) float64, what probabilities of leaves add up to


class AnswerMaker:
    """Says of queries what the options of a search want to know."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        options: SearchOptions,
        protocol: Protocol,
        calibration: Calibration | None,
        calibrated: bool,
        coarse: CoarseCells | None,
        region: Region | None,
        photos: PhotoSearch | None,
        counts: str,
    ) -> None:
        """calibration, calibrated: what there is of such queries, and whether probabilities are true by it.

        coarse: cells of a precision cap. photos: that count beside cells. counts: the leaves that a probability counts.
        """
        self._bundle, self._options, self._protocol = bundle, options, protocol
        self._calibration, self._calibrated = calibration, calibrated
        self._cap = None if coarse is None else CapPoints(coarse)
        self._region, self._photos, self._counts = region, photos, counts
        mass_km = options.mass_km or (None if calibration is None else calibration.mass_km)
        self.points = AnswerPoints(bundle, options.point_of(bundle), mass_km=mass_km)

    @property
    def gives_areas(self) -> bool:
        """Whether answers say how near the place is."""
        known = self._calibration is not None and self._options.tells_radii(self._bundle)
        return self._options.radii is not False and known

    def __call__(self, queries: np.ndarray, found: Found, k: int, n_photos: np.ndarray) -> Answers:
        """What is said of queries of which this was found."""
        if self._cap is not None:
            return self._coarse_answers(found, self._cap, k, n_photos)
        hits, evidence, leaves = found.hits, found.evidence, self._bundle.hierarchy.leaves
        at = self._in_region(self.points(hits.leaf[:, 0], found.posterior, evidence), leaves, hits.leaf[:, 0])
        answers = replace(self._bare_answers(found, leaves, hits, at, n_photos), point_leaf=self._leaf_of(at))
        if evidence is not None and self._photos is not None:
            lat, lng = self._photos.densest(evidence, hits.leaf)
            photos = self._photos.heaviest(queries, evidence, self._options.gallery_photos)
            answers = replace(answers, cell_lat_deg=lat, cell_lng_deg=lng, photos=photos)
        answers = self._cells_in_region(answers)
        return answers if found.posterior is None else self._with_areas(answers, found, self.points, found.posterior)

    def _with_areas(
        self, answers: Answers, found: Found, points: AnswerPoints | CapPoints, named: Posterior
    ) -> Answers:
        """The same that say how near the places are, where that is known. named: the posterior of what they name."""
        if self._calibration is None or not self.gives_areas:
            return answers
        assert found.posterior is not None, "areas need it"
        half = most = None
        masses = self._options.masses(self._bundle, self._protocol)
        if masses is not None:
            half, most = points.radii_km(answers.at, found.posterior, found.evidence, masses).T
        abstain = found.hits.score[:, 0] / answers.n_photos < self._calibration.least_score
        return replace(answers, radius_50_km=half, radius_90_km=most, entropy=named.entropy(), abstain=abstain)

    def _coarse_answers(self, found: Found, cap: CapPoints, k: int, n_photos: np.ndarray) -> Answers:
        """Answers that name the cells of a precision cap, and nothing finer."""
        assert found.posterior is not None, "a cap needs it"
        coarse = cap.cells
        best = self.points.leaves(found.hits.leaf[:, 0], found.posterior, found.evidence)
        hits = coarse.hits(found.posterior, k, mode=found.hits.mode, inside=found.inside)
        into = coarse.of_leaf[best] if self.points.kind == "mass" else hits.leaf[:, 0]
        at = self._in_region(cap.at(into), coarse, into)
        answers = self._cells_in_region(self._bare_answers(found, coarse, hits, at, n_photos))
        return self._with_areas(answers, found, cap, coarse.posterior(found.posterior))

    def _bare_answers(self, found: Found, cells: NamedCells, hits: Hits, at: Places, n_photos: np.ndarray) -> Answers:
        """Answers with nothing beside the cells, hits and places that are told."""
        return Answers(
            cells=cells,
            hits=hits,
            at=at,
            cell_lat_deg=cells.lat_deg[hits.leaf],
            cell_lng_deg=cells.lng_deg[hits.leaf],
            posterior=None if found.evidence is None else found.posterior,
            inside=found.inside,
            evidence=self._evidence(found),
            calibrated=self._calibrated,
            probability_over=self._counts,
            n_photos=n_photos,
        )

    def _in_region(self, at: Places, cells: NamedCells, cell: np.ndarray) -> Places:
        """The same places, those outside the region at the nearest place inside of their cells (Q,) int64."""
        if self._region is None:
            return at
        lat, lng = self._region.moved_inside(at.lat_deg, at.lng_deg, cells, cell)
        stayed = (lat == at.lat_deg) & (lng == at.lng_deg)
        return at if stayed.all() else Places(lat, lng, *nearest_cities(lat, lng))

    def _cells_in_region(self, answers: Answers) -> Answers:
        """The same answers, the places of their cells that lie outside the region at the nearest place inside."""
        if self._region is None:
            return answers
        leaf, lat, lng = answers.hits.leaf, answers.cell_lat_deg.copy(), answers.cell_lng_deg.copy()
        known = leaf >= 0
        each = np.stack([lat[known], lng[known], leaf[known]], axis=1)
        places, which = np.unique(each, axis=0, return_inverse=True)  # many answers name the same cells
        moved = self._region.moved_inside(places[:, 0], places[:, 1], answers.cells, places[:, 2].astype(np.int64))
        lat[known], lng[known] = (degrees[which.ravel()] for degrees in moved)
        return replace(answers, cell_lat_deg=lat, cell_lng_deg=lng)

    def _evidence(self, found: Found) -> np.ndarray:
        """What decided each answer: (Q,) str."""
        if found.evidence is None or self._photos is None:
            return np.full(len(found.hits.leaf), CELLS)
        return np.where(found.evidence.there, self._photos.evidence, CELLS)

    def _leaf_of(self, at: Places) -> np.ndarray | None:
        """The leaf that each place lies in, -1 for none: (Q,) int64; None where leaves have no borders."""
        hierarchy = self._bundle.hierarchy
        return hierarchy.locate(at.lat_deg, at.lng_deg)[:, -1] if hierarchy.is_s2 else None
