"""The commands of `python -m indexer`. Each one is arguments -> one library call -> one result; imports wait for it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from indexer.cli import Ints, Result
from indexer.rule import PAPER_TAU_MAX, PAPER_TAU_MIN, PartitionRule

if TYPE_CHECKING:
    from indexer.registry import VersionState

PAPER_TAUS = Ints(PAPER_TAU_MAX)


def partition(
    *,
    photos: Path,
    out: Path,
    tau_max: Ints = PAPER_TAUS,
    tau_min: int = PAPER_TAU_MIN,
    first_level: int = 2,
    min_inclusive: bool = False,
    keep_parent: float | None = None,
    split: str | None = None,
) -> Result:
    """Divide the Earth into S2 cells adapted to where photos are.

    Args:
        photos: table of photos (.parquet or .csv) with lat and lng.
        out: hierarchy folder to write.
        tau_max: a cell with more photos than this is split; one bound per level, coarsest first.
        tau_min: an unsplit cell is kept only if it holds more photos than this.
        first_level: S2 level to start from; 0 starts from the six cube faces.
        min_inclusive: keep a cell with exactly tau_min photos too.
        keep_parent: keep a cell whole when splitting it would lose more than this share of its photos.
        split: use only rows whose column `split` is this.
    """
    from indexer import artifact, cells
    from indexer.hierarchy import build_hierarchy, describe
    from indexer.photos import read_coordinates

    artifact.check_target(out)
    rule = PartitionRule(tuple(tau_max), tau_min, first_level, min_inclusive, keep_parent)
    lat, lng = read_coordinates(photos, split=split)
    hierarchy = build_hierarchy(lat, lng, rule=rule)
    config = asdict(rule) | {"split": split}
    cells.save_hierarchy(hierarchy, out, config=config, inputs={"photos": artifact.file_digest(photos)})
    levels = describe(hierarchy)
    return Result(
        {"hierarchy": str(out), "digest": hierarchy.digest, "photos": len(lat), "levels": levels},
        f"{out}: {len(lat):,} photos, hierarchy {hierarchy.digest[:12]}\n{_level_table(levels)}",
    )


def build(*, hierarchy: Path, checkpoint: Path, registry: Path, no_publish: bool = False) -> Result:
    """Build a bundle from a hierarchy and a checkpoint's geocells, and publish it.

    Args:
        hierarchy: hierarchy folder the checkpoint was trained on.
        checkpoint: checkpoint folder with geocells.
        registry: registry folder; made if absent.
        no_publish: write the version without making it current.
    """
    from indexer.artifact import manifest_digest
    from indexer.bundle import build_bundle
    from indexer.cells import hierarchy_manifest
    from indexer.geocells import load_geocells
    from indexer.registry import Registry

    geocells = load_geocells(checkpoint, hierarchy=hierarchy_manifest(hierarchy).facts["digest"])
    home = Registry(registry)
    inputs = {"hierarchy": manifest_digest(hierarchy), "checkpoint": manifest_digest(checkpoint)}
    folder = build_bundle(hierarchy, geocells, home.versions_folder, config={"index": "flat"}, inputs=inputs)
    if not no_publish:
        home.publish(folder.name)
    cells = [len(vectors) for vectors in geocells.vectors]
    state = "not published" if no_publish else "published"
    return Result(
        {"version": folder.name, "published": not no_publish, "cells": cells, "registry": str(registry)},
        f"{folder.name}\n{sum(cells):,} cells in {len(cells)} levels ({cells[-1]:,} leaves), {state} in {registry}",
    )


def info(*, registry: Path, version: str | None = None) -> Result:
    """Show what a registry holds and what the current bundle is made of.

    Args:
        registry: registry folder.
        version: a version's digest or its beginning; the current one by default.
    """
    from indexer.bundle import open_bundle
    from indexer.hierarchy import describe
    from indexer.registry import Registry

    home = Registry(registry)
    bundle = open_bundle(home.resolve(version))
    states = home.states()
    size = sum(entry["size_bytes"] for entry in bundle.manifest.files.values())
    levels = describe(bundle.hierarchy)
    data = {
        "registry": str(registry),
        "current": home.current,
        "versions": home.versions,
        "states": [asdict(state) for state in states],
        "pins": home.pins(),
        "history": home.history(),
        "version": bundle.version,
        "size_bytes": size,
        "encoder": bundle.encoder,
        "hierarchy": bundle.manifest.facts["hierarchy"],
        "width": bundle.model.geocells.width,
        "temperatures": bundle.model.geocells.temperatures.tolist(),
        "level_weights": bundle.model.geocells.level_weights.tolist(),
        "calibrated": bundle.temperature is not None,
        "levels": levels,
    }
    lines = [
        f"registry  {registry}: {len(home.versions)} version(s), current {(home.current or 'none')[:12]}",
        _version_table(states),
        f"version   {bundle.version}",
        f"encoder   {bundle.encoder or 'not recorded'}",
        f"size      {size / 1e6:.1f} MB; vectors of {bundle.model.geocells.width}; calibrated: {data['calibrated']}",
        f"taus      {', '.join(f'{tau:.4f}' for tau in bundle.model.geocells.temperatures)} (temperature per level)",
        _level_table(levels),
    ]
    return Result(data, "\n".join(lines))


def verify(*, registry: Path, version: str | None = None) -> Result:
    """Re-hash every file of the registry's bundles and say what is damaged, missing or too much.

    Args:
        registry: registry folder.
        version: check only this version; all of them by default.
    """
    from indexer.bundle import verify_bundle
    from indexer.registry import Registry

    home = Registry(registry)
    # Published or not; of none at all `resolve` says why.
    folders = [home.resolve(name) for name in ([version] if version or not home.versions else home.versions)]
    faults = home.faults() + [fault for folder in folders for fault in verify_bundle(folder)]
    verdict = (
        f"{len(folders)} version(s) verified" if not faults else f"{len(faults)} fault(s) in {len(folders)} version(s)"
    )
    data = {"versions": [folder.name for folder in folders], "faults": faults}
    return Result(data, "\n".join([*faults, verdict]), failed=bool(faults))


def publish(*, registry: Path, version: str) -> Result:
    """Make a version current; readers that have another one open keep it.

    Args:
        registry: registry folder.
        version: a version's digest or its beginning.
    """
    from indexer.registry import Registry

    home = Registry(registry)
    before = home.current
    now = home.publish(version)
    data = {"registry": str(registry), "current": now, "before": before}
    return Result(data, f"{registry}: current is {now} (before: {before or 'none'})")


def rollback(*, registry: Path) -> Result:
    """Make current again the version that was so before the present one; a second rollback goes one further back.

    Args:
        registry: registry folder.
    """
    from indexer.registry import Registry

    home = Registry(registry)
    before = home.current
    now = home.rollback()
    data = {"registry": str(registry), "current": now, "before": before}
    return Result(data, f"{registry}: current is {now} (before: {before})")


def retire(*, registry: Path, version: str) -> Result:
    """Remove a version for good; never the current one, never a pinned one. Readers that have it open keep it.

    Args:
        registry: registry folder.
        version: a version's digest or its beginning.
    """
    from indexer.registry import Registry

    name = Registry(registry).retire(version)
    return Result({"registry": str(registry), "retired": name}, f"{registry}: {name} is retired")


def pin(*, registry: Path, version: str, reason: str | None = None) -> Result:
    """Keep a version from being retired.

    Args:
        registry: registry folder.
        version: a version's digest or its beginning.
        reason: why; shown by info and to who tries to retire it.
    """
    from indexer.registry import Registry

    line = Registry(registry).pin(version, reason=reason)
    name, why = line["version"], line.get("reason")
    data = {"registry": str(registry), "version": name, "pinned": True, "reason": why}
    return Result(data, f"{registry}: {name} is pinned{f' ({why})' if why else ''}")


def unpin(*, registry: Path, version: str) -> Result:
    """Let a pinned version be retired again.

    Args:
        registry: registry folder.
        version: a version's digest or its beginning.
    """
    from indexer.registry import Registry

    name = Registry(registry).unpin(version)
    data = {"registry": str(registry), "version": name, "pinned": False}
    return Result(data, f"{registry}: {name} is not pinned")


def _version_table(states: "Sequence[VersionState]") -> str:
    lines = ["          version            size  published (UTC)      state"]
    for state in states:
        reason = f" ({' '.join(state.reason.split())})" if state.reason else ""  # one line, whatever was typed
        marks = ["current"] * state.current + [f"pinned{reason}"] * state.pinned
        published = (state.published_at or "never").replace("T", " ").removesuffix("+00:00")
        size = f"{state.size_bytes / 1e6:.1f} MB"
        lines.append(f"          {state.version[:12]}  {size:>9}  {published:<19}  {', '.join(marks)}".rstrip())
    return "\n".join(lines)


def _level_table(levels: Sequence[Mapping[str, Any]]) -> str:
    lines = ["level  tau_max    cells  coverage  photos per cell (min/median/max)  S2 levels  median radius"]
    for row in levels:
        photos = row["photos_per_cell"]
        spread = f"{photos['smallest']}/{photos['median']:g}/{photos['largest']}"
        s2_levels = f"{row['s2_levels'][0]}-{row['s2_levels'][-1]}"
        lines.append(
            f"{row['level']:>5}  {row['tau_max']:>7}  {row['cells']:>7,}  {row['coverage']:>7.2%}  {spread:>33}  "
            f"{s2_levels:>9}  {row['median_radius_km']:>10.1f} km"
        )
    return "\n".join(lines)
