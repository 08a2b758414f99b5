"""Building a bundle: geocells from a checkpoint, from photo vectors alone, or inherited from another bundle."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from indexer.bundles.build_config import DEFAULT_CONFIG, BuildConfig
from indexer.bundles.bundle import Bundle, build_bundle, bundle_with_gallery, open_bundle
from indexer.bundles.gallery_maker import (
    GalleryChange,
    GalleryMaker,
    carried_gallery,
    change_of,
    changed_gallery,
    checkpoint_gallery,
    gallery_options,
    new_gallery,
)
from indexer.bundles.leaf_index import IndexChoice
from indexer.bundles.registry import Registry
from indexer.bundles.removals import which_removed
from indexer.bundles.takedown import Takedown
from indexer.cells.division import S2Scheme, partition
from indexer.cells.lineage import lineage
from indexer.cells.partition import PartitionRule
from indexer.cells.table import load_hierarchy
from indexer.disk.artifact import explain_unwritable, remove_leftovers, temporary_folder
from indexer.disk.manifest import manifest_digest
from indexer.earth import s2
from indexer.errors import InputError
from indexer.photos.tables import table_digest
from indexer.vectors.features import open_features
from indexer.vectors.geocells import Geocells, load_geocells
from indexer.vectors.means import carry_over
from indexer.vectors.prototypes import Placement, prototypes


@dataclass(frozen=True, slots=True, eq=False)
class Built:
    """A version that was built."""

    folder: Path
    published: bool
    cells: tuple[int, ...]  # per level, coarsest first
    facts: Mapping[str, Any]  # what a program wants to know of how it was made
    text: str  # the same for a person

    @property
    def version(self) -> str:
        """Its digest."""
        return self.folder.name


@dataclass(frozen=True, slots=True, eq=False)
class _Made:
    """A bundle that was written."""

    folder: Path
    geocells: Geocells
    gallery: GalleryMaker
    sources: Mapping[str, Path]  # what it was made from that has photos, by digest
    facts: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""


def build(
    registry: Path | str,
    *,
    hierarchy: Path | str | None = None,
    checkpoint: Path | str | None = None,
    features: Path | str | None = None,
    inherit: str | None = None,
    photos: Path | str | None = None,
    gallery_add: Path | str | None = None,
    gallery_remove: Path | str | None = None,
    everywhere: bool = False,
    config: BuildConfig = DEFAULT_CONFIG,
    publish: bool = True,
) -> Built:
    """Build a bundle from a checkpoint, from photo vectors alone, or from an older bundle, and publish it.

    Args:
        registry: registry folder; made if absent.
        hierarchy: hierarchy folder; with `features` and `photos` it is made of the photos if not given, and with
            `gallery_add` or `gallery_remove` it is that of the version.
        checkpoint: checkpoint with geocells that were trained on the hierarchy.
        features: photo vectors of any encoder, in place of a checkpoint; each cell gets the mean direction of its own.
        inherit: version in the registry, in place of a checkpoint; each cell gets the vector of the cell it comes from.
        photos: with `features` or `gallery_add`, the table that says where the photos were taken, or the folder of
            photos whose metadata say it; by default the features do.
        gallery_add: with `inherit`, photo vectors to add to its gallery; nothing is fitted again.
        gallery_remove: with `inherit`, text file with names of photos, one a line, that are to go from its gallery and
            to stay out of all that is built later. What was left out because of them does not come back.
        everywhere: with `gallery_remove`, retire all other versions that hold one of these photos.
        config: how it is built.
        publish: make the version current.

    Raises:
        InputError: what is given does not go together, cannot be used, or the registry cannot be written.
        ArtifactError: a folder cannot be read.
        BundleMismatch: the checkpoint belongs to another hierarchy, or vectors to another encoder.
        WorkError: the disk is full.
    """
    hierarchy, checkpoint, features, photos, gallery_add, gallery_remove = (
        None if path is None else Path(path)
        for path in (hierarchy, checkpoint, features, photos, gallery_add, gallery_remove)
    )
    home = Registry(registry)
    changes = gallery_add is not None or gallery_remove is not None
    if [checkpoint, features, inherit].count(None) != 2:
        raise InputError("Give one of `checkpoint`, `features` and `inherit`.")
    _check_config(config, hierarchy, photos, features=features, gallery_add=gallery_add)
    if changes and inherit is None:
        raise InputError("`gallery_add` and `gallery_remove` go with `inherit`, the version whose gallery they change.")
    if changes and not config.wants_gallery:
        raise InputError("`gallery_add` and `gallery_remove` change a gallery; `gallery_per_leaf` 0 wants none.")
    if everywhere and gallery_remove is None:
        raise InputError("`everywhere` goes with `gallery_remove`.")
    home.check()
    takedown = None
    with contextlib.ExitStack() as stack:
        if hierarchy is None and not changes:
            if features is None or photos is None:
                raise InputError("Give `hierarchy`; only `features` with `photos` can do without.")
            rule = PartitionRule(tau_max=config.tau_max, tau_min=config.tau_min)
            hierarchy = stack.enter_context(_hierarchy_of(photos, rule, home.path, split=config.split))
        if inherit is not None:
            old = open_bundle(home.resolve(inherit))
            change = change_of(
                old, add=gallery_add, remove=gallery_remove, photos=photos, config=config, removed=home.removed
            )
            if change.names:
                takedown = Takedown(home, change.names, everywhere=everywhere)
                takedown.check(publish=publish)
            made = _from_version(home, old, change, hierarchy, config)
        else:
            assert hierarchy is not None, "only a version has its own"
            if checkpoint is not None:
                made = _from_checkpoint(home, hierarchy, checkpoint, config)
            else:
                assert features is not None, "one of the three is given"
                made = _from_features(home, hierarchy, features, photos, config)
    home.note_sources(made.sources)
    facts, texts = {**made.facts, **made.gallery.facts}, [made.text, made.gallery.text]
    if takedown is not None:  # before it is published: whoever sees the version can trust that the photos stay away
        home.remove_names(change.names)
    if publish:
        home.publish(made.folder.name)
    if takedown is not None:
        taken = takedown.finish()
        facts["takedown"], texts = asdict(taken), [*texts, taken.text]
    cells = tuple(map(len, made.geocells.vectors))
    return Built(made.folder, publish, cells, facts, "\n".join(filter(None, texts)))


def _check_config(
    config: BuildConfig,
    hierarchy: Path | None,
    photos: Path | None,
    *,
    features: Path | None,
    gallery_add: Path | None,
) -> None:
    """Refuse what does not go together, before the work."""
    config.check_gallery()
    of_means = ("transform", "shrinkage", "seed", "temperature", "gallery_similarity")
    if features is None and any(getattr(config, name) != getattr(DEFAULT_CONFIG, name) for name in of_means):
        *first, last = (f"`{name}`" for name in of_means)
        raise InputError(f"{', '.join(first)} and {last} go with `features`.")
    if config.gallery_similarity is not None and not config.wants_gallery:
        raise InputError("`gallery_similarity` is how photos of a gallery count; `gallery_per_leaf` 0 wants none.")
    if features is None and config.gallery_precision != DEFAULT_CONFIG.gallery_precision:
        raise InputError("`gallery_precision` goes with `features`: vectors that are stored keep theirs.")
    of_vectors = ("split", "crops", "encoder", "owner_column", "keep_duplicates")
    given = photos is not None or any(getattr(config, name) != getattr(DEFAULT_CONFIG, name) for name in of_vectors)
    if features is None and gallery_add is None and given:
        *first, last = (f"`{name}`" for name in ("photos", *of_vectors))
        raise InputError(f"{', '.join(first)} and {last} go with `features` or `gallery_add`.")
    if config.transform == "none" and config.shrinkage is not None:
        raise InputError("`shrinkage` goes with `transform` whiten.")
    taus = config.tau_max, config.tau_min
    if hierarchy is not None and taus != (DEFAULT_CONFIG.tau_max, DEFAULT_CONFIG.tau_min):
        raise InputError("`tau_max` and `tau_min` go without `hierarchy`, which has its own.")
    if config.precision_cap is not None:
        s2.level_of_width(config.precision_cap)  # refused before the work where it is none


def _from_checkpoint(home: Registry, hierarchy: Path, checkpoint: Path, config: BuildConfig) -> _Made:
    """Geocells that were learned together with the encoder, or fitted to its vectors."""
    opened = load_hierarchy(hierarchy)
    geocells = load_geocells(checkpoint, hierarchy=opened.digest)
    gallery = checkpoint_gallery(checkpoint, geocells, opened, config, home.removed)
    inputs = {"hierarchy": manifest_digest(hierarchy), "checkpoint": manifest_digest(checkpoint)}
    folder = _written(home, hierarchy, geocells, gallery, {"geocells": "checkpoint"}, inputs, config)
    return _Made(folder, geocells, gallery, {inputs["checkpoint"]: checkpoint})


def _from_features(home: Registry, hierarchy: Path, features: Path, photos: Path | None, config: BuildConfig) -> _Made:
    """Geocells that are mean directions of photo vectors; nothing is trained."""
    opened, source, removed = (
        load_hierarchy(hierarchy),
        open_features(features, crops=config.crops, encoder=config.encoder),
        home.removed,
    )
    placement = Placement(
        opened,
        photos,
        split=config.split,
        chosen=None if not removed else lambda names: ~which_removed(names, removed),
        owner_column=config.owner_column,
    )
    made = prototypes(
        source,
        placement,
        transform=config.transform,
        shrinkage=config.shrinkage,
        seed=config.seed,
        temperature=config.temperature,
    )
    gallery = new_gallery(source, placement, made.geocells, opened, config)
    table = None if photos is None else table_digest(photos)
    inputs = {"hierarchy": manifest_digest(hierarchy), "features": source.digest, "photos": table}
    described = {
        "geocells": "features",
        "transform": made.facts,
        "split": config.split,
        "seed": config.seed,
        "crops": source.crops,
        "temperature": config.temperature,
    }
    folder = _written(home, hierarchy, made.geocells, gallery, described, inputs, config, photos=made.queries)
    return _Made(
        folder,
        made.geocells,
        gallery,
        {source.digest: features} | ({} if table is None or photos is None else {table: photos}),
        facts={"photos": made.photos, "rows": made.rows, "inherited_cells": made.inherited, "transform": made.facts},
        text=f"{made.photos:,} of {made.rows:,} photos have a vector and a cell; {made.inherited:,} cells have no "
        "photo of their own and the vector of the cell above",
    )


def _from_version(
    home: Registry, old: Bundle, change: GalleryChange, hierarchy: Path | None, config: BuildConfig
) -> _Made:
    """Geocells of an older bundle, as they are, or carried over to the cells of a new hierarchy by lineage."""
    inputs: dict[str, str | None] = {"bundle": old.version, **change.inputs}
    if hierarchy is None:
        if (config.index, config.precision) != (DEFAULT_CONFIG.index, DEFAULT_CONFIG.precision):
            raise InputError("`index` and `precision` go with `hierarchy`: without it the indices stay as they are.")
        gallery = changed_gallery(old, change, config)
        folder = bundle_with_gallery(
            old,
            home.versions_folder,
            gallery.write,
            config={**change.described, **gallery_options(config)},
            inputs=inputs,
            precision_cap_km=_coarser(old.precision_cap_km, config.precision_cap),
        )
        return _Made(folder, old.model.geocells, gallery, change.sources)
    opened = load_hierarchy(hierarchy)
    counts = Counter(lineage(old.hierarchy, opened)["relation"].to_pylist())
    geocells = carry_over(old.model.geocells, old.hierarchy, opened)
    gallery = carried_gallery(old, change, geocells, opened, config)
    inputs = {"hierarchy": manifest_digest(hierarchy), **inputs}
    described = {"geocells": "inherited", **change.described}
    folder = _written(
        home, hierarchy, geocells, gallery, described, inputs, config, precision_cap_km=old.precision_cap_km
    )
    text = "cells: " + ", ".join(f"{n:,} {relation}" for relation, n in counts.items())
    return _Made(folder, geocells, gallery, change.sources, facts={"lineage": dict(counts)}, text=text)


def _written(
    home: Registry,
    hierarchy: Path,
    geocells: Geocells,
    gallery: GalleryMaker,
    described: Mapping[str, Any],
    inputs: Mapping[str, str | None],
    config: BuildConfig,
    *,
    photos: np.ndarray | None = None,
    precision_cap_km: float | None = None,
) -> Path:
    """The folder of a bundle, written; described: how its geocells were made. photos: as in `build_bundle`."""
    return build_bundle(
        hierarchy,
        geocells,
        home.versions_folder,
        config={**described, **gallery_options(config), "index": config.index, "precision": config.precision},
        inputs=inputs,
        index=IndexChoice(config.index, config.precision),
        photos=photos,
        gallery=gallery.write,
        precision_cap_km=_coarser(precision_cap_km, config.precision_cap),
    )


def _coarser(*caps_km: float | None) -> float | None:
    return max((cap for cap in caps_km if cap is not None), default=None)


@contextlib.contextmanager
def _hierarchy_of(photos: Path, rule: PartitionRule, registry: Path, *, split: str | None) -> Iterator[Path]:
    """A hierarchy folder of a photo table for as long as a build needs it, beside the registry."""
    parent = registry.absolute().parent
    with explain_unwritable(registry):
        parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(parent, registry.name)  # of a build that was killed: they hold places of photos
    with temporary_folder(parent, registry.name) as folder:
        yield partition(photos, S2Scheme(rule), folder / "hierarchy", split=split).folder
