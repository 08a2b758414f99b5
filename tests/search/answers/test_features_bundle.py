"""From photo vectors alone to answers: build without training, swap the partition, inherit, search."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from indexer.__main__ import COMMANDS
from indexer.bundles.bundle import open_bundle
from indexer.bundles.registry import Registry
from indexer.cli import main
from indexer.earth import geo
from search.answers.engine import Engine
from tests.indexer.anisotropic import World, anisotropic_world

TAUS = ["--tau-max", "300,100,30", "--tau-min", "5"]


def indexer(*arguments: object) -> int:
    try:
        return main("indexer", "test", COMMANDS, argv=[str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)


@pytest.fixture(scope="module")
def world() -> World:
    return anisotropic_world(n_known=6000, n_unseen=1000, width=64, seed=0)


@pytest.fixture(scope="module")
def folder(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`photos.parquet` (names and places) and `F.parquet` (names and vectors, in another order, some without)."""
    out = tmp_path_factory.mktemp("features")
    n = world.n_known
    names = [f"{row:05d}.jpg" for row in range(n)]
    columns = {"photo": names, "lat": world.lat_deg[:n], "lng": world.lng_deg[:n]}
    columns["country"] = [f"c{int(lng // 30)}" for lng in world.lng_deg[:n]]
    pyarrow.parquet.write_table(pa.table(columns), out / "photos.parquet")
    order = np.random.default_rng(0).permutation(n)
    table = pa.table(
        {
            "photo": [names[row] for row in order],
            "embedding": world.vectors[order].tolist(),
            "status": ["ok" if row % 50 else "damaged" for row in order],
        }
    )
    pyarrow.parquet.write_table(table, out / "F.parquet")
    return out


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
    paths = engine.paths(engine.prepared(queries), hits.leaf[:, 0])
    assert (paths.probability > 0).all()
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give one of --checkpoint, --features and --inherit"),
        (["--features", "F.parquet", "--checkpoint", "C"], "Give one of"),
        (["--features", "F.parquet"], "Give --hierarchy"),
        (["--inherit", "abc"], "Give --hierarchy"),
        (["--checkpoint", "C", "--photos", "photos.parquet"], "go with --features"),
        (["--features", "F.parquet", "--photos", "photos.parquet", "--tau-max", "5,10"], "fall strictly"),
        (["--features", "F.parquet", "--photos", "photos.parquet", "--shrinkage", "2"], "from 0 to 1"),
        (["--features", "F.parquet", "--hierarchy", "H", "--tau-max", "9,3"], "go without --hierarchy"),
        (
            ["--features", "F.parquet", "--photos", "photos.parquet", "--transform", "none", "--shrinkage", "0.5"],
            "goes with",
        ),
        (["--checkpoint", "C", "--hierarchy", "H", "--transform", "none"], "go with --features"),
        (["--features", "photos.parquet", "--photos", "photos.parquet"], "no column 'embedding'"),
    ],
)
def test_what_cannot_be_built_is_said(
    folder: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    assert indexer("build", "--registry", tmp_path / "R", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "R").exists()


def test_names_that_are_not_in_the_table_are_an_error(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pa.table({"photo": ["x.jpg"], "embedding": [[1.0, 0.0]]})
    pyarrow.parquet.write_table(table, tmp_path / "other.parquet")
    arguments = ["--features", tmp_path / "other.parquet", "--photos", folder / "photos.parquet", *TAUS]
    assert indexer("build", "--registry", tmp_path / "R", *arguments) == 2
    assert "none of its photos has both a vector and a cell" in capsys.readouterr().err


def test_a_table_of_other_photos_is_warned_of_and_counted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    photos = pyarrow.parquet.read_table(folder / "photos.parquet")
    assert indexer("partition", "--photos", folder / "photos.parquet", *TAUS, "--out", tmp_path / "H") == 0
    pyarrow.parquet.write_table(photos.slice(0, 500), tmp_path / "few.parquet")
    capsys.readouterr()
    arguments = ["--hierarchy", tmp_path / "H", "--features", folder / "F.parquet", "--registry", tmp_path / "R"]
    assert indexer("build", *arguments, "--photos", tmp_path / "few.parquet", "--shrinkage", "0.1") == 0
    assert "of 6,000 photos have a vector and a cell" in capsys.readouterr().out
    assert "are these the photos of that hierarchy?" in caplog.text
    assert "nobody recorded which encoder" in caplog.text
    assert indexer("build", *arguments, "--split", "train") == 2
    assert "--split goes with --photos" in capsys.readouterr().err


def test_a_photo_with_two_vectors_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pyarrow.parquet.read_table(folder / "F.parquet")
    pyarrow.parquet.write_table(pa.concat_tables([table, table.slice(0, 10)]), tmp_path / "twice.parquet")
    arguments = ["--photos", folder / "photos.parquet", "--features", tmp_path / "twice.parquet"]
    assert indexer("build", *arguments, *TAUS, "--registry", tmp_path / "R") == 2
    assert "a photo has several vectors" in capsys.readouterr().err


def test_a_killed_build_leaves_no_places_of_photos(folder: Path, tmp_path: Path) -> None:
    left = tmp_path / "R.tmp-4000000-0" / "hierarchy"
    left.mkdir(parents=True)
    (left / "photos.parquet").touch()
    build(folder, tmp_path / "R", *TAUS, "--shrinkage", "0.1")
    assert [path.name for path in tmp_path.iterdir()] == ["R"]
