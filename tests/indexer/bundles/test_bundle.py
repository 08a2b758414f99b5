"""The bundle: what it holds, that damage is found, and that the leaves index is the product of all levels."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from indexer.bundles.bundle import (
    BIASES_FILE,
    LEAVES_FILE,
    Bundle,
    build_bundle,
    calibrated_bundle,
    level_file,
    open_bundle,
    verify_bundle,
)
from indexer.bundles.faiss_index import read_index, rows_of
from indexer.cells import table
from indexer.cells.hierarchy import Hierarchy
from indexer.cells.table import CELLS_FILE
from indexer.disk.manifest import MANIFEST, manifest_digest, verify_folder
from indexer.errors import ArtifactError, BundleMismatch
from indexer.vectors.scoring import log_product
from tests.conftest import random_classes, random_geocells, unit_rows

WIDTH = 12


@pytest.fixture(scope="module")
def built(hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle to copy."""
    geocells, versions = random_geocells(hierarchy, WIDTH, seed=0), tmp_path_factory.mktemp("built")
    return build_bundle(hierarchy_folder, geocells, versions, config={}, inputs={"c": "d"})


@pytest.fixture
def bundle(built: Path, tmp_path: Path) -> Bundle:
    return open_bundle(Path(shutil.copytree(built, tmp_path / "versions" / built.name)))


def test_a_bundle_holds_every_level_and_is_named_by_its_manifest(bundle: Bundle, hierarchy: Hierarchy) -> None:
    files = {path.name for path in bundle.path.iterdir()}
    assert files == {CELLS_FILE, LEAVES_FILE, "manifest.json", *(level_file(level) for level in range(3))}
    assert bundle.version == manifest_digest(bundle.path)
    assert bundle.hierarchy.digest == hierarchy.digest
    assert bundle.encoder == "e" * 64
    assert bundle.calibrations == {}
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


def test_classes_of_a_classifier_come_back_with_their_biases(
    hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path: Path
) -> None:
    classes = random_classes(hierarchy, WIDTH, seed=1)
    bundle = open_bundle(build_bundle(hierarchy_folder, classes, tmp_path / "v", config={}, inputs={}))
    assert classes.biases is not None
    again = replace(bundle.model.geocells, level_weights=np.array([1.0, 0.5, 2.0]))
    weighted = open_bundle(calibrated_bundle(bundle, tmp_path / "v", {}, config={}, inputs={}, geocells=again))
    for each in (bundle, weighted):
        assert each.model.geocells.biases is not None
        for a, b in zip(each.model.geocells.biases, classes.biases, strict=True):
            np.testing.assert_array_equal(a, b)
        queries = unit_rows(30, WIDTH, seed=1)
        _, found = each.leaf_index.search(each.model.extended(queries), 5)
        np.testing.assert_array_equal(found, np.argsort(-log_product(each.model, queries), axis=1)[:, :5])
    (bundle.path / BIASES_FILE).write_bytes(bytes((bundle.path / BIASES_FILE).stat().st_size))
    with pytest.raises(ArtifactError, match=BIASES_FILE):
        open_bundle(bundle.path)


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


FILES = [CELLS_FILE, LEAVES_FILE, *(level_file(level) for level in range(3)), MANIFEST]


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_byte_is_found_in_any_file(bundle: Bundle, file: str) -> None:
    assert {path.name for path in bundle.path.iterdir()} == set(FILES)
    assert verify_bundle(bundle.path) == []
    content = bytearray((bundle.path / file).read_bytes())
    for position in (0, len(content) // 2, len(content) - 1):
        content[position] ^= 1
        (bundle.path / file).write_bytes(content)
        faults = verify_bundle(bundle.path)
        assert len(faults) == 1
        assert file in faults[0]
        content[position] ^= 1


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["missing", "shorter", "longer", "empty", "a folder", "a link to nowhere"])
def test_what_else_can_befall_a_file_is_found_and_refused(bundle: Bundle, file: str, damage: str) -> None:
    path = bundle.path / file
    content = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage == "a link to nowhere":
        path.symlink_to("nowhere")
    elif damage != "missing":
        path.write_bytes({"shorter": content[:-1], "longer": content + b"x", "empty": b""}[damage])
    faults = verify_bundle(bundle.path)
    assert len(faults) == 1
    assert file in faults[0]
    with pytest.raises(ArtifactError, match=re.escape(file)):
        open_bundle(bundle.path)


@pytest.mark.parametrize("name", ["extra", ".hidden", "level_0.faiss.orig", "sub/extra", "link"])
def test_a_file_that_no_manifest_names_is_found(bundle: Bundle, name: str) -> None:
    path = bundle.path / name
    path.parent.mkdir(exist_ok=True)
    path.symlink_to("..") if name == "link" else path.write_text("")
    assert verify_bundle(bundle.path) == [f"{path}: not named in the manifest. Remove the file."]


def test_every_fault_is_told(bundle: Bundle) -> None:
    (bundle.path / "level_0.faiss").unlink()
    (bundle.path / "level_1.faiss").write_bytes(b"short")
    content = (bundle.path / LEAVES_FILE).read_bytes()
    (bundle.path / LEAVES_FILE).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (bundle.path / "extra").touch()
    faults = verify_bundle(bundle.path)
    for part in ("level_0.faiss: missing", "level_1.faiss: 5 bytes", "leaves.faiss: content", "extra: not named"):
        assert sum(part in fault for fault in faults) == 1
    assert len(faults) == 4


def test_a_disk_that_fails_is_a_fault_of_the_file(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("indexer.disk.manifest.file_digest", fail)
    faults = verify_folder(bundle.path, bundle.manifest)
    assert len(faults) == len(bundle.manifest.files)
    assert all("cannot be read (Input/output error)" in fault for fault in faults)


@pytest.mark.parametrize(
    ("version", "message"),
    [(2, "Update geosurge"), (0, "0 is no schema version"), ("1", "'1' is no schema"), (None, "None is no schema")],
)
def test_another_schema_version_is_named(bundle: Bundle, version: object, message: str) -> None:
    manifest = json.loads((bundle.path / MANIFEST).read_text())
    folder = rewrite_manifest(bundle.path, manifest | {"schema_version": version})
    faults = verify_bundle(folder)
    assert len(faults) == 1
    assert message in faults[0]
    with pytest.raises(ArtifactError, match=message):
        open_bundle(folder)


@pytest.mark.parametrize(
    "change",
    [{"files": []}, {"files": {"x": {}}}, {"files": {"x": {"sha256": 1, "size_bytes": 1}}}, {"facts": None}],
)
def test_a_manifest_of_other_types_is_damaged(bundle: Bundle, change: dict) -> None:
    manifest = json.loads((bundle.path / MANIFEST).read_text())
    folder = rewrite_manifest(bundle.path, manifest | change)
    with pytest.raises(ArtifactError, match=r"manifest\.json: damaged manifest"):
        open_bundle(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"beam": None},
        {"beam": {"level": 0}},
        {"leaf_index": {"kind": "tree"}},
        {"precision_cap_km": "near"},
        {"temperatures": None},
        {"calibration": {"one": {}}},
    ],
    ids=str,
)
def test_facts_of_other_types_are_refused(bundle: Bundle, change: dict) -> None:
    manifest = json.loads((bundle.path / MANIFEST).read_text())
    folder = rewrite_manifest(bundle.path, manifest | {"facts": manifest["facts"] | change})
    with pytest.raises(ArtifactError, match=r"Build it again|Fit it again"):
        open_bundle(folder)


def test_a_beam_of_no_level_is_refused(bundle: Bundle) -> None:
    manifest = json.loads((bundle.path / MANIFEST).read_text())
    beam = manifest["facts"]["beam"] | {"level": 3}
    folder = rewrite_manifest(bundle.path, manifest | {"facts": manifest["facts"] | {"beam": beam}})
    with pytest.raises(ArtifactError, match=r"of 3 levels\. Build it again"):
        open_bundle(folder)


def rewrite_manifest(folder: Path, manifest: dict) -> Path:
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder.rename(folder.with_name(manifest_digest(folder)))


@pytest.mark.parametrize("file", [CELLS_FILE, LEAVES_FILE, "level_1.faiss"])
def test_a_damaged_table_or_index_is_a_clean_error_when_it_is_read(bundle: Bundle, file: str) -> None:
    content = (bundle.path / file).read_bytes()
    for damaged in (b"", b"\0" * len(content), content[: len(content) // 2], content[::-1]):
        (bundle.path / file).write_bytes(damaged)
        with pytest.raises(ArtifactError, match=re.escape(file)):
            table.read_cells(bundle.path / file) if file == CELLS_FILE else read_index(bundle.path / file)


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
