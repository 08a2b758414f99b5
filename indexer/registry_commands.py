"""The commands of `python -m indexer` about a registry: what is in it, which version is current, which may go."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import indexer
from indexer.cli import Result
from indexer.commands import level_table
from indexer.errors import ArtifactError

if TYPE_CHECKING:
    from indexer.bundles.bundle import Bundle
    from indexer.bundles.leaf_index import IndexFacts, MeasuredRecall
    from indexer.bundles.registry import Registry, VersionState


def info(*, registry: Path, version: str | None = None) -> Result:
    """Show what a registry holds and what the current bundle is made of.

    Args:
        registry: registry folder.
        version: a version's digest or its beginning; the current one by default.
    """
    from indexer.bundles.bundle_facts import bundle_facts

    home = indexer.Registry(registry)
    bundle = indexer.open_bundle(home.resolve(version))
    states, facts = home.states(), bundle_facts(bundle)
    data = {
        "registry": str(registry),
        "current": home.current,
        "versions": home.versions,
        "states": [asdict(state) for state in states],
        "pins": home.pins(),
        "history": home.history(),
        **facts,
    }
    lines = [
        f"registry  {registry}: {len(home.versions)} version(s), current {(home.current or 'none')[:12]}",
        _version_table(states),
        f"version   {bundle.version}",
        f"encoder   {bundle.encoder or 'not recorded'}",
        f"size      {facts['size_bytes'] / 1e6:.1f} MB; {facts['head']} of {facts['width']} dimensions",
        *([f"answers name no place finer than {bundle.precision_cap_km:g} km"] if bundle.precision_cap_km else []),
        f"calibrated for  {', '.join(bundle.calibrations) or 'nothing: python -m search calibrate'}",
        *_calibrated_lines(bundle),
        f"gallery   {_gallery_text(bundle, facts['gallery'])}",
        f"index     {_index_text(bundle.index_facts)}",
        f"beam      lists of level {bundle.beam.level}, {bundle.beam.probes} visited; {_recall_text(bundle.beam)}",
        f"taus      {', '.join(f'{tau:.4f}' for tau in bundle.model.geocells.temperatures)} (temperature per level)",
        level_table(facts["levels"]),
    ]
    return Result(data, "\n".join(lines))


def _calibrated_lines(bundle: "Bundle") -> list[str]:
    """What is to be known of each of its calibrations."""
    lines = []
    for name, each in bundle.calibrations.items():
        if each.approximate:
            lines.append(f"  {name}: approximate, of few photos: radii and p-values are rough")
        if not each.nonconformities:
            lines.append(f"  {name}: claims cannot be checked by it: calibrate again (python -m search calibrate)")
    return lines


def verify(*, registry: Path, version: str | None = None) -> Result:
    """Re-hash every file of the registry's bundles and say what is damaged, missing or too much.

    Args:
        registry: registry folder.
        version: check only this version; all of them by default.
    """
    from indexer.bundles.bundle import verify_bundle

    home = indexer.Registry(registry)
    home.require()
    folders = [home.resolve(name) for name in (home.versions if version is None else [version])]
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
    home = indexer.Registry(registry)
    return _now_current(home, home.publish(version))


def rollback(*, registry: Path) -> Result:
    """Make current again the version that was so before the present one; a second rollback goes one further back.

    Args:
        registry: registry folder.
    """
    home = indexer.Registry(registry)
    return _now_current(home, home.rollback())


def _now_current(home: "Registry", version: str) -> Result:
    # As the log has it: what was current when this began may not be what this replaced.
    before = None
    with contextlib.suppress(ArtifactError):  # a damaged log is no reason to call a publication failed
        changes = (entry for entry in reversed(home.history()) if entry["action"] in ("publish", "rollback"))
        before = next(entry["before"] for entry in changes if entry["version"] == version)
    data = {"registry": str(home.path), "current": version, "before": before}
    return Result(data, f"{home.path}: current is {version} (before: {before or 'none'})")


def retire(*, registry: Path, version: str) -> Result:
    """Remove a version for good; never the current one, never a pinned one. Readers that have it open keep it.

    Args:
        registry: registry folder.
        version: a version's digest or its beginning.
    """
    name = indexer.Registry(registry).retire(version)
    return Result({"registry": str(registry), "retired": name}, f"{registry}: {name} is retired")


def pin(*, registry: Path, version: str, reason: str | None = None) -> Result:
    """Keep a version from being retired.

    Args:
        registry: registry folder.
        version: a version's digest or its beginning.
        reason: why; shown by info and to who tries to retire it.
    """
    line = indexer.Registry(registry).pin(version, reason=reason)
    name, why = line["version"], line.get("reason")
    data = {"registry": str(registry), "version": name, "pinned": True, "reason": why}
    return Result(data, f"{registry}: {name} is pinned{f' ({why})' if why else ''}")


def unpin(*, registry: Path, version: str) -> Result:
    """Let a pinned version be retired again.

    Args:
        registry: registry folder.
        version: a version's digest or its beginning.
    """
    name = indexer.Registry(registry).unpin(version)
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


def _gallery_text(bundle: "Bundle", data: Mapping[str, Any] | None) -> str:
    if data is None or bundle.gallery is None:
        return "none"
    text = f"{data['photos']:,} photos in {bundle.gallery.facts.precision_text}, {data['size_bytes'] / 1e6:.1f} MB"
    text += "" if data["per_leaf"] is None else f"; the {data['per_leaf']} most typical of each leaf"
    text += f"; {data['leaves_without_photos']:,} leaves have none"
    reranked = [name for name, each in bundle.calibrations.items() if each.with_photos and each.with_photos.reranker]
    text += f"; reranked for {', '.join(reranked)}" if reranked else ""
    if data["changed"]:
        lost = "" if data["keeps_calibrations"] else ", too much: calibrate again (python -m search calibrate)"
        text += f"; {data['changed']:.2%} changed since the calibration{lost}"
    return text


def _index_text(facts: "IndexFacts") -> str:
    kind = f"{facts.kind} {facts.precision}"
    if facts.quantiser_level is not None:
        kind += f", lists of level {facts.quantiser_level}, {facts.probes} visited"
    return f"{kind}, {facts.size_bytes / 1e6:.1f} MB; {_recall_text(facts)}"


def _recall_text(facts: "MeasuredRecall") -> str:
    return (
        f"recall@1 {facts.recall_at_1:.4f}, @10 {facts.recall_at_10:.4f} against a full scan, on "
        f"{facts.queries:,} " + ("photos" if facts.measured_on == "photos" else "stand-ins for photos")
    )
