"""Partition schemes: S2 cells by the density of photos, or cells that labels name.

In: photo tables. Out: places (one row per photo: its point id and its labels), and a hierarchy of them. A hierarchy
folder keeps both the scheme (in its manifest) and the places, so that it can be made again when photos are added.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from indexer.cells.hierarchy import Hierarchy, build_hierarchy, sorted_ids
from indexer.cells.labels import build_label_hierarchy
from indexer.cells.rule import PartitionRule
from indexer.earth import s2
from indexer.errors import ArtifactError, InputError
from indexer.photos.sources import coordinate_batches
from indexer.photos.tables import coordinates_of, read_columns

PAPER_RULE = PartitionRule()


class PartitionScheme(Protocol):
    """A way to divide photos."""

    def read(self, photos: Path, *, split: str | None) -> pa.Table:
        """Places of a photo table."""

    def join(self, first: pa.Table, second: pa.Table) -> pa.Table:
        """Places of both."""

    def build(self, places: pa.Table) -> Hierarchy:
        """The hierarchy of places."""

    def to_config(self) -> dict[str, Any]:
        """What a manifest holds; the inverse is `scheme_of`."""


@dataclass(frozen=True, slots=True)
class S2Scheme:
    """S2 cells adapted to where photos are."""

    rule: PartitionRule = PAPER_RULE

    def read(self, photos: Path, *, split: str | None) -> pa.Table:
        """Point ids, sorted; the table is read a batch at a time."""
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

    def __post_init__(self) -> None:
        if not self.columns or len(set(self.columns)) != len(self.columns):
            raise InputError(f"`labels` must be different columns, coarsest first, not {list(self.columns)}.")
        if self.tau_min < 0:
            raise InputError(f"tau_min must be at least 0, not {self.tau_min}.")

    def read(self, photos: Path, *, split: str | None) -> pa.Table:
        """Point ids and labels, in the order of the table."""
        table = read_columns(photos, ["lat", "lng", *self.columns], split=split)
        lat, lng = coordinates_of(table, photos, required=True)
        labels = {column: table[column].cast(pa.string()) for column in self.columns}
        return pa.table({"s2_id": s2.point_ids(lat, lng), **labels})

    def join(self, first: pa.Table, second: pa.Table) -> pa.Table:
        """One after the other."""
        return pa.concat_tables([first, second])

    def build(self, places: pa.Table) -> Hierarchy:
        """Make the tree of labels."""
        ids = places["s2_id"].to_numpy()
        return build_label_hierarchy(places, self.columns, ids=ids, tau_min=self.tau_min)

    def to_config(self) -> dict[str, Any]:
        """The columns and the bound."""
        return {"kind": "labels", "labels": list(self.columns), "tau_min": self.tau_min}


def scheme_of(config: Mapping[str, Any], *, source: Path) -> PartitionScheme:
    """The scheme that a hierarchy's manifest records.

    Raises:
        ArtifactError: it records none that can be followed.
    """
    values = dict(config)
    kind = values.pop("kind", None)
    try:
        if kind == "s2":
            return S2Scheme(PartitionRule(**values | {"tau_max": tuple(values["tau_max"])}))
        if kind == "labels":
            return LabelScheme(tuple(values["labels"]), values["tau_min"])
    except (TypeError, KeyError) as error:
        raise ArtifactError(f"{source}: its manifest does not say how it was made ({error}). Rebuild it.") from None
    raise ArtifactError(f"{source}: made by a scheme this release does not know ({kind!r}). Update geosurge.")
