"""Bundles from a checkpoint, from photo vectors, from another bundle; what is refused; nothing is half-written."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from indexer.bundles.build_config import BuildConfig
from indexer.bundles.builds import build
from indexer.bundles.bundle import open_bundle, verify_bundle
from indexer.bundles.registry import Registry
from indexer.cells.hierarchy import Hierarchy
from indexer.disk.manifest import manifest_digest
from indexer.errors import InputError, WorkError
from indexer.photos.tables import table_digest
from indexer.vectors.geocells import load_geocells
from tests.indexer.anisotropic import anisotropic_world, write_world
from tests.indexer.conftest import indexer
from tests.photo_files import jpeg, located

CONFIG = BuildConfig(tau_max=(100, 30, 10), tau_min=3, shrinkage=0.1)
TAUS = ["--tau-max", "100,30,10", "--tau-min", "3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`photos.parquet` and `F.parquet` of 2,000 photos."""
    world = anisotropic_world(n_known=2000, n_unseen=0, width=40, seed=0)
    return write_world(world, tmp_path_factory.mktemp("features"))


def test_from_a_checkpoint_its_geocells_are_taken(hierarchy_folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    made = build(tmp_path / "R", hierarchy=hierarchy_folder, checkpoint=checkpoint)
    bundle, geocells = open_bundle(made.folder), load_geocells(checkpoint)
    assert made.version == bundle.version == Registry(tmp_path / "R").current
    assert made.cells == tuple(map(len, geocells.vectors))
    for own, given in zip(bundle.model.geocells.vectors, geocells.vectors, strict=True):
        np.testing.assert_array_equal(own, given)
    assert bundle.manifest.config["geocells"] == "checkpoint"
    assert bundle.manifest.inputs["checkpoint"] == manifest_digest(checkpoint)
    assert verify_bundle(made.folder) == []


def test_from_photo_vectors_each_cell_has_the_mean_of_its_own(folder: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, transform="none", shrinkage=None)
    made = build(tmp_path / "R", features=folder / "F.parquet", photos=folder / "photos.parquet", config=config)
    hierarchy, geocells = open_bundle(made.folder).hierarchy, open_bundle(made.folder).model.geocells
    photos, features = (pyarrow.parquet.read_table(folder / name) for name in ("photos.parquet", "F.parquet"))
    cells = hierarchy.locate(photos["lat"].to_numpy(), photos["lng"].to_numpy())[:, -1]
    vectors = {row["photo"]: row["embedding"] for row in features.to_pylist() if row["status"] == "ok"}
    for cell in range(0, len(hierarchy.leaves), 7):
        names = (photos["photo"][row].as_py() for row in np.flatnonzero(cells == cell))
        mean = np.sum([vectors[name] for name in names if name in vectors], axis=0)
        np.testing.assert_allclose(geocells.vectors[-1][cell], mean / np.linalg.norm(mean), atol=1e-6)
    assert made.facts["photos"] < made.facts["rows"] == 2000
    assert made.cells[-1] == len(hierarchy.leaves)
    assert [path.name for path in tmp_path.iterdir()] == ["R"]  # the hierarchy that was made for it is gone


def test_the_temperature_of_means_and_how_photos_count_until_they_are_calibrated(folder: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, temperature=0.02, gallery_similarity=0.03, encoder="ab" * 32)
    first = build(tmp_path / "R", features=folder / "F.parquet", photos=folder / "photos.parquet", config=config)
    bundle = open_bundle(first.folder)
    assert bundle.model.geocells.temperatures.tolist() == [0.02] * 3
    assert bundle.encoder == "ab" * 32
    assert bundle.gallery is not None
    assert (bundle.gallery.facts.similarity, bundle.gallery.facts.alone) == (0.03, True)
    fit = bundle.gallery.facts.unfitted(25.0)
    assert (fit.cells, fit.gamma, fit.similarity, fit.lists) == (0, 0, 0.03, bundle.gallery.facts.lists)
    (tmp_path / "names.txt").write_text(bundle.gallery.names(np.array([0]))[0])
    fewer = build(tmp_path / "R", inherit=first.version, gallery_remove=tmp_path / "names.txt")
    gallery = open_bundle(fewer.folder).gallery
    assert gallery is not None
    assert (gallery.facts.similarity, gallery.facts.alone) == (0.03, True)
    plain = build(tmp_path / "S", features=folder / "F.parquet", photos=folder / "photos.parquet", config=CONFIG)
    gallery = open_bundle(plain.folder).gallery
    assert gallery is not None
    assert not gallery.facts.alone
    assert gallery.facts.unfitted(25.0).cells == 0.2


@pytest.mark.parametrize(
    "config", [{"temperature": 0.02}, {"gallery_similarity": 0.02}, {"crops": "ten"}, {"encoder": "ab" * 32}]
)
def test_what_is_about_vectors_goes_with_vectors(
    config: dict[str, Any], hierarchy_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    (name,) = config
    with pytest.raises(InputError, match=rf"`{name}`.* go with `features`"):
        build(tmp_path / "R", hierarchy=hierarchy_folder, checkpoint=checkpoint, config=BuildConfig(**config))


@pytest.mark.parametrize(("name", "value"), [("temperature", 0.0), ("temperature", np.nan), ("gallery_similarity", -1)])
def test_what_cosines_are_divided_by_is_above_zero(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"`{name}` must be a number above 0"):
        BuildConfig(**{name: value})


def test_photos_that_say_where_they_were_taken_place_their_own_vectors(folder: Path, tmp_path: Path) -> None:
    """A folder of them builds what a table of their places does: hierarchy, geocells and gallery."""
    rows = pyarrow.parquet.read_table(folder / "photos.parquet").slice(0, 400).to_pylist()
    for row in rows:
        file = tmp_path / "P" / row["photo"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(located(row["lat"], row["lng"]))
    (tmp_path / "P" / "nowhere.jpg").write_bytes(jpeg())
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "same.parquet")
    config = BuildConfig(tau_max=(60, 20), tau_min=3, shrinkage=0.1, gallery_per_leaf=5)
    made = [
        build(tmp_path / registry, features=folder / "F.parquet", photos=photos, config=config)
        for registry, photos in (("R", tmp_path / "P"), ("S", tmp_path / "same.parquet"))
    ]
    own, same = (open_bundle(each.folder) for each in made)
    assert made[0].facts["photos"] == made[1].facts["photos"] > 300
    assert own.manifest.inputs["photos"] == table_digest(tmp_path / "P")
    for one, other in zip(own.model.geocells.vectors, same.model.geocells.vectors, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert own.gallery is not None
    assert same.gallery is not None
    np.testing.assert_array_equal(own.gallery.texts("photo"), same.gallery.texts("photo"))


def test_an_older_version_is_carried_over_and_keeps_its_cap(
    hierarchy: Hierarchy, hierarchy_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    capped = BuildConfig(precision_cap=300.0)
    first = build(tmp_path / "R", hierarchy=hierarchy_folder, checkpoint=checkpoint, config=capped)
    for cap, expected in ((None, 300.0), (1.0, 300.0), (2000.0, 2000.0)):
        config = BuildConfig(precision_cap=cap)
        made = build(tmp_path / "R", hierarchy=hierarchy_folder, inherit=first.version, config=config, publish=False)
        bundle = open_bundle(made.folder)
        assert (bundle.precision_cap_km, made.published) == (expected, False)
        assert made.facts["lineage"] == {"same": sum(map(len, hierarchy.levels))}
        assert bundle.manifest.inputs["bundle"] == first.version
        for own, old in zip(bundle.model.geocells.vectors, load_geocells(checkpoint).vectors, strict=True):
            np.testing.assert_allclose(own, old, atol=1e-7)
    assert Registry(tmp_path / "R").current == first.version


def test_a_build_that_fails_leaves_the_registry_as_it_was(
    hierarchy_folder: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Registry(tmp_path / "R")
    first = build(home.path, hierarchy=hierarchy_folder, checkpoint=checkpoint)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("indexer.bundles.bundle.write_index", full)
    with pytest.raises(WorkError, match="no space left"):
        build(home.path, hierarchy=hierarchy_folder, checkpoint=checkpoint, config=BuildConfig(precision="int8"))
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
    assert home.current == first.version


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
    pyarrow.parquet.write_table(photos.slice(0, 300), tmp_path / "few.parquet")
    capsys.readouterr()
    arguments = ["--hierarchy", tmp_path / "H", "--features", folder / "F.parquet", "--registry", tmp_path / "R"]
    assert indexer("build", *arguments, "--photos", tmp_path / "few.parquet", "--shrinkage", "0.1") == 0
    assert "of 2,000 photos have a vector and a cell" in capsys.readouterr().out
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
    build(tmp_path / "R", features=folder / "F.parquet", photos=folder / "photos.parquet", config=CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["R"]
