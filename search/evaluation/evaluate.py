"""How right answers are: predictions joined with the truth, great-circle errors, and what follows from them.

Every photo of the truth counts. A photo without an answer is a miss; accuracy among answered photos is a figure apart.
Photos of an album share an answer, so intervals count albums where photos were asked in albums; each photo counts by
how far that answer is from its own place.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from indexer.disk.manifest import file_digest
from indexer.earth import s2
from indexer.earth.geo import haversine_km
from indexer.earth.places import countries_of
from indexer.photos.sources import PhotoTable
from search.answers.album import album_numbers
from search.evaluation.bootstrap import Intervals, intervals, paired_intervals
from search.evaluation.findings import excluded_photos, near_duplicates
from search.evaluation.metrics import Figures, cells_area_km2, disc_area_km2, figures, figures_by_group, recall_by_area
from search.evaluation.options import EvaluateConfig
from search.evaluation.photo_names import Matches, match_names
from search.evaluation.predictions import Predictions, read_predictions
from search.evaluation.reliability import Coverage, Reliability, coverage, reliability
from search.evaluation.truth import has_column, read_truth, texts_in

DEFAULT_EVALUATION = EvaluateConfig()

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Another system on the same photos, and intervals of the figures of the first minus its."""

    name: str
    evaluation: "Evaluation"
    difference: Intervals


@dataclass(frozen=True, slots=True, eq=False)
class LeftOut:
    """What remains when some photos are left out."""

    lists: Sequence[str]  # that name them
    n_left_out: int
    evaluation: "Evaluation | None"  # None where no photo remains
    alone: "Evaluation | None" = None  # of those that are left out; None where there is none


@dataclass(frozen=True, eq=False)  # no slots: cached_property needs a __dict__
class Evaluation:
    """Answers beside the truth, row by row in the truth's order."""

    photos: PhotoTable  # the truth
    lat_deg: np.ndarray  # (N,) float64 of the answers, NaN where there is none
    lng_deg: np.ndarray  # (N,) float64
    compared_by: str  # how the names of answers and truth were compared
    config: EvaluateConfig = DEFAULT_EVALUATION
    cells: pa.ListArray | None = None  # (N,) lists of uint64 S2 ids, the likeliest first
    confidence: pa.Table | None = None  # as of `Predictions`; None where answers are places and nothing else
    against: Comparison | None = None
    left_out: LeftOut | None = None
    near_duplicates: LeftOut | None = None  # by an audit; None: nobody looked
    albums: np.ndarray | None = None  # (N,) int64, which album each photo is of; None: each is one of its own
    unknown_album: str | None = None  # column that answers were asked by, where neither they nor the truth have it
    owner_column: str | None = None  # column by whose owners gallery photos were left out; None: none were

    @cached_property
    def distance_km(self) -> np.ndarray:
        """Errors (N,) float64, NaN where there is no answer."""
        return haversine_km(self.photos.lat_deg, self.photos.lng_deg, self.lat_deg, self.lng_deg)

    @cached_property
    def accuracy(self) -> Figures:
        """Figures over all photos."""
        return figures(self.distance_km, self.limits_km)

    @cached_property
    def limits_km(self) -> tuple[float, ...]:
        """The distances at which answers count as right, here and in all that this is compared with."""
        return self.config.limits_km(figures(self.distance_km).median_km)

    @cached_property
    def answered(self) -> Figures | None:
        """Figures over photos with an answer; None where there is none."""
        return self._figures_of(~np.isnan(self.distance_km))

    @cached_property
    def intervals(self) -> Intervals | None:
        """How sure the figures over all photos are; None without draws."""
        resampling = self.config.resampling
        if not resampling.resamples:
            return None
        return intervals(self.distance_km, self.limits_km, resampling, albums=self.albums)

    @property
    def n_albums(self) -> int | None:
        """How many albums photos were asked in; None where each was asked alone."""
        return None if self.albums is None else len(np.unique(self.albums))

    @cached_property
    def by_country(self) -> dict[str, Figures]:
        """Figures by the country of the true place: that of the nearest city, which may lie across a border."""
        return figures_by_group(self._countries[0], self.distance_km, self.limits_km)

    @cached_property
    def by_continent(self) -> dict[str, Figures]:
        """Figures by the continent of that country, as GeoNames has it: all of Russia counts as Europe."""
        return figures_by_group(self._countries[1], self.distance_km, self.limits_km)

    @cached_property
    def _countries(self) -> tuple[np.ndarray, np.ndarray]:
        return countries_of(self.photos.lat_deg, self.photos.lng_deg)

    def recall_by_area(self, areas_km2: Sequence[float]) -> dict[str, np.ndarray]:
        """Percent of photos found within each area: `discs` around the points, `cells` where answers list them."""
        curves = {"discs": recall_by_area(disc_area_km2(self.distance_km), areas_km2)}
        if self.cells is not None:
            needed = cells_area_km2(self.cells, self.photos.lat_deg, self.photos.lng_deg)
            curves["cells"] = recall_by_area(needed, areas_km2)
        return curves

    @cached_property
    def reliability(self) -> Reliability | None:
        """Whether probabilities mean what they say; None where answers have none, or cells are labels."""
        if self.confidence is None:
            return None
        cell, probability = self.confidence["s2_id"].fill_null(0).to_numpy(), self.confidence["probability"].to_numpy()
        rows = np.flatnonzero((cell > 0) & ~np.isnan(probability))
        if not rows.size:
            return None
        cell, true = cell[rows], s2.point_ids(self.photos.lat_deg[rows], self.photos.lng_deg[rows])
        right = (s2.range_min(cell) <= true) & (true <= s2.range_max(cell))
        return reliability(probability[rows], right, self.config.resampling, albums=self._albums_of(rows))

    @property
    def calibrated(self) -> bool:
        """Whether all probabilities were calibrated."""
        return self.confidence is not None and False not in self.confidence["calibrated"].to_pylist()

    @cached_property
    def coverages(self) -> list[Coverage]:
        """How often true places lie within the radii of answers; empty where these have none."""
        if self.confidence is None:
            return []
        radii = [(0.5, self.confidence["radius_50_km"].to_numpy()), (0.9, self.confidence["radius_90_km"].to_numpy())]
        given = [(share, radius, np.flatnonzero(~np.isnan(radius))) for share, radius in radii]
        return [
            coverage(share, radius[rows], self.distance_km[rows], albums=self._albums_of(rows))
            for share, radius, rows in given
            if rows.size
        ]

    @property
    def n_abstained(self) -> int:
        """How many answers abstain."""
        return 0 if self.confidence is None else len(self.confidence) - self.confidence["abstain"].null_count

    @cached_property
    def without_abstained(self) -> Figures | None:
        """Figures over answers that do not abstain; None where none abstains, or all do."""
        if self.confidence is None or not self.n_abstained:
            return None
        return self._figures_of(~np.isnan(self.distance_km) & self.confidence["abstain"].is_null().to_numpy())

    def _figures_of(self, photos: np.ndarray) -> Figures | None:
        """Figures over some of the photos, (N,) bool; None where there is none."""
        return figures(self.distance_km[photos], self.limits_km) if photos.any() else None

    def _albums_of(self, photos: np.ndarray) -> np.ndarray | None:
        return None if self.albums is None else self.albums[photos]

    def without(self, left_out: np.ndarray) -> "Evaluation | None":
        """The same over the photos that are not left out, (N,) bool; None where none remains."""
        kept = np.flatnonzero(~left_out)
        if not kept.size:
            return None
        names = [self.photos.photo[row] for row in kept.tolist()]
        return Evaluation(
            PhotoTable(names, self.photos.lat_deg[kept], self.photos.lng_deg[kept]),
            self.lat_deg[kept],
            self.lng_deg[kept],
            self.compared_by,
            replace(self.config, thresholds_km=self.limits_km),
            None if self.cells is None else self.cells.take(pa.array(kept)),
            None if self.confidence is None else self.confidence.take(pa.array(kept)),
            albums=self._albums_of(kept),
            owner_column=self.owner_column,
        )


def evaluate_predictions(
    predictions: str | Path,
    truth: str | Path,
    *,
    photos: PhotoTable | None = None,
    config: EvaluateConfig = DEFAULT_EVALUATION,
) -> Evaluation:
    """Compare predictions with the truth, and with what the config names beside.

    predictions: a folder written by `run`, or anybody's .parquet or .csv with photo, lat, lng. truth: a photo table,
    or with a benchmark whatever `search.evaluation.truth` reads; photos: those in it, where they were read before.
    Names are compared as `photo_names` says.

    Raises:
        InputError: unreadable tables, a prediction off the Earth, or names that do not identify a photo.
    """
    predictions, truth = Path(predictions), Path(truth)
    if photos is None:
        photos = read_truth(truth, benchmark=config.benchmark_name, split=config.split)
    result = _evaluation(predictions, photos, truth, config)
    if config.against is not None:
        other = _evaluation(Path(config.against), photos, truth, config)
        result = replace(result, against=compare(result, other, name=str(config.against)))
    if config.exclude:
        result = replace(result, left_out=leave_out(result, [Path(source) for source in config.exclude]))
    if config.audit is not None:
        result = replace(result, near_duplicates=leave_out_duplicates(result, Path(config.audit), truth=truth))
    return result


def _evaluation(predictions: Path, photos: PhotoTable, truth: Path, config: EvaluateConfig) -> Evaluation:
    answers = read_predictions(predictions)
    matches = match_names(answers.photo, photos.photo, source=str(predictions), wanted_by=str(truth))
    take = pa.array(matches.row, mask=~matches.found)
    lat, lng = (np.where(matches.found, values[matches.row], np.nan) for values in (answers.lat_deg, answers.lng_deg))
    cells, confidence = (None if each is None else each.take(take) for each in (answers.cells, answers.confidence))
    albums = _albums(answers, matches, truth, config)
    return Evaluation(
        photos,
        lat,
        lng,
        matches.rule,
        config,
        cells,
        confidence,
        albums=albums,
        unknown_album=answers.album if albums is None else None,
        owner_column=answers.owner_column,
    )


def _albums(answers: Predictions, matches: Matches, truth: Path, config: EvaluateConfig) -> np.ndarray | None:
    """Which album each photo of the truth is of, (N,) int64; None where none was asked, or nobody knows of which.

    By the column that the config names; else by the answers' own numbers; else, of answers that have none, by the
    column that they were asked by, where the truth has it.
    """
    column, benchmark = config.album or answers.album, config.benchmark_name
    if column is None:
        return None
    if config.album is None and answers.albums is not None:
        # A photo of the truth that was not asked is an album of its own.
        alone = int(answers.albums.max(initial=-1)) + 1 + np.arange(len(matches.row))
        return np.where(matches.found, answers.albums[matches.row], alone)
    if config.album is None and not has_column(truth, column, benchmark=benchmark):
        return None
    return album_numbers(texts_in(truth, column, benchmark=benchmark, split=config.split))


def compare(one: Evaluation, other: Evaluation, *, name: str) -> Comparison:
    """Compare a system with another that answered the same photos and goes by a name."""
    assert list(one.photos.photo) == list(other.photos.photo), "two truths"
    other = replace(other, config=replace(other.config, thresholds_km=one.limits_km))
    difference = paired_intervals(
        one.distance_km,
        other.distance_km,
        one.limits_km,
        one.config.resampling,
        albums=other.albums if one.albums is None else one.albums,
    )
    return Comparison(name, other, difference)


def leave_out(evaluation: Evaluation, lists: Sequence[Path]) -> LeftOut:
    """Evaluate without the photos that tables name in a column photo; a photo may be named several times.

    Raises:
        InputError: a table cannot be read, or names photos but none of the truth: it is of other photos.
    """
    return _left_out(evaluation, {str(source): excluded_photos(source) for source in lists})


def leave_out_duplicates(evaluation: Evaluation, audit: Path, *, truth: Path) -> LeftOut:
    """Evaluate without the photos of which an audit found a near-duplicate among its references.

    All photos of an album share the answer that one of them with a near-duplicate helped to make, and are left out.

    truth: what the evaluation's photos were read from.

    Raises:
        ArtifactError: no folder that `audit` wrote.
        InputError: it compared its photos with nothing, or found near-duplicates, but none of a photo of the truth.
    """
    found, names = near_duplicates(audit), evaluation.photos.photo
    if found.n_audited < len(names):
        log.warning(
            "%s: %d photos were audited, and the truth has %d: near-duplicates of the others are not known.",
            *(audit, found.n_audited, len(names)),
        )
    if truth.is_file() and found.digest == file_digest(truth):  # all rows of it may have been audited, and not all used
        here = set(names)
        found = replace(found, photos=[name for name in found.photos if name in here])
    return _left_out(evaluation, {str(audit): found.photos}, whole_albums=True)


def _left_out(evaluation: Evaluation, named: Mapping[str, Sequence[str]], *, whole_albums: bool = False) -> LeftOut:
    """Evaluate without photos, by what names them; with whole albums, without all photos of their albums."""
    left_out = np.zeros(len(evaluation.photos), bool)
    for source, photos in named.items():
        if photos:
            left_out |= match_names(photos, evaluation.photos.photo, source=source, wanted_by="the truth").found
    if whole_albums and evaluation.albums is not None:
        left_out = np.isin(evaluation.albums, evaluation.albums[left_out])
    return LeftOut(list(named), int(left_out.sum()), evaluation.without(left_out), evaluation.without(~left_out))
