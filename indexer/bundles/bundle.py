"""The bundle: all that answering needs, in one folder that never changes once written.

    cells.duckdb      the hierarchy's tables
    level_<l>.faiss   the geocell vectors of level l (row i = cell i): what the paper learns
    leaves.faiss      the leaf vectors (row i = leaf i): one inner-product search over them is the whole hierarchical
                      inference (`indexer.vectors.scoring` says why)
    transform.safetensors   what photo vectors pass first, where geocells were made of whitened vectors
    biases.safetensors      of the classes of a classifier, whose vectors the level files then hold
    gallery.faiss, gallery.parquet   photos of known places, in lists that are the leaves, where there are any
                      (`indexer.bundles.gallery`)
    reranker_<protocol>.safetensors   what changes the weights of these photos, where a calibration has it
    manifest.json     temperatures, level weights, prior exponent, calibration, digests of the encoder, the hierarchy
                      and every file

In: a hierarchy folder and geocells. Out: a folder named by the SHA-256 of its manifest.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from indexer.bundles.faiss_index import Index, flat_index, is_exact, read_index, rows_of, write_index
from indexer.bundles.gallery import FILES, Gallery, GalleryFacts, gallery_facts, open_gallery
from indexer.bundles.gallery_choice import choose
from indexer.bundles.leaf_index import Beam, IndexChoice, IndexFacts, build_leaf_index
from indexer.cells import table
from indexer.cells.hierarchy import Hierarchy
from indexer.disk.artifact import Draft, write_folder
from indexer.disk.manifest import (
    MANIFEST,
    Manifest,
    check_sizes,
    manifest_digest,
    read_manifest,
    typed_facts,
    verify_folder,
)
from indexer.errors import ArtifactError, BundleMismatch
from indexer.vectors.calibration import (
    RERANKER_FILES,
    Calibration,
    Protocol,
    calibration_facts,
    calibrations_of,
    save_rerankers,
)
from indexer.vectors.geocells import Geocells
from indexer.vectors.scoring import ScoringModel
from indexer.vectors.whitening import Transform

KIND = "bundle"
SCHEMA_VERSION = 1
LEAVES_FILE = "leaves.faiss"
TRANSFORM_FILE = "transform.safetensors"
BIASES_FILE = "biases.safetensors"
DEFAULT_INDEX = IndexChoice()

WriteGallery = Callable[[Draft], GalleryFacts | None]  # puts a gallery's files into a draft, where there is one


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """An opened bundle: it goes on answering when the folder is removed.

    The vectors of levels and of the gallery are mapped: of all that is read, few or a part are looked at for a query.
    """

    path: Path
    manifest: Manifest
    hierarchy: Hierarchy
    model: ScoringModel
    leaf_index: Index
    index_facts: IndexFacts  # of the leaf index
    beam: Beam  # how it is searched from coarse to fine
    precision_cap_km: float | None  # answers name no place finer than this; None: as fine as its cells are
    gallery: Gallery | None
    calibrations: Mapping[Protocol, Calibration]  # of the protocols that were calibrated

    @property
    def version(self) -> str:
        """SHA-256 of the manifest, which is the folder's name."""
        return self.path.name

    @property
    def encoder(self) -> str | None:
        """Digest of the encoder whose vectors this bundle understands; None where it was never recorded."""
        return self.model.geocells.encoder


def build_bundle(
    hierarchy_folder: Path,
    geocells: Geocells,
    versions: Path,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str | None],
    index: IndexChoice = DEFAULT_INDEX,
    photos: np.ndarray | None = None,
    gallery: WriteGallery = lambda draft: None,
    precision_cap_km: float | None = None,
) -> Path:
    """Write a bundle into `versions/<digest>` and return that folder; nothing is published.

    Args:
        hierarchy_folder: whose cells it is about.
        geocells: their vectors.
        versions: where bundles are kept.
        config: how the geocells were made.
        inputs: digests of what they were made from.
        index: the kind of the leaf index.
        photos: (Q, D) float32 photo vectors, transformed, to measure that index with, where there are any.
        gallery: writes the photos of its leaves.
        precision_cap_km: answers from it are to name no place finer than this.

    Raises:
        BundleMismatch: the geocells are not those of the hierarchy's cells.
    """
    hierarchy = table.load_hierarchy(hierarchy_folder)
    model = _scoring_model(hierarchy, geocells)
    with write_folder(
        versions, kind=KIND, schema_version=SCHEMA_VERSION, config=config, inputs=inputs, name_by_digest=True
    ) as draft:
        shutil.copyfile(hierarchy_folder / table.CELLS_FILE, draft.path / table.CELLS_FILE)
        _write_vectors(draft, model, index=index, photos=photos)
        draft.facts |= {"calibration": None, "precision_cap_km": precision_cap_km}
        draft.facts["gallery"] = gallery_facts(_with_choice(gallery(draft), draft, hierarchy, model))
    assert draft.final is not None
    return draft.final


def calibrated_bundle(
    bundle: Bundle,
    versions: Path,
    calibrations: Mapping[Protocol, Calibration],
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str | None],
    geocells: Geocells | None = None,
    photos: np.ndarray | None = None,
) -> Path:
    """Write the same bundle with other calibrations into `versions/<digest>` and return that folder.

    Args:
        bundle: an opened one, whose folder is still there.
        versions: where bundles are kept.
        calibrations: all that it is to have. Where none of photos is of before, changes of the gallery count anew.
        config: how they were made.
        inputs: digests of what they were made from.
        geocells: its geocells with other level weights or another prior, for which the leaf index is made again.
        photos: as in `build_bundle`.

    Raises:
        WorkError: the disk is full.
    """
    old = bundle.manifest
    with write_folder(
        versions,
        kind=KIND,
        schema_version=SCHEMA_VERSION,
        config={**old.config, "calibration": config},
        inputs={**old.inputs, "calibrated": bundle.version, **inputs},
        name_by_digest=True,
    ) as draft:
        draft.facts |= old.facts
        made_again = RERANKER_FILES | (set() if geocells is None else _vector_files(bundle.model))
        draft.share(bundle.path, {name: entry for name, entry in old.files.items() if name not in made_again})
        if geocells is not None:
            index = IndexChoice(bundle.index_facts.kind, bundle.index_facts.precision)
            _write_vectors(draft, replace(bundle.model, geocells=geocells), index=index, photos=photos)
        draft.facts["calibration"] = calibration_facts(calibrations)
        save_rerankers(calibrations, draft.path)
        before = [each.with_photos for each in bundle.calibrations.values()]
        kept = any(each.with_photos in before for each in calibrations.values() if each.with_photos is not None)
        if bundle.gallery is not None and not kept:
            facts = replace(bundle.gallery.facts, changed=0.0, photos_then=None)
            draft.facts["gallery"] = gallery_facts(facts)
    assert draft.final is not None
    return draft.final


def bundle_with_gallery(
    bundle: Bundle,
    versions: Path,
    gallery: WriteGallery,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str | None],
    precision_cap_km: float | None = None,
) -> Path:
    """Write the same bundle with another gallery into `versions/<digest>` and return that folder.

    Args:
        bundle: an opened one, whose folder is still there. Its calibrations stay.
        versions: where bundles are kept.
        gallery: writes it.
        config: how it was made.
        inputs: digests of what it was made from.
        precision_cap_km: as in `build_bundle`.

    Raises:
        WorkError: the disk is full.
    """
    old = bundle.manifest
    with write_folder(
        versions,
        kind=KIND,
        schema_version=SCHEMA_VERSION,
        config={**old.config, "gallery": config},
        inputs={**old.inputs, **inputs},
        name_by_digest=True,
    ) as draft:
        draft.facts |= {**old.facts, "precision_cap_km": precision_cap_km}
        draft.share(bundle.path, {name: entry for name, entry in old.files.items() if name not in FILES})
        draft.facts["gallery"] = gallery_facts(_with_choice(gallery(draft), draft, bundle.hierarchy, bundle.model))
    assert draft.final is not None
    return draft.final


def _with_choice(
    facts: GalleryFacts | None, draft: Draft, hierarchy: Hierarchy, model: ScoringModel
) -> GalleryFacts | None:
    """The facts of a gallery that is written already, with how its photos count where nothing was fitted."""
    gallery = open_gallery(draft.path, gallery_facts(facts), n_leaves=model.n_leaves, width=model.geocells.width)
    if facts is None or gallery is None or not len(gallery):
        return facts
    choice = choose(gallery, model, leaf_width_km=hierarchy.leaves.median_width_km)
    return replace(facts, similarity=choice.similarity, lists=choice.lists)


def _vector_files(model: ScoringModel) -> set[str]:
    """Names of the files that `_write_vectors` writes."""
    return {LEAVES_FILE, TRANSFORM_FILE, BIASES_FILE, *map(level_file, range(len(model.geocells.vectors)))}


def _write_vectors(draft: Draft, model: ScoringModel, *, index: IndexChoice, photos: np.ndarray | None) -> None:
    """The indices of all levels and of the leaves, and what readers should know of them."""
    geocells = model.geocells
    for number, vectors in enumerate(geocells.vectors):
        write_index(flat_index(vectors), draft.path / level_file(number))
    leaf_index, facts, beam = build_leaf_index(model, index, photos=photos)
    write_index(leaf_index, draft.path / LEAVES_FILE)
    if geocells.transform is not None:
        geocells.transform.save(draft.path / TRANSFORM_FILE)
    if geocells.biases is not None:
        biases = {f"level_{number}": np.asarray(level, np.float32) for number, level in enumerate(geocells.biases)}
        save_file(biases, draft.path / BIASES_FILE)
    draft.facts |= {
        "leaf_index": asdict(facts),
        "beam": asdict(beam),
        **geocells.facts,
        "cells": [len(vectors) for vectors in geocells.vectors],
        "width": geocells.width,
    }


def open_bundle(folder: str | Path) -> Bundle:
    """Open a bundle: its manifest, the size of every file and how the parts fit are checked.

    folder: of a version, or a link to one, such as a registry's `current`.

    Raises:
        ArtifactError: not a bundle, damaged, incomplete, or newer than this version.
    """
    # The name of a link is not the digest, and it may lead elsewhere in a moment.
    folder = Path(folder).resolve() if Path(folder).is_symlink() else Path(folder)
    manifest = bundle_manifest(folder)
    hierarchy = table.read_cells(folder / table.CELLS_FILE)
    indices = [_read_level(folder / level_file(number)) for number in range(len(hierarchy.levels))]
    transform = Transform.load(folder / TRANSFORM_FILE) if TRANSFORM_FILE in manifest.files else None
    biases = _read_biases(folder, len(indices)) if BIASES_FILE in manifest.files else None
    facts = manifest.facts
    try:
        vectors = [rows_of(index) for index in indices]
        geocells = Geocells.of_facts(vectors, facts, transform=transform, biases=biases)
        calibrations, cap = calibrations_of(facts["calibration"], folder), facts["precision_cap_km"]
        precision_cap_km = None if cap is None else float(cap)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{folder}: its manifest says nothing usable of {error}. Build it again.") from None
    index_facts = typed_facts(IndexFacts, facts.get("leaf_index"), source=folder)
    beam = typed_facts(Beam, facts.get("beam"), source=folder)
    if not (0 <= beam.level < len(hierarchy.levels) and beam.probes > 0):
        raise ArtifactError(f"{folder}: its manifest says {beam}, of {len(hierarchy.levels)} levels. Build it again.")
    model = _scoring_model(hierarchy, geocells)
    leaf_index = read_index(folder / LEAVES_FILE)
    if (leaf_index.ntotal, leaf_index.d) != (model.n_leaves, model.leaf_width):
        raise ArtifactError(
            f"{folder / LEAVES_FILE}: {leaf_index.ntotal} rows of {leaf_index.d}, where {model.n_leaves} of "
            f"{model.leaf_width} are expected. Rebuild the bundle."
        )
    gallery = open_gallery(folder, facts.get("gallery"), n_leaves=model.n_leaves, width=geocells.width)
    if gallery is not None and gallery.facts.encoder != geocells.encoder:
        raise ArtifactError(
            f"{folder}: its gallery is of encoder {str(gallery.facts.encoder)[:8]}, its geocells are of "
            f"{str(geocells.encoder)[:8]}. Build it again."
        )
    return Bundle(
        path=folder,
        manifest=manifest,
        hierarchy=hierarchy,
        model=model,
        leaf_index=leaf_index,
        index_facts=index_facts,
        beam=beam,
        precision_cap_km=precision_cap_km,
        gallery=gallery,
        calibrations=calibrations,
    )


def _read_biases(folder: Path, n_levels: int) -> list[np.ndarray]:
    try:
        levels = load_file(folder / BIASES_FILE)
        return [levels[f"level_{number}"] for number in range(n_levels)]
    except (SafetensorError, KeyError, OSError) as error:
        raise ArtifactError(f"{folder / BIASES_FILE}: cannot be read ({error}). Rebuild the bundle.") from None


def _read_level(path: Path) -> Index:
    index = read_index(path, mapped=True)
    if not is_exact(index):
        raise ArtifactError(f"{path}: not a flat index, which every level's is. Rebuild the bundle.")
    return index


def bundle_manifest(folder: Path) -> Manifest:
    """The checked manifest of a bundle, without opening its indices; raises what `open_bundle` does."""
    manifest = _own_manifest(folder)
    check_sizes(folder, manifest)
    return manifest


def bundle_hierarchy(folder: Path) -> Hierarchy:
    """The cells of a bundle, without opening its indices; raises what `open_bundle` does."""
    bundle_manifest(folder)
    return table.read_cells(folder / table.CELLS_FILE)


def verify_bundle(folder: Path) -> list[str]:
    """Check a bundle down to the last byte; returns one sentence for each fault, none when it is sound."""
    try:
        # A manifest that was changed cannot say what else is wrong.
        return verify_folder(folder, _own_manifest(folder))
    except ArtifactError as error:
        return [str(error)]


def _own_manifest(folder: Path) -> Manifest:
    manifest = read_manifest(folder, kind=KIND, schema_version=SCHEMA_VERSION, sizes=False)
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
    return ScoringModel(geocells, hierarchy.ancestors, hierarchy.leaves.n_photos)
