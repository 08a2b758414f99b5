"""From photo vectors alone to answers: build without training, swap the partition, inherit, search."""

import json
from pathlib import Path

import numpy as np
import pytest

from indexer.bundles.bundle import open_bundle
from indexer.bundles.registry import Registry
from indexer.earth import geo
from search.answers.engine import Engine
from search.answers.options import SearchOptions
from tests.indexer.anisotropic import World, anisotropic_world, write_world
from tests.indexer.conftest import indexer

TAUS = ["--tau-max", "300,100,30", "--tau-min", "5"]


@pytest.fixture(scope="module")
def world() -> World:
    return anisotropic_world(n_known=6000, n_unseen=1000, width=64, seed=0)


@pytest.fixture(scope="module")
def folder(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(world, tmp_path_factory.mktemp("features"))


def median_km(engine: Engine, world: World) -> float:
    unseen = slice(world.n_known, None)
    leaf = engine.search(world.vectors[unseen]).leaf[:, 0]
    leaves = engine.bundle.hierarchy.leaves
    return float(
        np.median(
            geo.haversine_km(world.lat_deg[unseen], world.lng_deg[unseen], leaves.lat_deg[leaf], leaves.lng_deg[leaf])
        )
    )


def build(folder: Path, registry: Path, *more: object) -> None:
    arguments = ["build", "--photos", folder / "photos.parquet", "--features", folder / "F.parquet"]
    assert indexer(*arguments, "--registry", registry, "--json", *more) == 0


def test_whitened_vectors_answer_unseen_photos_and_raw_ones_do_not(
    world: World, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(folder, tmp_path / "R", *TAUS)
    made = json.loads(capsys.readouterr().out)
    assert 5800 < made["photos"] <= 5880  # those with a vector, in a cell
    assert made["transform"]["kind"] == "whiten"
    assert "cross-validation" in made["transform"]["chosen_by"]
    engine = Engine.open(tmp_path / "R")
    assert engine.bundle.index_facts.measured_on == "photos"
    assert engine.bundle.encoder is None
    whitened = median_km(engine, world)
    build(folder, tmp_path / "R", *TAUS, "--transform", "none")
    raw = median_km(Engine.open(tmp_path / "R"), world)
    assert whitened < 100 < 3000 < raw


def test_photos_that_count_by_similarity_alone_have_the_softmax_of_their_cosines(
    world: World, folder: Path, tmp_path: Path
) -> None:
    """The nearest of all, whatever their cells say, in the order of their cosines."""
    alone = [
        "--transform",
        "none",
        "--temperature",
        "0.1",
        "--gallery-similarity",
        "0.1",
        "--gallery-precision",
        "fp32",
    ]
    build(folder, tmp_path / "R", *TAUS, *alone, "--keep-duplicates")
    options = SearchOptions(gallery="all", gallery_photos=100)
    engine = Engine.open(tmp_path / "R", options=options)
    gallery = engine.bundle.gallery
    assert gallery is not None
    queries = world.vectors[world.n_known :][:20]
    cosine = queries.astype(np.float64) @ gallery.vectors(0, len(gallery)).T
    nearest = np.argsort(-cosine, axis=1)[:, :100]
    expected = np.exp(np.take_along_axis(cosine, nearest, axis=1) / 0.1)
    answers = engine.answer(engine.prepared(queries), k=1)
    photos = answers.photos
    assert photos is not None
    first = nearest[:, 0]
    np.testing.assert_allclose(answers.at.lat_deg, gallery.lat_deg[first], atol=1e-9)  # they point at the most similar
    np.testing.assert_allclose(answers.at.lng_deg, gallery.lng_deg[first], atol=1e-9)
    np.testing.assert_allclose(photos.weight, expected / expected.sum(axis=1, keepdims=True), rtol=1e-4)
    np.testing.assert_allclose(photos.cosine, np.take_along_axis(cosine, nearest, axis=1), atol=1e-5)


def test_queries_pass_the_bundles_transform(world: World, folder: Path, tmp_path: Path) -> None:
    build(folder, tmp_path / "R", *TAUS, "--shrinkage", "0.01")
    engine = Engine.open(tmp_path / "R")
    transform, model = engine.bundle.model.geocells.transform, engine.bundle.model
    assert transform is not None
    assert transform.shrinkage == 0.01
    queries = world.vectors[-50:]
    hits = engine.search(queries, k=3)
    prepared = transform.apply(queries)
    vectors = sum(
        model.scales[level] * model.geocells.vectors[level][model.ancestors[:, level]].astype(float)
        for level in range(len(model.scales))
    )
    want = np.argsort(-(prepared @ vectors.T), axis=1)[:, :3]
    np.testing.assert_array_equal(hits.leaf, want)
    _, probability = engine.paths(engine.prepared(queries), hits.leaf[:, 0])
    assert (probability > 0).all()
    wider = np.zeros((1, 65), np.float32)
    with pytest.raises(Exception, match="another encoder"):
        engine.search(wider)


def test_an_older_bundle_is_carried_over_to_a_new_partition(
    world: World, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = ["--photos", folder / "photos.parquet"]
    assert indexer("partition", *photos, *TAUS, "--out", tmp_path / "H") == 0
    features = ["--features", folder / "F.parquet", *photos]
    capsys.readouterr()
    assert indexer("build", "--hierarchy", tmp_path / "H", *features, "--registry", tmp_path / "R", "--json") == 0
    version = json.loads(capsys.readouterr().out)["version"]
    before = median_km(Engine.open(tmp_path / "R"), world)
    other = ["--tau-max", "250,80,20", "--tau-min", "4"]
    assert indexer("partition", *photos, *other, "--out", tmp_path / "H2") == 0
    inherit = ["--inherit", version[:10], "--registry", tmp_path / "R"]
    assert indexer("build", "--hierarchy", tmp_path / "H2", *inherit) == 0
    engine = Engine.open(tmp_path / "R")
    assert (
        engine.bundle.hierarchy.leaves.keys.tolist()
        != open_bundle(Registry(tmp_path / "R").resolve(version)).hierarchy.leaves.keys.tolist()
    )
    assert engine.bundle.model.geocells.transform is not None
    assert median_km(engine, world) < 2 * before


def test_label_trees_are_built_and_searched(
    world: World, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = ["--photos", folder / "photos.parquet"]
    labels = ["--scheme", "labels", "--labels", "country"]
    assert indexer("partition", *photos, *labels, "--out", tmp_path / "L") == 0
    build_labels = ["build", "--hierarchy", tmp_path / "L", "--features", folder / "F.parquet"]
    assert indexer(*build_labels, "--registry", tmp_path / "R") == 2
    assert "give the table that has them with --photos" in capsys.readouterr().err
    assert indexer(*build_labels, *photos, "--registry", tmp_path / "R") == 0
    engine = Engine.open(tmp_path / "R")
    unseen = slice(world.n_known, None)
    answers = engine.bundle.hierarchy.leaves.keys[engine.search(world.vectors[unseen]).leaf[:, 0]]
    truth = [f"c{int(lng // 30)}" for lng in world.lng_deg[unseen]]
    assert np.mean(answers == truth) > 0.4
