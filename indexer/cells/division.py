"""Dividing the Earth: from a photo table to a hierarchy folder, and from that and more photos to the next one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from indexer.cells.hierarchy import Hierarchy
from indexer.cells.lineage import lineage
from indexer.cells.schemes import PartitionScheme, scheme_of
from indexer.cells.table import hierarchy_manifest, load_hierarchy, load_photo_places, save_hierarchy
from indexer.disk.artifact import check_target
from indexer.disk.manifest import file_digest, manifest_digest


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
        photos: table of photos (.parquet or .csv) with `lat` and `lng`, and the labels of a scheme of labels.
        scheme: how to divide.
        out: hierarchy folder to write.
        split: use only rows whose column `split` is this.

    Raises:
        InputError: the table cannot be used, a level would have no cell, or `out` exists or cannot be written.
        WorkError: the disk is full.
    """
    photos, out = Path(photos), Path(out)
    check_target(out)
    places = scheme.read(photos, split=split)
    return divide(places, scheme, out, split=split, inputs={"photos": file_digest(photos)})


def update(hierarchy: Path | str, photos: Path | str, out: Path | str, *, split: str | None = None) -> Division:
    """Divide anew with more photos, by the scheme of an existing hierarchy, and say what became of each cell.

    Args:
        hierarchy: hierarchy folder to begin with; it is left as it is.
        photos: table of the photos to add, as for `partition`.
        out: hierarchy folder to write.
        split: use only rows whose column `split` is this.

    Raises:
        ArtifactError: the hierarchy cannot be read.
        InputError, WorkError: as for `partition`.
    """
    hierarchy, photos, out = Path(hierarchy), Path(photos), Path(out)
    check_target(out)
    before = load_hierarchy(hierarchy)
    scheme = scheme_of(hierarchy_manifest(hierarchy).config.get("scheme", {}), source=hierarchy)
    places = scheme.join(load_photo_places(hierarchy), scheme.read(photos, split=split))
    inputs = {"photos": file_digest(photos), "hierarchy": manifest_digest(hierarchy)}
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
    tree = scheme.build(places)
    table = None if before is None else lineage(before, tree)
    config = {"scheme": scheme.to_config(), "split": split}
    save_hierarchy(tree, places, out, config=config, inputs=inputs or {}, lineage=table)
    return Division(out, tree, places.num_rows, table)
