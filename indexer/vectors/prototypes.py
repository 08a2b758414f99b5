"""Geocells without training: from photo vectors of any encoder to the vectors of a hierarchy's cells.

In: a hierarchy, features, and where their photos were taken. Out: geocells that are mean directions of whitened photo
vectors (`indexer.vectors.whitening` says why), with the transform that queries must pass too. Features are streamed,
twice.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer.cells.hierarchy import Hierarchy
from indexer.cells.labels import label_columns, locate_labels
from indexer.errors import InputError
from indexer.jobs.progress import track
from indexer.paper import TEMPERATURE
from indexer.photos.tables import coordinates_of, names_of, read_columns
from indexer.vectors.features import FeatureBatch, FeatureSource
from indexer.vectors.geocells import Geocells
from indexer.vectors.means import CellMeans
from indexer.vectors.whitening import Moments, Transform, choose_shrinkage, whiten

log = logging.getLogger(__name__)

_SAMPLE = 20_000  # photos that the shrinkage is chosen with
_QUERIES = 2000  # vectors kept to measure the leaf index with


@dataclass(frozen=True, slots=True, eq=False)
class Prototypes:
    """Geocells made from photo vectors, and what belongs to them."""

    geocells: Geocells
    photos: int  # that have a vector and a cell
    rows: int  # photos of the features, of which some have no vector or no cell
    inherited: int  # cells without a photo of their own, which have the vector of the cell above
    queries: np.ndarray  # (Q, D) float32, transformed vectors of some photos
    facts: dict[str, Any]  # how the transform was chosen


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """Vectors of photos of known places, which lie in a cell of the coarsest level at least, unless all are wanted."""

    vectors: np.ndarray  # (N, D) float32
    cells: np.ndarray  # (N, L) int64, the cell of each level or -1
    lat_deg: np.ndarray  # (N,) float64
    lng_deg: np.ndarray  # (N,) float64
    photo: np.ndarray  # (N,) str, their names
    row: np.ndarray  # (N,) int64, of the table that places them; -1 where they place themselves

    def take(self, rows: np.ndarray) -> "Placed":
        """Some of them, by their number."""
        return Placed(*(getattr(self, column.name)[rows] for column in fields(self)))


def joined_placed(parts: Sequence[Placed]) -> Placed:
    """Photos of several batches, as one."""
    return Placed(*(np.concatenate([getattr(part, column.name) for part in parts]) for column in fields(Placed)))


class Placement:
    """Which cells the photos of features lie in: by their own coordinates, or by those (or the labels) of a table.

    photos: table with photo, lat, lng (and the labels of a tree of labels), or a folder of photos with places; None:
    features place themselves. split: of that table; None takes all of it. chosen: says of names (N,) which photos are
    wanted: (N,) bool; None wants all. owner_column: column of the table that says whose each photo is.

    Raises:
        InputError: the table cannot be used, or there is none where one is needed.
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        photos: Path | str | None = None,
        *,
        split: str | None = None,
        chosen: Callable[[Sequence[str]], np.ndarray] | None = None,
        owner_column: str | None = None,
    ) -> None:
        self.hierarchy = hierarchy
        self.chosen = chosen
        self._names: pa.Array | None = None
        self.n_rows = 0  # of the table
        self.owners: pa.ChunkedArray | None = None  # whose the photos are, by row of the table
        labels = label_columns(hierarchy)
        if photos is None:
            if split is not None:
                raise InputError("`split` goes with `photos`: features have no splits. Give the table that has them.")
            if owner_column is not None:
                raise InputError("`owner_column` is a column of `photos`. Give the table that has it.")
            if labels:
                raise InputError("The cells of this hierarchy are labels: give the table that has them with `photos`.")
            return
        own = [] if owner_column is None else [owner_column]
        table = read_columns(photos, ["photo", "lat", "lng", *dict.fromkeys([*labels, *own])], split=split)
        names = names_of(table, photos)
        if len(set(names)) < len(names):
            raise InputError(f"{photos}: names of photos repeat, so their vectors cannot be told apart. Rename them.")
        self._names = pa.array(names)
        if owner_column is not None:
            self.owners = table[owner_column].cast(pa.string())
        self.n_rows = len(names)
        self._lat_deg, self._lng_deg = coordinates_of(table, photos, required=True)
        self._cells = locate_labels(hierarchy, table) if labels else hierarchy.locate(self._lat_deg, self._lng_deg)

    def only(self, chosen: Callable[[Sequence[str]], np.ndarray]) -> "Placement":
        """The same, of those photos alone whose names are chosen."""
        other = copy(self)
        other.chosen = chosen
        return other

    def place(self, batch: FeatureBatch, *, everywhere: bool = False) -> Placed:
        """The photos of a batch that have a vector and a cell; everywhere: also those in no cell, but with a place."""
        ok = batch.ok if self.chosen is None else batch.ok & self.chosen(batch.photo)
        if self._names is None:
            rows = np.flatnonzero(ok & ~np.isnan(batch.lat_deg) & ~np.isnan(batch.lng_deg))
            lat, lng = batch.lat_deg[rows], batch.lng_deg[rows]
            cells = self.hierarchy.locate(lat, lng)
            row = np.full(len(rows), -1)
        else:
            known = pc.index_in(pa.array(batch.photo), value_set=self._names).fill_null(-1).to_numpy()
            rows = np.flatnonzero(ok & (known >= 0))
            row = known[rows].astype(np.int64)
            lat, lng, cells = (column[row] for column in (self._lat_deg, self._lng_deg, self._cells))
        names = np.array(batch.photo, object)[rows]
        placed = Placed(batch.embedding[rows], cells, lat, lng, names, row)
        return placed if everywhere else placed.take(np.flatnonzero(cells[:, 0] >= 0))


def prototypes(
    features: FeatureSource,
    placement: Placement,
    *,
    transform: Literal["whiten", "none"] = "whiten",
    shrinkage: float | None = None,
    seed: int = 0,
    temperature: float = TEMPERATURE,
) -> Prototypes:
    """Make geocells of photo vectors.

    transform: what vectors pass first; `none` takes them as they are. shrinkage: of the whitening; None chooses it by
    cross-validation on up to 20,000 photos. seed: of that sample and its folds. temperature: of every level.

    Raises:
        InputError: no photo has both a vector and a cell, or the vectors cannot be whitened.
    """
    hierarchy = placement.hierarchy
    fitted, facts = None, dict[str, Any]()
    if transform == "whiten":
        fitted, facts = _fit(features, placement, shrinkage, seed)
    means: CellMeans | None = None
    queries: list[np.ndarray] = []
    n_photos = 0
    filled = [np.zeros(len(level), bool) for level in hierarchy.levels]
    for placed in placed_batches(features, placement, "averaging"):
        means = means or CellMeans(hierarchy.parents_by_level(), placed.vectors.shape[1], transform=fitted)
        means.add(placed.vectors, placed.cells)
        n_photos += len(placed.vectors)
        for level, cells in zip(filled, placed.cells.T, strict=True):
            level[cells[cells >= 0]] = True
        if sum(map(len, queries)) < _QUERIES:
            queries.append(placed.vectors if fitted is None else fitted.apply(placed.vectors))
    if means is None:
        raise no_photo(features)
    geocells = means.geocells(hierarchy=hierarchy.digest, encoder=features.encoder, temperature=temperature)
    inherited = sum(int((~level).sum()) for level in filled)
    few = n_photos < features.rows / 2 or inherited > sum(map(len, filled)) / 2
    if few and placement.chosen is None:  # else there are few because few are wanted
        log.warning(
            "%s: only %d of %d photos have a vector and a cell, and %d of %d cells have no photo of their own; are "
            "these the photos of that hierarchy?",
            *(features.location, n_photos, features.rows, inherited, sum(map(len, filled))),
        )
    kept = np.concatenate(queries)[:_QUERIES]
    return Prototypes(geocells, n_photos, features.rows, inherited, kept, {"kind": transform, **facts})


def _fit(
    features: FeatureSource, placement: Placement, shrinkage: float | None, seed: int
) -> tuple[Transform, dict[str, Any]]:
    leaves = placement.hierarchy.leaves
    sampled = _sampled_cells(leaves.n_photos, seed)
    moments: Moments | None = None
    sample: list[Placed] = []
    for placed in placed_batches(features, placement, "whitening"):
        moments = moments or Moments.zeros(len(leaves), placed.vectors.shape[1])
        moments.add(placed.vectors, placed.cells[:, -1])
        if shrinkage is None:
            sample.append(placed.take(np.flatnonzero(sampled[placed.cells[:, -1]] & (placed.cells[:, -1] >= 0))))
    if moments is None:
        raise no_photo(features)
    if shrinkage is not None:
        return whiten(moments, shrinkage), {"shrinkage": shrinkage, "chosen_by": "the user"}
    together = joined_placed(sample)
    # By name: folds are drawn by position, and shards may come in any order.
    together = together.take(np.argsort(together.photo.astype(str), kind="stable"))
    choice = choose_shrinkage(
        together.vectors,
        together.cells[:, -1],
        lat_deg=together.lat_deg,
        lng_deg=together.lng_deg,
        cell_lat_deg=leaves.lat_deg,
        cell_lng_deg=leaves.lng_deg,
        seed=seed,
    )
    facts = {
        "shrinkage": choice.shrinkage,
        "chosen_by": f"cross-validation on {len(together.cells)} photos",
        "median_km": {f"{value:g}": figures.median_km for value, figures in choice.scores.items()},
    }
    return whiten(moments, choice.shrinkage), facts


def _sampled_cells(n_photos: np.ndarray, seed: int) -> np.ndarray:
    """Leaves drawn at random until they hold the photos wanted: (leaves,) bool.

    Cells with all their photos, because few photos of many cells would say little about how photos of a cell differ.
    """
    order = np.random.default_rng(seed).permutation(len(n_photos))
    sampled = np.zeros(len(n_photos), bool)
    sampled[order[np.cumsum(n_photos[order]) <= max(_SAMPLE, n_photos[order[:2]].sum())]] = True
    return sampled


def placed_batches(
    features: FeatureSource, placement: Placement, what: str, *, everywhere: bool = False
) -> Iterator[Placed]:
    """The photos of each shard that can be used, with their progress shown as `what`; everywhere: as in `place`.

    Raises:
        InputError: a photo of the table that places them has several vectors.
    """
    pairs = placed_pairs(features, placement, what, everywhere=everywhere)
    return (placed for _, placed in pairs if len(placed.cells))


def placed_pairs(
    features: FeatureSource, placement: Placement, what: str, *, everywhere: bool = False
) -> Iterator[tuple[FeatureBatch, Placed]]:
    """The same with the shard each comes from, whether it has any of them or not."""
    times = np.zeros(placement.n_rows, np.int64)
    with track(what, features.rows) as advance:
        for batch in features:
            placed = placement.place(batch, everywhere=everywhere)
            known = placed.row[placed.row >= 0]
            np.add.at(times, known, 1)
            if (times[known] > 1).any():
                raise InputError(
                    f"{features.location}: a photo has several vectors, the first in the shard of "
                    f"{batch.photo[0]!r}. Keep one row for each name."
                )
            advance(len(batch))
            yield batch, placed


def no_photo(features: FeatureSource) -> InputError:
    """What to say of features of which nothing can be made."""
    return InputError(
        f"{features.location}: none of its photos has both a vector and a cell. Are its names those of `photos`, and "
        "is the hierarchy made from photos of the same places?"
    )
