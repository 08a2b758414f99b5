"""The commands of `python -m training adopt`: arguments -> one library call -> one result; imports wait for it."""

from pathlib import Path

from indexer.cli import Result
from training.config import NamesConfig


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


def names(
    *,
    encoder: str,
    out: Path,
    registry: Path | None = None,
    names: Path | None = None,
    prompts: Path | None = None,
    config: NamesConfig,
) -> Result:
    """Take over a CLIP with text: photos anywhere on Earth, compared with the names of places; nothing trained.

    A start that was cut short goes on.

    Args:
        encoder: hf:<hub id or folder> of a CLIP with both halves, such as hf:geolocal/StreetCLIP.
        out: folder to write: hierarchy, features of the names, and a checkpoint with these as geocells.
        registry: registry folder, made if absent; a version is built and published there. Without it nothing is.
        names: table with lat, lng and labels of other places, and population if it is known; by default 34,006 cities
            in their regions, countries and continents, in English.
        prompts: text file with a prompt a line, such as: A photo in {country}. Each level takes the prompts whose
            finest label is its own; by default captions as StreetCLIP learned from.
        config: how it is done.
    """
    from training.naming import adopt_names

    made = adopt_names(encoder, out, registry=registry, names=names, prompts=prompts, config=config)
    version = None if made.built is None else made.built.version
    data = {
        "out": str(out),
        "cells": dict(made.levels),
        "texts": made.texts.texts,
        "embedded_before": made.texts.embedded_before,
        "temperature": made.temperature,
        "prior_exponent": made.prior_exponent,
        "version": version,
        "registry": None if registry is None else str(registry),
        "embedding_seconds": made.texts.seconds,
        "seconds": made.seconds,
    }
    cells = ", ".join(f"{count:,} of {label}" for label, count in made.levels.items())
    lines = [
        f"{out}: cells {cells}, from {made.texts.texts:,} texts in {made.texts.seconds:.0f} s; temperature "
        f"{made.temperature:.4f}, prior exponent {made.prior_exponent:g}; {made.seconds:.0f} s in all"
    ]
    if made.built is None:
        lines.append("No version was built: give --registry.")
    else:
        lines.append(f"{version} published in {registry}; its probabilities are not calibrated")
        lines.append(f"Ask it: python -m search query --registry {registry} --checkpoint {encoder} photo.jpg")
    return Result(data, "\n".join(lines))
