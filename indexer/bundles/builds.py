"""Building a bundle: geocells from a checkpoint, from photo vectors alone, or inherited from another bundle."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from indexer.bundles.build_config import DEFAULT_CONFIG, BuildConfig
from indexer.bundles.bundle import build_bundle, open_bundle
from indexer.bundles.leaf_index import IndexChoice
from indexer.bundles.references import load_references
from indexer.bundles.registry import Registry
from indexer.cells.division import S2Scheme, partition
from indexer.cells.hierarchy import Hierarchy
from indexer.cells.lineage import lineage
from indexer.cells.partition import PartitionRule
from indexer.cells.table import load_hierarchy
from indexer.disk.artifact import explain_unwritable, remove_leftovers, temporary_folder
from indexer.disk.manifest import file_digest, manifest_digest
from indexer.earth import s2
from indexer.errors import InputError
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
class _Ingredients:
    """What a bundle is made of, beside the hierarchy."""

    geocells: Geocells
    config: Mapping[str, Any]
    inputs: Mapping[str, str | None]  # digests
    references: pa.Table | None = None  # `indexer.bundles.references`
    photos: np.ndarray | None = None  # (Q, D) float32, transformed vectors to measure the leaf index with
    facts: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
    precision_cap_km: float | None = None  # of the bundle that is inherited from


def build(
    registry: Path | str,
    *,
    hierarchy: Path | str | None = None,
    checkpoint: Path | str | None = None,
    features: Path | str | None = None,
    inherit: str | None = None,
    photos: Path | str | None = None,
    config: BuildConfig = DEFAULT_CONFIG,
    publish: bool = True,
) -> Built:
    """Build a bundle from a checkpoint, from photo vectors alone, or from an older bundle, and publish it.

    Args:
        registry: registry folder; made if absent.
        hierarchy: hierarchy folder; with `features` and `photos` it is made of the photos if not given.
        checkpoint: checkpoint with geocells that were trained on the hierarchy.
        features: photo vectors of any encoder, in place of a checkpoint; each cell gets the mean direction of its own.
        inherit: version in the registry, in place of a checkpoint; each cell gets the vector of the cell it comes from.
        photos: with `features`, the table that says where the photos were taken; by default the features say it.
        config: how it is built.
        publish: make the version current.

    Raises:
        InputError: what is given does not go together, cannot be used, or the registry cannot be written.
        ArtifactError: a folder cannot be read.
        BundleMismatch: the checkpoint belongs to another hierarchy.
        WorkError: the disk is full.
    """
    hierarchy, checkpoint, features, photos = (
        None if path is None else Path(path) for path in (hierarchy, checkpoint, features, photos)
    )
    home = Registry(registry)
    with contextlib.ExitStack() as stack:
        if [checkpoint, features, inherit].count(None) != 2:
            raise InputError("Give one of `checkpoint`, `features` and `inherit`.")
        of_features = (config.split, config.transform, config.shrinkage, config.seed)
        if features is None and (photos is not None or of_features != (None, "whiten", None, 0)):
            raise InputError("`photos`, `split`, `transform`, `shrinkage` and `seed` go with `features`.")
        if config.transform == "none" and config.shrinkage is not None:
            raise InputError("`shrinkage` goes with `transform` whiten.")
        taus = config.tau_max, config.tau_min
        if hierarchy is not None and taus != (DEFAULT_CONFIG.tau_max, DEFAULT_CONFIG.tau_min):
            raise InputError("`tau_max` and `tau_min` go without `hierarchy`, which has its own.")
        if config.precision_cap is not None:
            s2.level_of_width(config.precision_cap)  # refused before the work where it is none
        home.check()
        if hierarchy is None:
            if features is None or photos is None:
                raise InputError("Give `hierarchy`; only `features` with `photos` can do without.")
            rule = PartitionRule(tau_max=config.tau_max, tau_min=config.tau_min)
            hierarchy = stack.enter_context(_hierarchy_of(photos, rule, home.path, split=config.split))
        opened = load_hierarchy(hierarchy)
        if checkpoint is not None:
            made = _from_checkpoint(opened, checkpoint)
        elif features is not None:
            made = _from_features(opened, features, photos, config)
        else:
            made = _from_version(opened, home.resolve(inherit))
        caps = [cap for cap in (made.precision_cap_km, config.precision_cap) if cap is not None]
        folder = build_bundle(
            hierarchy,
            made.geocells,
            home.versions_folder,
            config={**made.config, "index": config.index, "precision": config.precision},
            inputs={"hierarchy": manifest_digest(hierarchy), **made.inputs},
            index=IndexChoice(config.index, config.precision),
            photos=made.photos,
            references=made.references,
            precision_cap_km=max(caps, default=None),
        )
    if publish:
        home.publish(folder.name)
    return Built(folder, publish, tuple(map(len, made.geocells.vectors)), made.facts, made.text)


def _from_checkpoint(hierarchy: Hierarchy, checkpoint: Path) -> _Ingredients:
    """Geocells that were learned together with the encoder, or fitted to its vectors."""
    geocells = load_geocells(checkpoint, hierarchy=hierarchy.digest)
    references = load_references(checkpoint, n_leaves=len(geocells.vectors[-1]), width=geocells.width)
    inputs = {"checkpoint": manifest_digest(checkpoint)}
    return _Ingredients(geocells, {"geocells": "checkpoint"}, inputs, references)


def _from_features(hierarchy: Hierarchy, features: Path, photos: Path | None, config: BuildConfig) -> _Ingredients:
    """Geocells that are mean directions of photo vectors; nothing is trained."""
    source = open_features(features)
    placement = Placement(hierarchy, photos, split=config.split)
    made = prototypes(source, placement, transform=config.transform, shrinkage=config.shrinkage, seed=config.seed)
    return _Ingredients(
        made.geocells,
        config={"geocells": "features", "transform": made.facts, "split": config.split, "seed": config.seed},
        inputs={"features": source.digest, "photos": None if photos is None else file_digest(photos)},
        photos=made.queries,
        facts={"photos": made.photos, "rows": made.rows, "inherited_cells": made.inherited, "transform": made.facts},
        text=f"{made.photos:,} of {made.rows:,} photos have a vector and a cell; {made.inherited:,} cells have no "
        "photo of their own and the vector of the cell above",
    )


def _from_version(hierarchy: Hierarchy, version: Path) -> _Ingredients:
    """Geocells of an older bundle, carried over to the cells of a new hierarchy by lineage."""
    old = open_bundle(version)
    counts = Counter(lineage(old.hierarchy, hierarchy)["relation"].to_pylist())
    return _Ingredients(
        carry_over(old.model.geocells, old.hierarchy, hierarchy),
        config={"geocells": "inherited"},
        inputs={"bundle": old.version},
        facts={"lineage": dict(counts)},
        text="cells: " + ", ".join(f"{n:,} {relation}" for relation, n in counts.items()),
        precision_cap_km=old.precision_cap_km,
    )


@contextlib.contextmanager
def _hierarchy_of(photos: Path, rule: PartitionRule, registry: Path, *, split: str | None) -> Iterator[Path]:
    """A hierarchy folder of a photo table for as long as a build needs it, beside the registry."""
    parent = registry.absolute().parent
    with explain_unwritable(registry):
        parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(parent, registry.name)  # of a build that was killed: they hold places of photos
    with temporary_folder(parent, registry.name) as folder:
        yield partition(photos, S2Scheme(rule), folder / "hierarchy", split=split).folder
