"""Held-out queries: photos, or albums, whose true places are known and that nothing else was fitted to."""

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer.bundles.bundle import Bundle
from indexer.cells.hierarchy import Hierarchy
from indexer.cells.labels import label_columns, locate_labels
from indexer.earth.geo import lat_lng, point_tree, unit_vectors
from indexer.errors import InputError
from indexer.jobs.progress import track
from indexer.photos.sources import PhotoTable
from indexer.photos.tables import open_table, read_columns
from indexer.vectors.cell_sums import CellSums
from indexer.vectors.features import FeatureSource
from search.answers.album import albums_of_table
from search.evaluation.truth import read_truth

log = logging.getLogger(__name__)

FEWEST = 100  # queries: with fewer, nine in ten are a matter of luck
_ENOUGH_FOR_HALVES, _FOLDS = 400, 5


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutQueries:
    """Queries whose true places are known: photos, or albums."""

    names: np.ndarray  # (N,) objects, the names of the photos that each is made of: tuples of one or more
    queries: np.ndarray  # (N, D) float32, as `Engine.search_prepared` takes them
    n_photos: np.ndarray  # (N,) int64, that each is made of
    lat_deg: np.ndarray  # (N,) float64
    lng_deg: np.ndarray  # (N,) float64
    leaf: np.ndarray  # (N,) int64, the leaf of the true place, -1 for outside all

    def __len__(self) -> int:
        return len(self.queries)

    def take(self, rows: np.ndarray) -> "HeldOutQueries":
        """Some of them, by their number."""
        return HeldOutQueries(*(getattr(self, column.name)[rows] for column in fields(self)))

    @property
    def name(self) -> np.ndarray:
        """What each is told apart by, (N,) str: the name of the photo, or of an album's first."""
        return np.array([names[0] for names in self.names], object)

    @property
    def inside(self) -> float:
        """The share that was taken in a leaf."""
        return float((self.leaf >= 0).mean())

    def folds(self, n: int) -> np.ndarray:
        """Which of n folds each is of, by name alone: (N,) int64."""
        fold = np.empty(len(self), np.int64)
        fold[self.order] = np.arange(len(self)) % n
        return fold

    @property
    def order(self) -> np.ndarray:
        """An order that depends on names alone and is none of theirs: (N,) int64."""
        digests = [hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest() for name in self.name]
        return np.argsort(np.frombuffer(b"".join(digests), "<u8"), kind="stable")

    def divided(self) -> "Division":
        """Which of them numbers are fitted to, and which ones say what these promise: by name alone."""
        order = self.order
        if len(self) >= _ENOUGH_FOR_HALVES:
            return Division(((np.sort(order[::2]), np.sort(order[1::2])),), approximate=False)
        folds = [np.sort(order[number::_FOLDS]) for number in range(_FOLDS)]
        everybody = np.arange(len(self))
        return Division(tuple((np.setdiff1d(everybody, fold), fold) for fold in folds), approximate=True)


@dataclass(frozen=True, slots=True, eq=False)
class Division:
    """Held-out queries, divided: what is fitted and what is promised come from different photos."""

    # Numbers of queries that are fitted to, and of those that say what the fit promises. Of many queries one half each;
    # of few, each fifth in turn says what the fit to the others promises, which is approximate.
    parts: tuple[tuple[np.ndarray, np.ndarray], ...]
    approximate: bool


def held_out(
    bundle: Bundle, features: FeatureSource, truth: Path, *, split: str | None = None, album: str | None = None
) -> HeldOutQueries:
    """The queries of features whose places a table knows.

    truth: photo, lat, lng (and the labels of a tree of labels, unless its leaves are places with names), or a folder of
    photos with places; names as in the features. album: column of it; photos of one album are one query, at the mean of
    their places.

    Raises:
        InputError: too few of its photos have a vector, or the table cannot be used.
    """
    hierarchy, geocells = bundle.hierarchy, bundle.model.geocells
    photos = read_truth(truth, split=split)
    if len(set(photos.photo)) < len(photos):
        raise InputError(f"{truth}: names of photos repeat, so their vectors cannot be told apart. Rename them.")
    group = np.arange(len(photos)) if album is None else albums_of_table(truth, album, split=split).of_row
    names = pa.array(photos.photo, pa.string())
    sums = CellSums.zeros(int(group.max()) + 1, geocells.width)
    places = np.zeros((len(sums.counts), 3))
    leaf = np.full(len(sums.counts), -1)
    own_leaf = _leaves_of(photos, truth, hierarchy, split=split)
    points, times = unit_vectors(photos.lat_deg, photos.lng_deg), np.zeros(len(photos), np.int64)
    with track("reading vectors", features.rows) as advance:
        for batch in features:
            row = pc.index_in(pa.array(batch.photo, pa.string()), value_set=names).fill_null(-1).to_numpy()
            used = np.flatnonzero(batch.ok & (row >= 0))
            row = row[used].astype(np.int64)
            np.add.at(times, row, 1)
            sums.add(geocells.compared(np.ascontiguousarray(batch.embedding[used], np.float32)), group[row])
            np.add.at(places, group[row], points[row])
            leaf[group[row]] = own_leaf[row]
            advance(len(batch))
    if (times > 1).any():
        name = photos.photo[int(times.argmax())]
        raise InputError(f"{features.location}: {name!r} has {times.max()} vectors. Keep one row for each name.")
    there = np.flatnonzero(sums.counts)
    if len(there) < FEWEST:
        what = "photos" if album is None else "albums"
        raise InputError(
            f"{features.location}: {len(there)} {what} of {truth} have a vector; a calibration takes {FEWEST} at "
            "least. Are the names the same, and is this the split that the vectors are of?"
        )
    lat, lng = lat_lng(places[there])
    if album is not None and hierarchy.is_s2:
        leaf[there] = hierarchy.locate(lat, lng)[:, -1]
    used = np.flatnonzero(times)
    used = used[np.argsort(group[used], kind="stable")]  # albums in order, and the photos of each as in the table
    ends = np.cumsum(sums.counts[there])
    name = np.array(photos.photo, object)[used].tolist()
    names = named([tuple(name[begin:end]) for begin, end in zip([0, *ends[:-1]], ends, strict=True)])
    return HeldOutQueries(names, sums.sums[there].astype(np.float32), sums.counts[there], lat, lng, leaf[there])


def _leaves_of(photos: PhotoTable, truth: Path, hierarchy: Hierarchy, *, split: str | None) -> np.ndarray:
    """The leaf of each photo, or -1: (N,) int64.

    Of labels the table says it, and where each leaf is one place and the table has no labels, the nearest one is it.
    """
    labels = label_columns(hierarchy)
    if not labels:
        return hierarchy.locate(photos.lat_deg, photos.lng_deg)[:, -1]
    if hierarchy.is_of_places and not all(map(open_table(truth).has, labels)):
        log.info("%s: it has no labels, so each photo counts for the named place that is nearest to it", truth)
        leaves = hierarchy.leaves
        nearest = point_tree(leaves.lat_deg, leaves.lng_deg).query(unit_vectors(photos.lat_deg, photos.lng_deg))[1]
        return np.asarray(nearest, np.int64)
    return locate_labels(hierarchy, read_columns(truth, ["photo", *labels], split=split))[:, -1]


def named(names: Iterable[tuple[str, ...]]) -> np.ndarray:
    """The column `names` of queries: (N,) objects."""
    each = list(names)
    column = np.empty(len(each), object)
    column[:] = each
    return column
