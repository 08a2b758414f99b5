"""The bundle: what it holds, that damage is found, and that the leaves index is the product of all levels."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from indexer.artifact import manifest_digest
from indexer.bundle import LEAVES_FILE, Bundle, build_bundle, level_file, open_bundle, verify_bundle
from indexer.cells import CELLS_FILE
from indexer.errors import ArtifactError, BundleMismatch
from indexer.faiss_index import read_index, rows_of
from indexer.hierarchy import Hierarchy
from indexer.scoring import log_product
from tests.conftest import random_geocells, unit_rows

WIDTH = 12


@pytest.fixture
def bundle(hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path: Path) -> Bundle:
    geocells = random_geocells(hierarchy, WIDTH, seed=0)
    return open_bundle(build_bundle(hierarchy_folder, geocells, tmp_path / "versions", config={}, inputs={"c": "d"}))


def test_a_bundle_holds_every_level_and_is_named_by_its_manifest(bundle: Bundle, hierarchy: Hierarchy) -> None:
    files = {path.name for path in bundle.path.iterdir()}
    assert files == {CELLS_FILE, LEAVES_FILE, "manifest.json", *(level_file(level) for level in range(3))}
    assert bundle.version == manifest_digest(bundle.path)
    assert bundle.hierarchy.digest == hierarchy.digest
    assert bundle.encoder == "e" * 64
    assert bundle.temperature is None
    facts = json.loads((bundle.path / "manifest.json").read_text())["facts"]
    assert facts["temperatures"] == pytest.approx([0.05, 0.075, 0.1])
    assert facts["level_weights"] == [1, 1, 1]


def test_level_indices_hold_the_geocells_row_by_row(bundle: Bundle, hierarchy: Hierarchy) -> None:
    expected = random_geocells(hierarchy, WIDTH, seed=0)
    for level, vectors in enumerate(expected.vectors):
        np.testing.assert_array_equal(rows_of(read_index(bundle.path / level_file(level))), vectors)


def test_the_leaves_index_ranks_by_the_product_of_all_levels(bundle: Bundle) -> None:
    queries = unit_rows(30, WIDTH, seed=1)
    scores, found = bundle.leaf_index.search(queries, 5)
    product = log_product(bundle.model, queries)
    np.testing.assert_array_equal(found, np.argsort(-product, axis=1)[:, :5])
    np.testing.assert_allclose(np.diff(scores), np.diff(np.take_along_axis(product, found, axis=1)), atol=1e-4)


def test_geocells_of_another_hierarchy_are_refused(
    hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path: Path
) -> None:
    geocells = replace(random_geocells(hierarchy, WIDTH, seed=0), hierarchy="f" * 64)
    with pytest.raises(BundleMismatch):
        build_bundle(hierarchy_folder, geocells, tmp_path / "v", config={}, inputs={})
    short = random_geocells(hierarchy, WIDTH, seed=0)
    short = replace(short, vectors=[short.vectors[0][:-1], *short.vectors[1:]])
    with pytest.raises(ArtifactError, match="cells per level"):
        build_bundle(hierarchy_folder, short, tmp_path / "v", config={}, inputs={})
    assert not (tmp_path / "v").exists()


@pytest.mark.parametrize("file", [CELLS_FILE, LEAVES_FILE, "level_0.faiss", "level_2.faiss", "manifest.json"])
def test_a_flipped_byte_is_found_in_any_file(bundle: Bundle, file: str) -> None:
    assert verify_bundle(bundle.path) == []
    content = bytearray((bundle.path / file).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle.path / file).write_bytes(content)
    faults = verify_bundle(bundle.path)
    assert len(faults) == 1
    assert file in faults[0]


def test_a_missing_file_is_named(bundle: Bundle) -> None:
    (bundle.path / "level_1.faiss").unlink()
    with pytest.raises(ArtifactError, match=r"level_1\.faiss: missing"):
        open_bundle(bundle.path)


@pytest.mark.parametrize("damage", ["flip", "shorten", "remove", "manifest"])
def test_building_again_mends_a_damaged_version(
    bundle: Bundle, hierarchy: Hierarchy, hierarchy_folder: Path, damage: str
) -> None:
    path = bundle.path / ("manifest.json" if damage == "manifest" else LEAVES_FILE)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink() if damage == "remove" else path.write_bytes(content[:100] if damage == "shorten" else content)
    assert verify_bundle(bundle.path) != []
    geocells = random_geocells(hierarchy, WIDTH, seed=0)
    again = build_bundle(hierarchy_folder, geocells, bundle.path.parent, config={}, inputs={"c": "d"})
    assert again == bundle.path
    assert verify_bundle(again) == []
    assert [folder.name for folder in bundle.path.parent.iterdir()] == [bundle.path.name]
