"""What older releases wrote is read for ever: every golden folder opens, verifies and answers as it did then."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from encoder.class_maps.cache import open_cache
from indexer.bundles.bundle import open_bundle, verify_bundle
from indexer.bundles.gallery import open_gallery
from indexer.bundles.registry import Registry
from indexer.cells.table import KIND, SCHEMA_VERSION, load_hierarchy, load_photo_places
from indexer.disk.manifest import read_manifest, verify_folder
from indexer.errors import BadImage
from indexer.vectors.features import open_features, read_features
from indexer.vectors.geocells import CHECKPOINT_KIND, CHECKPOINT_SCHEMA_VERSION, load_geocells
from search.answers.engine import Engine
from search.answers.options import SearchOptions
from search.answers.rows import answer_table
from search.evaluation.evaluate import evaluate_predictions
from search.evaluation.predictions import read_predictions
from tests.golden.make import class_map

FOLDERS = sorted(Path(__file__).parent.glob("golden/v*"))


def test_there_is_a_golden_folder_for_each_schema_version() -> None:
    assert [folder.name for folder in FOLDERS] == [f"v{number}" for number in range(1, SCHEMA_VERSION + 1)]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_registries_answer_as_they_did(folder: Path) -> None:
    home = Registry(folder / "registry")
    assert home.faults() == []
    assert verify_bundle(home.resolve()) == []
    engine = Engine.open(folder / "registry", options=SearchOptions(gallery="off"))
    batch = read_features(folder / "queries")
    engine.check_encoder(open_features(folder / "queries").encoder, source="queries")
    table = answer_table(engine, batch, first_row=0, k=1)
    expected = json.loads((folder / "expected.json").read_text())
    assert table["key"].to_pylist() == expected["key"]
    assert table["probability"].to_pylist() == pytest.approx(expected["probability"], rel=1e-4)
    assert read_predictions(folder / "predictions").photo == list(batch.photo)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_hierarchies_features_and_predictions_are_read(folder: Path) -> None:
    manifest = read_manifest(folder / "hierarchy", kind=KIND, schema_version=SCHEMA_VERSION)
    assert verify_folder(folder / "hierarchy", manifest) == []
    hierarchy = load_hierarchy(folder / "hierarchy")
    assert hierarchy.digest == manifest.facts["digest"] == Engine.open(folder / "registry").bundle.hierarchy.digest
    assert load_photo_places(folder / "hierarchy").num_rows == manifest.facts["photos"] == 1300
    assert (
        evaluate_predictions(folder / "predictions", folder / "queries" / "part-00000.parquet").accuracy.median_km
        < 2500
    )


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_galleries_are_read(folder: Path) -> None:
    bundle = open_bundle(Registry(folder / "registry").resolve())
    geocells = load_geocells(folder / "checkpoint", hierarchy=bundle.hierarchy.digest)
    manifest = read_manifest(folder / "checkpoint", kind=CHECKPOINT_KIND, schema_version=CHECKPOINT_SCHEMA_VERSION)
    assert verify_folder(folder / "checkpoint", manifest) == []
    of_checkpoint = open_gallery(
        folder / "checkpoint", manifest.facts["gallery"], n_leaves=len(bundle.hierarchy.leaves), width=geocells.width
    )
    batch = read_features(folder / "features")
    row_of = {name: row for row, name in enumerate(batch.photo)}
    expected = json.loads((folder / "expected.json").read_text())["gallery"]
    for gallery, own, error in ((bundle.gallery, bundle.model.geocells, 5e-3), (of_checkpoint, geocells, 1e-3)):
        assert gallery is not None
        rows = [row_of[name] for name in gallery.names(np.arange(len(gallery)))]
        compared = own.compared(batch.embedding[rows])
        np.testing.assert_allclose(gallery.vectors(0, len(gallery)), compared, atol=error)
        np.testing.assert_array_equal(gallery.lat_deg, batch.lat_deg[rows])
        located = bundle.hierarchy.locate(gallery.lat_deg, gallery.lng_deg)[:, -1]
        assert (gallery.leaf[located >= 0] == located[located >= 0]).all()
    assert bundle.gallery is not None
    assert of_checkpoint is not None
    assert [len(bundle.gallery), len(of_checkpoint)] == expected["photos"]
    assert (bundle.gallery.facts.precision, of_checkpoint.facts.precision) == ("int8", "fp16")
    assert bundle.gallery.stands_for.sum() == pytest.approx(expected["stands_for"])
    owners = bundle.gallery.owners(np.arange(len(bundle.gallery)))
    assert owners is not None
    rows = [row_of[name] for name in bundle.gallery.names(np.arange(len(bundle.gallery)))]
    assert owners.tolist() == [None if row % 4 == 0 else f"user {row % 50}" for row in rows]
    assert of_checkpoint.owners(np.arange(2)) is None
    assert np.diff(of_checkpoint.begins).max() == of_checkpoint.facts.per_leaf == 2


@pytest.mark.parametrize("lookup", [True, False], ids=["mapped", "from the indices"])
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_class_maps_are_read(folder: Path, lookup: bool, tmp_path: Path) -> None:
    shutil.copytree(folder / "class_maps", tmp_path / "S")
    if not lookup:
        (tmp_path / "S" / "lookup.arrow").unlink()
    cache = open_cache(tmp_path / "S")
    assert (len(cache), cache.origin.class_names, cache.origin.map_edge) == (4, ("wall", "sky", "tree"), 384)
    for number in range(3):
        np.testing.assert_array_equal(cache.get(b"%d" % number), class_map(number))
    with pytest.raises(BadImage, match="damaged: image file is truncated"):
        cache.get(b"3")
