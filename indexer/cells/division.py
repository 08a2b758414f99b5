"""Dividing the Earth: from a photo table to a hierarchy folder, and from that and more photos to the next one.

A scheme says how: S2 cells by the density of photos, or cells that labels name. It reads photo tables into places (one
row per photo: its point id and its labels) and makes a hierarchy of them. A hierarchy folder keeps both the scheme (in
its manifest) and the places, so that it can be made again when photos are added.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from indexer.cells.hierarchy import Hierarchy, build_hierarchy, sorted_ids
from indexer.cells.labels import build_label_hierarchy
from indexer.cells.lineage import lineage
from indexer.cells.partition import PartitionRule
from indexer.cells.table import hierarchy_manifest, load_hierarchy, load_photo_places, save_hierarchy
from indexer.disk.artifact import check_target
from indexer.disk.manifest import manifest_digest
from indexer.earth import s2
from indexer.errors import ArtifactError, InputError
from indexer.photos.sources import coordinate_batches, places_digest
from indexer.photos.tables import ROW, coordinates_of, read_columns

_COUNTS = "n_photos"  # the column of places that says how many each row stands for
_MOST = 1e12  # that a row may stand for, so that sums of millions of them are exact


@dataclass(frozen=True, slots=True)
class S2Scheme:
    """S2 cells adapted to where photos are."""

    rule: PartitionRule = field(default_factory=PartitionRule)

    def read(self, photos: Path, *, split: str | None) -> pa.Table:
        """Point ids, sorted; photos are read a batch at a time."""
        return pa.table({"s2_id": sorted_ids(coordinate_batches(photos, split=split))})

    def join(self, first: pa.Table, second: pa.Table) -> pa.Table:
        """Point ids of both, sorted."""
        ids = np.concatenate([table["s2_id"].to_numpy() for table in (first, second)])
        ids.sort()
        return pa.table({"s2_id": ids})

    def build(self, places: pa.Table) -> Hierarchy:
        """Divide the Earth by the rule."""
        return build_hierarchy(places["s2_id"].to_numpy(), rule=self.rule)

    def to_config(self) -> dict[str, Any]:
        """The rule."""
        return {"kind": "s2", **asdict(self.rule)}


@dataclass(frozen=True, slots=True)
class LabelScheme:
    """Cells that are labels."""

    columns: tuple[str, ...]  # coarsest first
    tau_min: int = 0  # a cell is kept only if it holds more photos than this
    by_path: bool = False  # whether one label below two others is two cells, and no error
    counts: str | None = None  # the column of how many photos, or people, a row stands for; None: each is one photo

    def __post_init__(self) -> None:
        if not self.columns or len(set(self.columns)) != len(self.columns):
            raise InputError(f"`labels` must be different columns, coarsest first, not {list(self.columns)}.")
        if self.tau_min < 0:
            raise InputError(f"tau_min must be at least 0, not {self.tau_min}.")

    def read(self, photos: Path, *, split: str | None) -> pa.Table:
        """Point ids and labels, in the order of the table."""
        counted = [] if self.counts is None else [self.counts]
        table = read_columns(photos, ["lat", "lng", *self.columns, *counted], split=split)
        return self.placed(table, source=photos)

    def placed(self, table: pa.Table, *, source: str | Path) -> pa.Table:
        """The same of a table that was read. source: what messages call it."""
        lat, lng = coordinates_of(table, source, required=True)
        labels = {column: table[column].cast(pa.string()) for column in self.columns}
        places = {"s2_id": s2.point_ids(lat, lng), **labels}
        if self.counts is not None:
            places[_COUNTS] = _counts_of(table, self.counts, source=source)
        return pa.table(places)

    def join(self, first: pa.Table, second: pa.Table) -> pa.Table:
        """One after the other."""
        return pa.concat_tables([first, second])

    def build(self, places: pa.Table) -> Hierarchy:
        """Make the tree of labels."""
        ids = places["s2_id"].to_numpy()
        counts = None if self.counts is None else places[_COUNTS].to_numpy()
        return build_label_hierarchy(
            places, self.columns, ids=ids, tau_min=self.tau_min, by_path=self.by_path, counts=counts
        )

    def to_config(self) -> dict[str, Any]:
        """The columns and the bound, and what else differs from the usual."""
        usual = {"kind": "labels", "labels": list(self.columns), "tau_min": self.tau_min}
        by_path = {"by_path": True} if self.by_path else {}
        return usual | by_path | ({} if self.counts is None else {"counts": self.counts})


PartitionScheme = S2Scheme | LabelScheme


def _counts_of(table: pa.Table, column: str, *, source: str | Path) -> np.ndarray:
    """A column of whole numbers, (N,) int64, those below 1 as 1: nobody is known to be there, and somebody may be.

    InputError names the row of a value that is no number.
    """
    try:
        values = table[column].cast(pa.float64()).fill_null(np.nan).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"{source}: {column} must be whole numbers ({error}).") from None
    wrong = np.flatnonzero(~((values >= 0) & (values < _MOST)))  # written so that NaN is wrong too
    if wrong.size:
        rows = table[ROW].to_numpy() if ROW in table.column_names else np.arange(table.num_rows)
        raise InputError(
            f"{source}: {column} of row {rows[wrong[0]]} is {values[wrong[0]]:g}; it must be a whole "
            "number. Fill it in, or remove the row."
        )
    return np.maximum(values, 1).astype(np.int64)


def recorded_scheme(config: Mapping[str, Any], *, source: Path) -> PartitionScheme:
    """The scheme that a hierarchy's manifest records; an ArtifactError where it is none that can be followed."""
    values = dict(config)
    kind = values.pop("kind", None)
    try:
        if kind == "s2":
            return S2Scheme(PartitionRule(**values | {"tau_max": tuple(values["tau_max"])}))
        if kind == "labels":
            by_path, counts = bool(values.get("by_path", False)), values.get("counts")
            return LabelScheme(tuple(values["labels"]), values["tau_min"], by_path, counts)
    except (TypeError, KeyError) as error:
        raise ArtifactError(f"{source}: its manifest does not say how it was made ({error}). Rebuild it.") from None
    raise ArtifactError(f"{source}: made by a scheme this release does not know ({kind!r}). Update geosurge.")


@dataclass(frozen=True, slots=True, eq=False)
class Division:
    """A hierarchy folder that was written."""

    folder: Path
    hierarchy: Hierarchy
    n_photos: int
    lineage: pa.Table | None  # of its cells (`indexer.cells.lineage`), where it follows another hierarchy


def partition(photos: Path | str, scheme: PartitionScheme, out: Path | str, *, split: str | None = None) -> Division:
    """Divide the Earth into cells adapted to where photos are.

    Args:
        photos: table of photos (.parquet or .csv) with `lat` and `lng`, and the labels of a scheme of labels; a folder
            of photos whose metadata say where they were taken; or tar shards that do (`shards/{0000..0469}.tar`).
        scheme: how to divide.
        out: hierarchy folder to write.
        split: use only rows whose column `split` is this.

    Raises:
        InputError: the table cannot be used, a level would have no cell, or `out` exists or cannot be written.
        WorkError: the disk is full.
    """
    photos, out = Path(photos), Path(out)
    check_target(out)
    return divide(scheme.read(photos, split=split), scheme, out, split=split, inputs={"photos": places_digest(photos)})


def update(hierarchy: Path | str, photos: Path | str, out: Path | str, *, split: str | None = None) -> Division:
    """Divide anew with more photos, by the scheme of an existing hierarchy, and say what became of each cell.

    Args:
        hierarchy: hierarchy folder to begin with; it is left as it is.
        photos: those to add, as for `partition`.
        out: hierarchy folder to write.
        split: use only rows whose column `split` is this.

    Raises:
        ArtifactError: the hierarchy cannot be read.
        InputError, WorkError: as for `partition`.
    """
    hierarchy, photos, out = Path(hierarchy), Path(photos), Path(out)
    check_target(out)
    before = load_hierarchy(hierarchy)
    scheme = recorded_scheme(hierarchy_manifest(hierarchy).config.get("scheme", {}), source=hierarchy)
    places = scheme.join(load_photo_places(hierarchy), scheme.read(photos, split=split))
    inputs = {"photos": places_digest(photos), "hierarchy": manifest_digest(hierarchy)}
    return divide(places, scheme, out, split=split, inputs=inputs, before=before)


def divide(
    places: pa.Table,
    scheme: PartitionScheme,
    out: Path,
    *,
    split: str | None = None,
    inputs: Mapping[str, str | None] | None = None,
    before: Hierarchy | None = None,
) -> Division:
    """Divide the Earth by places that a scheme has read; raises what `partition` does.

    split, inputs: for the manifest, which of the photo table was read, and digests of what was. before: the hierarchy
    that this one follows.
    """
    hierarchy = scheme.build(places)
    table = None if before is None else lineage(before, hierarchy)
    config = {"scheme": scheme.to_config(), "split": split}
    save_hierarchy(hierarchy, places, out, config=config, inputs=inputs or {}, lineage=table)
    return Division(out, hierarchy, places.num_rows, table)
