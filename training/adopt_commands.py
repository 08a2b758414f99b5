"""The commands of `python -m training adopt`: arguments -> one library call -> one result; imports wait for it."""

from pathlib import Path

from indexer.cli import Result


def geoclip(
    *,
    out: Path,
    registry: Path | None = None,
    from_: str | None = None,
    clip: str | None = None,
    coordinates: Path | None = None,
) -> Result:
    """Take over GeoCLIP: photos anywhere on Earth, compared with 100,000 places; two minutes, nothing trained.

    Args:
        out: folder to write: checkpoint, features of the places, and their hierarchy.
        registry: registry folder, made if absent; a version is built and published there. Without it nothing is.
        from_: folder that the package geoclip was unpacked into, or a release of GeoCLIP as folder or hub id; by
            default the package that is installed.
        clip: folder or hub id of the CLIP ViT-L/14 that it stands on; by default openai/clip-vit-large-patch14 or the
            one that a release names.
        coordinates: table with lat and lng of other places to compare photos with: more, or those of one country.
    """
    from training.adopting import adopt_geoclip

    made = adopt_geoclip(out, registry=registry, from_=from_, clip=clip, coordinates=coordinates)
    version = None if made.built is None else made.built.version
    data = {
        "out": str(out),
        "places": made.places,
        "cells": list(made.cells),
        "temperature": made.temperature,
        "version": version,
        "registry": None if registry is None else str(registry),
        "stage_seconds": dict(made.stage_seconds),
    }
    lines = [
        f"{out}: GeoCLIP, {made.places:,} places in {len(made.cells)} levels ({made.cells[-1]:,} leaves), temperature "
        f"{made.temperature:.4f}, in {sum(made.stage_seconds.values()):.0f} s",
    ]
    if made.built is None:
        lines.append("No version was built: give --registry.")
    else:
        lines.append(f"{version} published in {registry}; its probabilities are not calibrated")
        lines.append(
            f"Ask it: python -m search query --registry {registry} --checkpoint {out / 'checkpoint'} photo.jpg"
        )
    return Result(data, "\n".join(lines))
