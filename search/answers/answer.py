"""One answer: where a photo was taken, how sure that is, and why."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from indexer.jobs.job_folder import OK
from indexer.vectors.features import FeatureBatch
from search.answers.engine import Engine
from search.answers.rows import columns_of

_SHORT = {"lat_deg": "lat", "lng_deg": "lng"}  # fields by the names that tables and JSON have for them


@dataclass(frozen=True, slots=True)
class PathStep:
    """One cell of the way down to an answer."""

    level: int  # 0 is the coarsest
    key: str
    city: str  # the city nearest to the cell's point
    country: str  # its ISO 3166 code
    radius_km: float  # from the cell's point to its farthest photo
    # Where photos decided: what the leaves in it hold together, the last one as much as the answer. By cells alone: its
    # own among those of its level, which together have 1.
    probability: float


@dataclass(frozen=True, slots=True)
class RankedCell:
    """One of the k best cells."""

    key: str
    lat_deg: float  # of the densest of the cell's photos that decided, else of its point
    lng_deg: float
    score: float
    probability: float


@dataclass(frozen=True, slots=True)
class GalleryPhoto:
    """A photo of a known place that decided an answer."""

    photo: str
    lat_deg: float
    lng_deg: float
    cosine: float  # of the two vectors
    weight: float  # among all photos that decided, which have 1 together


@dataclass(frozen=True, slots=True)
class Answer:
    """Where one photo was taken. Of a photo that has no answer the place and all after it are None, or empty."""

    row: int  # number of the photo among those that were given, from 0
    photo: str
    status: str  # 'ok' or a short reason code
    reason: str  # a sentence where status is not 'ok', else empty
    lat_deg: float | None = None  # where the answer points (`SearchOptions.point`)
    lng_deg: float | None = None
    key: str | None = None  # the finest cell: its token, or its label path
    point_key: str | None = None  # the finest cell that the point lies in, which may be another; None: in none
    token: str | None = None  # the S2 cell; None where cells are labels
    city: str | None = None  # nearest to the point, with at least 15,000 inhabitants
    country: str | None = None  # its ISO 3166 code
    score: float | None = None  # log of the product of similarities, up to a constant of the photo
    probability: float | None = None  # of the finest cell
    calibrated: bool | None = None  # whether the probability was fitted to held-out photos
    radius_50_km: float | None = None  # within it half of such photos were taken; None where that is not known
    radius_90_km: float | None = None  # and nine in ten
    entropy: float | None = None  # of the posterior over the finest cells, in nats
    abstain: str | None = None  # why the answer had better not be used; None where there is no such reason
    mode: str | None = None  # how it was found
    evidence: str | None = None  # what decided: cells, or cells and photos of known places
    probability_over: str | None = None  # the cells that the probability counts: all, or those that were visited
    n_photos: int | None = None  # that it was made from
    class_map: bool | None = None  # whether its class map was seen; None of an encoder that takes none
    path: tuple[PathStep, ...] = ()  # the cells above it, the coarsest first
    top: tuple[RankedCell, ...] = ()  # the k best cells, the best first, where k is above 1
    gallery: tuple[GalleryPhoto, ...] = ()  # photos that decided, the heaviest first

    @property
    def ok(self) -> bool:
        """Whether there is a place."""
        return self.status == OK

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON: what `python -m search query --json` prints of a photo, nulls and empty lists included."""
        listed = {name: [_plain(each) for each in getattr(self, name)] for name in ("path", "top", "gallery")}
        return _plain(self) | listed


# The fields of each, with their names in tables and JSON.
_NAMES: Mapping[type[Any], tuple[tuple[str, str], ...]] = {
    kind: tuple((each.name, _SHORT.get(each.name, each.name)) for each in fields(kind))
    for kind in (Answer, PathStep, RankedCell, GalleryPhoto)
}


def answers_of(engine: Engine, batch: FeatureBatch, *, k: int) -> list[Answer]:
    """An answer to each photo of a batch, in order, also to those that have no vector. Raises as `Engine.answer`."""
    photos = zip(range(len(batch)), batch.photo, batch.status, batch.reason, strict=True)
    maps = batch.class_map or [None] * len(batch)
    result = [Answer(*photo, class_map=seen) for photo, seen in zip(photos, maps, strict=True)]
    rows = np.flatnonzero(batch.ok)
    known = _known(engine, engine.prepared(batch.embedding[rows]), k=k)
    for row, own in zip(rows.tolist(), known, strict=True):
        result[row] = replace(result[row], **own)
    return result


def album_answer(engine: Engine, batch: FeatureBatch, *, k: int) -> Answer:
    """One answer to photos of one place, an album (`search.answers.album`), by those of them that have a vector.

    `photo` is the first of these, else the first of all with what is wrong with it. engine: of the protocol `album`.
    Raises as `Engine.answer`.
    """
    rows = np.flatnonzero(batch.ok)
    row = int(rows[0]) if rows.size else 0
    seen = None if batch.class_map is None else all(batch.class_map[each] is not False for each in rows.tolist())
    answer = Answer(0, batch.photo[row], batch.status[row], batch.reason[row], class_map=seen)
    if not rows.size:
        return answer
    query = album_query(engine.prepared(batch.embedding[rows]))
    (own,) = _known(engine, query, k=k, n_photos=np.array([len(rows)]))
    return replace(answer, **own)


def album_query(queries: np.ndarray) -> np.ndarray:
    """The query of an album (1, D) float32, of those of its photos (N, D)."""
    return queries.sum(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)


def _known(
    engine: Engine, queries: np.ndarray, *, k: int, n_photos: np.ndarray | None = None
) -> Iterator[dict[str, Any]]:
    """The fields of each query's answer, from its place on. queries, n_photos: as for `Engine.answers`."""
    for block, answers in engine.answers(queries, k=k, n_photos=n_photos):
        # Under a cap any leaf of a cell will do: only the cells above it are named, which are those of all of them.
        leaf = answers.best if engine.coarse is None else engine.coarse.first_leaf[answers.best]
        cells, probabilities = engine.paths(queries[block], leaf, answers.posterior)
        if answers.posterior is not None:  # the leaf has the same as its answer
            probabilities = probabilities * answers.inside[:, None]
        columns = columns_of(answers).to_pylist()
        for number, own in enumerate(columns):
            known = {name: own[short] for name, short in _NAMES[Answer] if short in own}
            path = _path(engine, cells[number], probabilities[number])
            top, gallery = _listed(RankedCell, own, "top"), _listed(GalleryPhoto, own, "gallery")
            yield {**known, "path": path, "top": top, "gallery": gallery}


def _path(engine: Engine, cells: np.ndarray, probabilities: np.ndarray) -> tuple[PathStep, ...]:
    steps = []
    for number, (cell, probability) in enumerate(zip(cells.tolist(), probabilities.tolist(), strict=True)):
        level = engine.bundle.hierarchy.levels[number]
        if engine.coarse is not None and engine.coarse.is_finer(level, cell):
            break
        where = str(level.city[cell]), str(level.country[cell])
        steps.append(PathStep(number, str(level.keys[cell]), *where, float(level.radius_km[cell]), probability))
    return tuple(steps)


def _listed(kind: type[RankedCell | GalleryPhoto], columns: Mapping[str, Any], prefix: str) -> tuple[Any, ...]:
    """What list columns hold, one for each place of the lists."""
    lists = [columns.get(f"{prefix}_{short}") or () for _, short in _NAMES[kind]]
    return tuple(kind(*each) for each in zip(*lists, strict=True))


def _plain(row: Any) -> dict[str, Any]:
    """A dataclass of numbers and texts as JSON has it, in a fifth of the time of `asdict`, which looks into values."""
    return {short: getattr(row, name) for name, short in _NAMES[type(row)]}
