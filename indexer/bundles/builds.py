"""The ways to a bundle: geocells from a checkpoint, from photo vectors alone, or inherited from another bundle."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from indexer.bundles.bundle import build_bundle, open_bundle
from indexer.bundles.leaf_index import IndexChoice
from indexer.bundles.references import load_references
from indexer.cells.division import partition
from indexer.cells.lineage import lineage
from indexer.cells.rule import PartitionRule
from indexer.cells.schemes import S2Scheme
from indexer.cells.table import hierarchy_manifest, load_hierarchy
from indexer.disk.artifact import explain_unwritable, remove_leftovers, temporary_folder
from indexer.disk.manifest import file_digest, manifest_digest
from indexer.vectors.features import open_features
from indexer.vectors.geocells import Geocells, load_geocells
from indexer.vectors.inheritance import carry_over
from indexer.vectors.prototypes import Placement, prototypes


@dataclass(frozen=True, slots=True, eq=False)
class Build:
    """All that a bundle is made of, ready to be written."""

    hierarchy: Path
    geocells: Geocells
    config: Mapping[str, Any]
    inputs: Mapping[str, str | None]  # digests
    references: pa.Table | None = None  # `indexer.bundles.references`
    photos: np.ndarray | None = None  # (Q, D) float32, transformed vectors to measure the leaf index with
    facts: Mapping[str, Any] = field(default_factory=dict)  # what a program wants to know of how it was made
    text: str = ""  # the same for a person
    precision_cap_km: float | None = None  # what an older bundle was told no finer than

    def write(self, versions: Path, index: IndexChoice, *, precision_cap_km: float | None = None) -> Path:
        """Write the bundle into `versions/<digest>`; returns that folder.

        Raises:
            BundleMismatch: the geocells are not those of the hierarchy's cells.
            WorkError: the disk is full.
        """
        caps = [cap for cap in (self.precision_cap_km, precision_cap_km) if cap is not None]
        config = {**self.config, "index": index.kind, "precision": index.precision}
        return build_bundle(
            self.hierarchy,
            self.geocells,
            versions,
            config=config,
            inputs=self.inputs,
            index=index,
            photos=self.photos,
            references=self.references,
            precision_cap_km=max(caps, default=None),
        )


def from_checkpoint(hierarchy: Path, checkpoint: Path) -> Build:
    """Geocells that were learned together with the encoder, or fitted to its vectors.

    Raises:
        ArtifactError: one of the two cannot be read.
        BundleMismatch: the checkpoint was trained on, or fitted to, another hierarchy.
    """
    geocells = load_geocells(checkpoint, hierarchy=hierarchy_manifest(hierarchy).facts["digest"])
    inputs = {"hierarchy": manifest_digest(hierarchy), "checkpoint": manifest_digest(checkpoint)}
    n_leaves = len(geocells.vectors[-1])
    references = load_references(checkpoint, n_leaves=n_leaves, width=geocells.width)
    return Build(hierarchy, geocells, {"geocells": "checkpoint"}, inputs, references)


def from_features(
    hierarchy: Path,
    features: Path,
    photos: Path | None,
    *,
    split: str | None,
    transform: Literal["whiten", "none"],
    shrinkage: float | None,
    seed: int,
) -> Build:
    """Geocells that are mean directions of photo vectors; nothing is trained.

    Raises:
        InputError: no photo has both a vector and a cell, or the vectors cannot be whitened.
    """
    source = open_features(features)
    placement = Placement(load_hierarchy(hierarchy), photos, split=split)
    made = prototypes(source, placement, transform=transform, shrinkage=shrinkage, seed=seed)
    inputs = {
        "hierarchy": manifest_digest(hierarchy),
        "features": source.digest,
        "photos": None if photos is None else file_digest(photos),
    }
    config = {"geocells": "features", "transform": made.facts, "split": split, "seed": seed}
    facts = {"photos": made.photos, "rows": made.rows, "inherited_cells": made.inherited, "transform": made.facts}
    text = (
        f"{made.photos:,} of {made.rows:,} photos have a vector and a cell; {made.inherited:,} cells have no photo of "
        "their own and the vector of the cell above"
    )
    return Build(hierarchy, made.geocells, config, inputs, None, made.queries, facts, text)


def from_version(hierarchy: Path, version: Path) -> Build:
    """Geocells of an older bundle, carried over to the cells of a new hierarchy by lineage.

    Raises:
        ArtifactError: the bundle cannot be read.
        InputError: the hierarchies do not correspond.
    """
    old = open_bundle(version)
    tree = load_hierarchy(hierarchy)
    geocells = carry_over(old.model.geocells, old.hierarchy, tree)
    counts = Counter(lineage(old.hierarchy, tree)["relation"].to_pylist())
    inputs = {"hierarchy": manifest_digest(hierarchy), "bundle": old.version}
    return Build(
        hierarchy,
        geocells,
        {"geocells": "inherited"},
        inputs,
        facts={"lineage": dict(counts)},
        text="cells: " + ", ".join(f"{n:,} {relation}" for relation, n in counts.items()),
        precision_cap_km=old.precision_cap_km,
    )


@contextlib.contextmanager
def partition_photos(photos: Path, rule: PartitionRule, registry: Path, *, split: str | None) -> Iterator[Path]:
    """A hierarchy folder of a photo table for as long as a build needs it, beside the registry.

    Raises:
        InputError: the table cannot be used, or no cell holds enough photos.
    """
    parent = registry.absolute().parent
    with explain_unwritable(registry):
        parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(parent, registry.name)  # of a build that was killed: they hold places of photos
    with temporary_folder(parent, registry.name) as folder:
        yield partition(photos, S2Scheme(rule), folder / "hierarchy", split=split).folder
