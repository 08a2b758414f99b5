"""The bundle: all that answering needs, in one folder that never changes once written.

    cells.duckdb      the hierarchy's tables
    level_<l>.faiss   the geocell vectors of level l (row i = cell i): what the paper learns
    leaves.faiss      the leaf vectors (row i = leaf i): one inner-product search over them is the whole hierarchical
                      inference (`indexer.scoring` says why)
    manifest.json     temperatures, level weights, calibration, digests of the encoder, the hierarchy and every file

In: a hierarchy folder and geocells. Out: a folder named by the SHA-256 of its manifest.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from indexer import cells
from indexer.artifact import (
    MANIFEST,
    Manifest,
    check_sizes,
    manifest_digest,
    parse_manifest,
    verify_folder,
    write_folder,
)
from indexer.errors import ArtifactError, BundleMismatch
from indexer.faiss_index import FlatIndex, flat_index, read_index, rows_of, write_index
from indexer.geocells import Geocells
from indexer.hierarchy import Hierarchy
from indexer.scoring import ScoringModel, leaf_vectors

KIND = "bundle"
SCHEMA_VERSION = 1
LEAVES_FILE = "leaves.faiss"


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """An opened bundle. Everything is in memory: it goes on answering whatever happens to the folder."""

    path: Path
    manifest: Manifest
    hierarchy: Hierarchy
    model: ScoringModel
    leaf_index: FlatIndex

    @property
    def version(self) -> str:
        """SHA-256 of the manifest, which is the folder's name."""
        return self.path.name

    @property
    def encoder(self) -> str | None:
        """Digest of the encoder whose vectors this bundle understands; None where it was never recorded."""
        return self.model.geocells.encoder

    @property
    def temperature(self) -> float | None:
        """Calibrated temperature of the posterior over leaves; None before calibration, when 1 is used."""
        calibration = self.manifest.facts["calibration"]
        return None if calibration is None else float(calibration["temperature"])


def build_bundle(
    hierarchy_folder: Path,
    geocells: Geocells,
    versions: Path,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str | None],
) -> Path:
    """Write a bundle into `versions/<digest>` and return that folder; nothing is published.

    Raises:
        BundleMismatch: the geocells are not those of the hierarchy's cells.
    """
    hierarchy = cells.load_hierarchy(hierarchy_folder)
    model = _scoring_model(hierarchy, geocells)
    with write_folder(
        versions, kind=KIND, schema_version=SCHEMA_VERSION, config=config, inputs=inputs, name_by_digest=True
    ) as draft:
        shutil.copyfile(hierarchy_folder / cells.CELLS_FILE, draft.path / cells.CELLS_FILE)
        for number, vectors in enumerate(geocells.vectors):
            write_index(flat_index(vectors), draft.path / level_file(number))
        write_index(flat_index(leaf_vectors(model)), draft.path / LEAVES_FILE)
        draft.facts |= {
            "temperatures": geocells.temperatures.tolist(),
            "level_weights": geocells.level_weights.tolist(),
            "calibration": None,
            "encoder": geocells.encoder,
            "hierarchy": hierarchy.digest,
            "cells": [len(level) for level in hierarchy.levels],
            "width": geocells.width,
        }
    assert draft.final is not None
    return draft.final


def open_bundle(folder: Path) -> Bundle:
    """Open a bundle: its manifest, the size of every file and how the parts fit are checked.

    Raises:
        ArtifactError: not a bundle, damaged, incomplete, or newer than this version.
    """
    manifest = bundle_manifest(folder)
    hierarchy = cells.read_cells(folder / cells.CELLS_FILE)
    indices = [read_index(folder / level_file(number)) for number in range(len(hierarchy.levels))]
    try:
        geocells = Geocells(
            [rows_of(index) for index in indices],
            np.array(manifest.facts["temperatures"], np.float64),
            np.array(manifest.facts["level_weights"], np.float64),
            manifest.facts["hierarchy"],
            manifest.facts["encoder"],
        )
    except KeyError as error:
        raise ArtifactError(f"{folder}: its manifest says nothing about {error}. Rebuild the bundle.") from None
    model = _scoring_model(hierarchy, geocells)
    leaf_index = read_index(folder / LEAVES_FILE)
    if (leaf_index.ntotal, leaf_index.d) != (model.n_leaves, geocells.width):
        raise ArtifactError(
            f"{folder / LEAVES_FILE}: {leaf_index.ntotal} rows of {leaf_index.d}, where {model.n_leaves} of "
            f"{geocells.width} are expected. Rebuild the bundle."
        )
    return Bundle(folder, manifest, hierarchy, model, leaf_index)


def bundle_manifest(folder: Path) -> Manifest:
    """The checked manifest of a bundle, without opening its indices.

    Raises:
        ArtifactError: not a bundle, damaged, incomplete, or newer than this version.
    """
    manifest = _own_manifest(folder)
    check_sizes(folder, manifest)
    return manifest


def verify_bundle(folder: Path) -> list[str]:
    """Check a bundle down to the last byte; returns one sentence for each fault, none when it is sound."""
    try:
        # A manifest that was changed cannot say what else is wrong.
        return verify_folder(folder, _own_manifest(folder))
    except ArtifactError as error:
        return [str(error)]


def _own_manifest(folder: Path) -> Manifest:
    manifest = parse_manifest(folder, kind=KIND, schema_version=SCHEMA_VERSION)
    if manifest_digest(folder) != folder.name:
        raise ArtifactError(
            f"{folder / MANIFEST}: its SHA-256 is not the folder's name: it was changed. Rebuild the bundle."
        )
    return manifest


def level_file(level: int) -> str:
    """Name of the index file of a level."""
    return f"level_{level}.faiss"


def _scoring_model(hierarchy: Hierarchy, geocells: Geocells) -> ScoringModel:
    if geocells.hierarchy != hierarchy.digest:
        raise BundleMismatch(
            f"The geocells belong to hierarchy {geocells.hierarchy[:8]}, this one is {hierarchy.digest[:8]}. "
            "Give the hierarchy the checkpoint was trained on."
        )
    have = [len(vectors) for vectors in geocells.vectors]
    want = [len(level) for level in hierarchy.levels]
    if have != want:
        raise ArtifactError(
            f"Geocell vectors for {have} cells per level; the hierarchy has {want}. Train or refit again."
        )
    return ScoringModel(geocells, hierarchy.ancestors)
