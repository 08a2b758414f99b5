"""How photos count, fitted to held-out queries: the numbers of `PhotoFit`, and the reranker where one is better.

In: a bundle with a gallery, held-out queries with the photos near to them, what was fitted of cells alone. Out: the
numbers. What makes the true place likeliest is fitted first (`search.calibration.photo_fit`), and a reranker to what
that leaves (`search.calibration.reranker_fit`). Then, by the answers themselves, how wide bells are for pointing, where
errors are least; whether the reranker stays; and how many lists are looked at, so that they hold 99 % of the weight
that a look at all photos finds, and that 99 % of answers stay where they are.

A reranker stays where queries that it was not fitted to say so: the mean loss is less with it by more than chance, and
answers are not farther off by more than chance.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType

import numpy as np

from encoder.config import DeviceName
from encoder.models.device import choose_device
from indexer.bundles.bundle import Bundle
from indexer.bundles.gallery_choice import LISTS, WEIGHT
from indexer.earth.geo import haversine_km, lat_lng
from indexer.vectors.calibration import Calibration, PhotoFit, Protocol, usual_photo_fit
from indexer.vectors.reranker import Reranker
from indexer.vectors.scoring import leaf_vectors, scores_of
from search.answers.answer_maker import Found
from search.answers.engine import Engine
from search.answers.options import GalleryName, SearchOptions
from search.answers.photo_evidence import PhotoEvidence
from search.answers.points import usual_mass_km
from search.answers.recall import STAYED, held_and_moved
from search.calibration.held_out import HeldOutQueries
from search.calibration.photo_fit import MOST_NEAR, PhotoSample, fit_photos
from search.calibration.reranker_fit import FOLDS, Reranking, fit_reranker
from search.evaluation.bootstrap import Interval, mean_interval
from search.evaluation.options import Resampling
from search.retrieval.exact import ExactSearch
from search.retrieval.gallery_lists import GalleryLists, NearPhotos
from search.retrieval.proof import tensor_of

log = logging.getLogger(__name__)

_ALL_LOOKED_AT = 1 << 18  # photos of a gallery that is looked at whole for a fit; of larger ones the best lists
_MOST_LISTS = 512
_SAME = 0.99  # of answers that must stay where they are with fewer lists
_POINT_WIDTHS = np.geomspace(0.25, 4, 9)  # of bells for pointing, in those of the median leaf
_TOGETHER = 1024  # queries that are answered together
_ENOUGH = 2000  # queries to choose how wide and how many by


@dataclass(frozen=True, slots=True)
class RerankerGain:
    """What a reranker gains for queries that it was not fitted to."""

    kept: bool
    loss: float  # mean of what the log losses of the true leaf and of the true place are less by, together
    of_loss: Interval
    error: float | None  # mean of what log(1 + km) is less by; None where the loss said enough
    of_error: Interval | None


@dataclass(frozen=True, slots=True, eq=False)
class PhotoNumbers:
    """How photos count."""

    fit: PhotoFit
    temperature: float  # of the cells' part
    in_leaves: float | None = None  # `Calibration.in_leaves`
    reranker: Reranker | None = None
    gain: RerankerGain | None = None  # None where no reranker was tried


class PhotoFitting:
    """What fits to held-out queries how photos count in answers from one bundle.

    Args:
        bundle: one with a gallery.
        cells: the calibration of its cells alone.
        protocol: how queries are made of photos.
        device: where the search of cells runs.
        resampling: for the interval of what a reranker gains.
        fixed: numbers of `PhotoFit` that are given, not fitted.
    """

    def __init__(
        self,
        bundle: Bundle,
        cells: Calibration,
        *,
        protocol: Protocol,
        device: DeviceName,
        resampling: Resampling,
        fixed: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        gallery, model = bundle.gallery, bundle.model
        assert gallery is not None, "without one there are cells alone"
        self.gallery, self.bundle, self.cells = gallery, bundle, cells
        self._protocol, self._device, self._fixed = protocol, device, fixed
        self._resampling = resampling if resampling.resamples else Resampling()  # a choice needs an interval
        self._lists, self._width_km = GalleryLists(gallery), bundle.hierarchy.leaves.median_width_km
        leaf_rows = tensor_of(leaf_vectors(model)).to(choose_device(device))
        self._search = ExactSearch(model, leaf_rows, low_precision=False)
        self._everywhere = len(gallery) <= _ALL_LOOKED_AT
        self._most_lists = min(_MOST_LISTS, model.n_leaves)

    @property
    def start(self) -> PhotoNumbers:
        """The numbers where nothing was fitted."""
        usual = usual_photo_fit(self._width_km, similarity=self.gallery.facts.similarity)
        return PhotoNumbers(PhotoFit(**asdict(usual) | dict(self._fixed)), self.cells.temperature)

    def near(self, sample: HeldOutQueries) -> NearPhotos:
        """The photos that a fit looks at."""
        lists = None if self._everywhere else self._search(sample.queries, self._most_lists).leaf
        return self._lists.nearest(sample.queries, lists, near=MOST_NEAR)

    def __call__(self, sample: HeldOutQueries, near: NearPhotos, *, reranked: bool | None = None) -> PhotoNumbers:
        """The numbers that fit queries and the photos near to them best.

        reranked: whether with a reranker; None: where it is better.
        """
        known = PhotoSample(
            sample,
            near=near,
            leaf_score=scores_of(self.bundle.model, sample.queries, np.maximum(near.leaf, 0)),
            gallery=self.gallery,
            leaves=self.bundle.hierarchy.leaves,
            with_photos=self._lists.sizes > 0,
            search=self._search,
        )
        fit, temperature = self._fit(known, self.start.fit)
        fit = replace(fit, lists=self._most_lists)
        few = sample.take(np.arange(min(len(sample), _ENOUGH)))
        width, errors = _best_width(few, self._all(PhotoNumbers(fit, temperature), few), self._width_km)
        numbers = PhotoNumbers(replace(fit, point_width_km=width), temperature)
        if reranked is not False:
            log.info("fitting a reranker to %s queries", f"{len(sample):,}")
            cells, fold = known.cells_part(temperature, self.cells.growth), sample.folds(FOLDS)
            reranking = fit_reranker(known, fit, cells, fold=fold, resampling=self._resampling)
            gain = RerankerGain(reranked or False, reranking.gain, reranking.interval, None, None)
            numbers = replace(numbers, gain=gain)
            if reranked or reranking.interval.low > 0:
                fit, temperature = self._fit(known, fit, reranked=reranking.unseen)
                numbers = self._judged(numbers, PhotoNumbers(fit, temperature), reranking, few, errors)
        log.info("choosing how many lists are looked at")
        numbers = self._with_lists(numbers, few)
        return replace(numbers, in_leaves=self._in_leaves(numbers, few))

    def engine(self, numbers: PhotoNumbers, gallery: GalleryName = "lists") -> Engine:
        """Answers by these numbers, by exact search, whatever way the bundle is searched."""
        # What discs hold, and when answers abstain, is what they are asked for.
        of_photos = Calibration(
            temperature=numbers.temperature,
            growth=self.cells.growth,
            inside=self.cells.inside,
            masses={"cell": (0.0, 1.0)},
            mass_km=usual_mass_km(self.bundle.hierarchy),
            least_score=0.0,
            queries=0,
            fit=numbers.fit,
            in_leaves=numbers.in_leaves,
            reranker=numbers.reranker,
        )
        calibrations = {self._protocol: replace(of_photos, fit=None, reranker=None, with_photos=of_photos)}
        options = SearchOptions(mode="exact", gallery=gallery, radii=False)
        bundle = replace(self.bundle, calibrations=calibrations)
        return Engine(bundle, device=self._device, options=options, protocol=self._protocol)

    def _fit(
        self, known: PhotoSample, start: PhotoFit, *, reranked: np.ndarray | None = None
    ) -> tuple[PhotoFit, float]:
        return fit_photos(
            known,
            start,
            temperature=self.cells.temperature,
            growth=self.cells.growth,
            leaf_width_km=self._width_km,
            reranked=reranked,
            fixed=self._fixed,
        )

    def _all(self, numbers: PhotoNumbers, sample: HeldOutQueries) -> list[PhotoEvidence]:
        """The evidence of a look at all photos, or at so many lists that it is as good."""
        return _evidence(self.engine(numbers, "all" if self._everywhere else "lists"), sample)

    def _judged(
        self,
        without: PhotoNumbers,
        numbers: PhotoNumbers,
        reranking: Reranking,
        sample: HeldOutQueries,
        errors: np.ndarray,
    ) -> PhotoNumbers:
        """The numbers with a reranker, or without it where answers are farther off, unless it is wanted anyway.

        without: the numbers without it, and whether it is wanted anyway. numbers: what fits best beside it. errors:
        (N,) log(1 + km) without it, of the sample.
        """
        fold = reranking.fold[: len(sample)]
        order = np.argsort(fold, kind="stable")  # each fold is answered by what did not see it
        unseen = [
            evidence
            for number, reranker in enumerate(reranking.of_fold)
            for evidence in self._all(replace(numbers, reranker=reranker), sample.take(np.flatnonzero(fold == number)))
        ]
        width, others = _best_width(sample.take(order), unseen, self._width_km)
        gained = errors[order] - others
        interval = mean_interval(gained, self._resampling)
        wanted = without.gain is not None and without.gain.kept
        gain = RerankerGain(
            wanted or interval.high >= 0, reranking.gain, reranking.interval, float(gained.mean()), interval
        )
        if not gain.kept:
            return replace(without, gain=gain)
        fit = replace(numbers.fit, point_width_km=width)
        return replace(numbers, fit=fit, reranker=reranking.reranker, gain=gain)

    def _in_leaves(self, numbers: PhotoNumbers, sample: HeldOutQueries) -> float | None:
        """The mean share of the photos' weight that lies in a leaf, of queries that have photos."""
        engine, parts = self.engine(numbers), list[np.ndarray]()
        for evidence in _evidence(engine, sample):
            share = engine.in_leaves(evidence)
            if share is None:
                return None
            parts.append(share[evidence.there])
        shares = np.concatenate(parts)
        return float(shares.mean()) if shares.any() else None

    def _with_lists(self, numbers: PhotoNumbers, sample: HeldOutQueries) -> PhotoNumbers:
        """The same with the least number of lists that says what all of them do."""
        whole = self._all(numbers, sample)
        for number in LISTS:
            fewer = replace(numbers, fit=replace(numbers.fit, lists=number))
            if number < self._most_lists and _holds_enough(
                whole, _evidence(self.engine(fewer), sample), numbers.fit.width_km
            ):
                return fewer
        return numbers


def found_of(engine: Engine, sample: HeldOutQueries) -> Sequence[tuple[slice, Found]]:
    """What is found of queries, so many at a time."""
    blocks = [slice(start, start + _TOGETHER) for start in range(0, len(sample), _TOGETHER)]
    return [(block, engine.find(sample.queries[block], n_photos=sample.n_photos[block])) for block in blocks]


def _evidence(engine: Engine, sample: HeldOutQueries) -> list[PhotoEvidence]:
    return [found.evidence for _, found in found_of(engine, sample) if found.evidence is not None]


def _best_width(
    sample: HeldOutQueries, whole: Sequence[PhotoEvidence], leaf_width_km: float
) -> tuple[float, np.ndarray]:
    """How wide bells are for pointing where errors are least, and log(1 + km) of each query with that: (N,) float64."""
    widths = np.maximum(leaf_width_km * _POINT_WIDTHS, 0.02).tolist()
    errors = [_errors(whole, sample, width) for width in widths]
    best = int(np.argmin([each.mean() for each in errors]))
    return widths[best], errors[best]


def _errors(whole: Sequence[PhotoEvidence], sample: HeldOutQueries, width_km: float) -> np.ndarray:
    """log(1 + km) between true places and where bells of this width let answers point, 0 without photos: (N,)."""
    points = np.concatenate([evidence.pointing(width_km).points for evidence in whole])
    there = np.concatenate([evidence.there for evidence in whole])
    lat, lng = lat_lng(np.nan_to_num(points))
    return np.where(there, np.log1p(haversine_km(lat, lng, sample.lat_deg, sample.lng_deg)), 0.0)


def _holds_enough(whole: Sequence[PhotoEvidence], few: Sequence[PhotoEvidence], width_km: float) -> bool:
    """Whether fewer lists hold the weight of all photos, and let answers stay where these have them.

    width_km: of bells around photos, which is finer than what answers point by.
    """
    parts = [held_and_moved(of_all, of_few) for of_all, of_few in zip(whole, few, strict=True)]
    held, moved_km = (np.concatenate(each) for each in zip(*parts, strict=True))
    stay = moved_km <= STAYED * width_km
    return bool(held.mean() >= WEIGHT and stay.mean() >= _SAME)
