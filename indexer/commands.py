"""The commands of `python -m indexer` that make things. Each one is arguments -> one library call -> one result.

What is heavy is loaded by the call: the front door waits, and so do imports inside functions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import indexer
from indexer import paper
from indexer.bundles.build_config import BuildConfig
from indexer.cli import Result
from indexer.errors import InputError

if TYPE_CHECKING:
    from indexer.cells.division import Division


def partition(
    *,
    photos: Path,
    out: Path,
    scheme: Literal["s2", "labels"] = "s2",
    tau_max: tuple[int, ...] = paper.TAU_MAX,
    tau_min: int | None = None,
    first_level: int = 2,
    min_inclusive: bool = False,
    keep_parent: float | None = None,
    labels: tuple[str, ...] = (),
    split: str | None = None,
) -> Result:
    """Divide the Earth into cells adapted to where photos are.

    Args:
        photos: table of photos (.parquet or .csv) with lat and lng, a folder of photos whose metadata say where they
            were taken, or tar shards with a key.json beside each photo (shards/{0000..0469}.tar).
        out: hierarchy folder to write.
        scheme: s2 for S2 cells that follow the photos; labels for cells that columns of the table name.
        tau_max: a cell with more photos than this is split; one bound per level, coarsest first.
        tau_min: an unsplit cell is kept only if it holds more photos than this; 50 for s2, 0 for labels by default.
        first_level: S2 level to start from; 0 starts from the six cube faces.
        min_inclusive: keep a cell with exactly tau_min photos too.
        keep_parent: keep a cell whole when splitting it would lose more than this share of its photos.
        labels: with --scheme labels, the columns that name the cells, coarsest first: continent,country,city.
        split: use only rows whose column `split` is this.
    """
    if scheme == "labels":
        if (tau_max, first_level, min_inclusive, keep_parent) != (paper.TAU_MAX, 2, False, None):
            raise InputError("--tau-max, --first-level, --min-inclusive and --keep-parent go with --scheme s2.")
        return _divided(indexer.partition(photos, indexer.LabelScheme(labels, tau_min or 0), out, split=split))
    if labels:
        raise InputError("--labels goes with --scheme labels.")
    tau_min = paper.TAU_MIN if tau_min is None else tau_min
    rule = indexer.PartitionRule(
        tau_max=tau_max, tau_min=tau_min, first_level=first_level, min_inclusive=min_inclusive, keep_parent=keep_parent
    )
    return _divided(indexer.partition(photos, indexer.S2Scheme(rule), out, split=split))


def update(*, hierarchy: Path, photos: Path, out: Path, split: str | None = None) -> Result:
    """Divide anew with more photos, by the rule of an existing hierarchy, and say what became of each cell.

    Args:
        hierarchy: hierarchy folder to begin with; it is left as it is.
        photos: those to add, as for partition (a table with the label columns, where cells are labels).
        out: hierarchy folder to write.
        split: use only rows whose column `split` is this.
    """
    from indexer.cells.lineage import RELATIONS, level_counts

    made = indexer.update(hierarchy, photos, out, split=split)
    assert made.lineage is not None, "it follows another hierarchy"
    counts = level_counts(made.lineage)
    lines = ["level  " + "  ".join(f"{name:>11}" for name in RELATIONS)]
    lines += [f"{row['level']:>5}  " + "  ".join(f"{row[name]:>11,}" for name in RELATIONS) for row in counts]
    result = _divided(made)
    return Result({**result.data, "lineage": counts}, "\n".join([result.text, "", *lines]))


def ceiling(
    *, hierarchy: Path, photos: Path, split: str | None = None, thresholds_km: tuple[float, ...] = paper.THRESHOLDS_KM
) -> Result:
    """Say how accurate answers could be with the cells of a hierarchy if the cell were always chosen best.

    Args:
        hierarchy: hierarchy folder.
        photos: those one will test on, as for partition.
        split: use only rows whose column `split` is this.
        thresholds_km: distances at which to count answers as right.
    """
    from indexer.photos.sources import read_coordinates

    opened = indexer.load_hierarchy(hierarchy)
    rows = indexer.ceilings(opened, *read_coordinates(photos, split=split), thresholds_km=thresholds_km)
    limits = list(rows[0].best.within)
    lines = [f"level  {'':<14}  coverage  median  " + "  ".join(f"{limit + ' km':>8}" for limit in limits)]
    for row in rows:
        coverage = "-" if row.coverage is None else f"{row.coverage:.2%}"
        shares = "  ".join(f"{row.best.within[limit]:>6.2f} %" for limit in limits)
        name = opened.levels[row.level].name
        lines.append(f"{row.level:>5}  {name:<14.14}  {coverage:>8}  {row.best.median_km:>3.0f} km  {shares}")
    data = {"hierarchy": str(hierarchy), "photos": rows[0].best.n, "levels": [asdict(row) for row in rows]}
    return Result(data, "\n".join(lines))


def build(
    *,
    registry: Path,
    hierarchy: Path | None = None,
    checkpoint: Path | None = None,
    features: Path | None = None,
    inherit: str | None = None,
    photos: Path | None = None,
    gallery_add: Path | None = None,
    gallery_remove: Path | None = None,
    everywhere: bool = False,
    no_publish: bool = False,
    options: BuildConfig,
) -> Result:
    """Build a bundle, and publish it: from a checkpoint, from photo vectors alone, or from an older bundle.

    Args:
        registry: registry folder; made if absent.
        hierarchy: hierarchy folder; with --features and --photos it is made of the photos if not given, and with
            --gallery-add or --gallery-remove it is that of the version.
        checkpoint: checkpoint with geocells that were trained on the hierarchy.
        features: photo vectors of any encoder, in place of a checkpoint; each cell gets the mean direction of its own.
        inherit: version in the registry, in place of a checkpoint; each cell gets the vector of the cell it comes from.
        photos: with --features or --gallery-add, the table that says where the photos were taken, or the folder of
            photos whose metadata say it; by default the features do.
        gallery_add: with --inherit, photo vectors to add to its gallery; nothing is fitted again.
        gallery_remove: with --inherit, text file with names of photos, one a line, that are to go from its gallery and
            to stay out of all that is built later. What was left out because of them does not come back.
        everywhere: with --gallery-remove, retire all other versions that hold one of these photos.
        no_publish: write the version without making it current.
        options: how it is built.
    """
    made = indexer.build(
        registry,
        hierarchy=hierarchy,
        checkpoint=checkpoint,
        features=features,
        inherit=inherit,
        photos=photos,
        gallery_add=gallery_add,
        gallery_remove=gallery_remove,
        everywhere=everywhere,
        config=options,
        publish=not no_publish,
    )
    cells, state = list(made.cells), "published" if made.published else "not published"
    return Result(
        {"version": made.version, "published": made.published, "cells": cells, "registry": str(registry), **made.facts},
        f"{made.version}\n{sum(cells):,} cells in {len(cells)} levels ({cells[-1]:,} leaves), {state} in {registry}"
        + (f"\n{made.text}" if made.text else ""),
    )


def export(
    *,
    out: Path,
    registry: Path | None = None,
    version: str | None = None,
    hierarchy: Path | None = None,
    level: int | None = None,
    values: Path | None = None,
) -> Result:
    """Write the cells of a level as polygons that QGIS and geopandas open.

    Args:
        out: file to write: .parquet for GeoParquet, .geojson for GeoJSON.
        registry: registry folder; or give --hierarchy.
        version: a version's digest or its beginning; the current one by default.
        hierarchy: hierarchy folder; or give --registry.
        level: the level to write, 0 the coarsest; the finest by default.
        values: table (.parquet or .csv) with a column `key`, the cells' tokens, and values to write beside the cells.
    """
    from indexer.bundles.bundle import bundle_hierarchy
    from indexer.cells.export import CRS, file_format

    kind = file_format(out)
    if version is not None and registry is None:
        raise InputError("--version goes with --registry.")
    if registry is not None and hierarchy is None:
        opened = bundle_hierarchy(indexer.Registry(registry).resolve(version))
    elif hierarchy is not None and registry is None:
        opened = indexer.load_hierarchy(hierarchy)
    else:
        raise InputError("Give one of --registry and --hierarchy.")
    level = len(opened.levels) - 1 if level is None else level
    n_cells = len(indexer.export_cells(opened, out, level=level, values=values))
    return Result(
        {"out": str(out), "format": kind, "crs": CRS, "level": level, "cells": n_cells},
        f"{out}: {n_cells:,} cells of level {level} ({kind}, {CRS})",
    )


def _divided(made: "Division") -> Result:
    levels, digest = made.hierarchy.describe(), made.hierarchy.digest
    return Result(
        {"hierarchy": str(made.folder), "digest": digest, "photos": made.n_photos, "levels": levels},
        f"{made.folder}: {made.n_photos:,} photos, hierarchy {digest[:12]}\n{level_table(levels)}",
    )


def level_table(levels: Sequence[Mapping[str, Any]]) -> str:
    """A line for each level of what `Hierarchy.describe` says."""
    lines = ["level  name              cells  coverage  photos per cell (min/median/max)  S2 levels  median radius"]
    for row in levels:
        photos = row["photos_per_cell"]
        spread = f"{photos['smallest']}/{photos['median']:g}/{photos['largest']}"
        s2_levels = f"{row['s2_levels'][0]}-{row['s2_levels'][-1]}" if row["s2_levels"] else "-"
        lines.append(
            f"{row['level']:>5}  {row['name']:<14.14}  {row['cells']:>7,}  {row['coverage']:>8.2%}  {spread:>32}  "
            f"{s2_levels:>9}  {row['median_radius_km']:>10.1f} km"
        )
    return "\n".join(lines)
