"""Galleries of bundles: made by a build, carried over, added to; shared files; what is refused leaves nothing."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from indexer.bundles.build_config import BuildConfig, GalleryConfig
from indexer.bundles.builds import build
from indexer.bundles.bundle import Bundle, calibrated_bundle, open_bundle, verify_bundle
from indexer.bundles.gallery import FILES, PHOTOS_FILE, VECTORS_FILE, Gallery, gallery_facts
from indexer.bundles.gallery_builds import write_gallery
from indexer.bundles.gallery_maker import GalleryMaker, change_of, new_gallery
from indexer.bundles.registry import Registry
from indexer.cells.hierarchy import Hierarchy
from indexer.cells.partition import PartitionRule
from indexer.disk.artifact import Draft, write_folder
from indexer.errors import ArtifactError, BundleMismatch, InputError
from indexer.jobs.job_folder import OK
from indexer.vectors.calibration import Calibration, usual_photo_fit
from indexer.vectors.features import FeatureBatch, FeatureSource, open_features
from indexer.vectors.geocells import CHECKPOINT_KIND, CHECKPOINT_SCHEMA_VERSION, save_geocells
from indexer.vectors.prototypes import Placement
from tests.conftest import save_s2_hierarchy, unit_rows, write_features
from tests.indexer.bundles.gallery_worlds import WIDTH, Photos, all_names, photos
from tests.indexer.conftest import indexer

ENCODER = "e" * 64
CONFIG = BuildConfig(shrinkage=0.1)
OF_CELLS = Calibration(1.0, 0.0, 1.0, {"cell": (0.5, 0.9)}, 25.0, 0.0, 100)
CALIBRATION = replace(OF_CELLS, with_photos=replace(OF_CELLS, fit=usual_photo_fit(25.0)))


def features_of(world: Photos, out: Path, *, encoder: str | None = ENCODER, places: bool = True) -> Path:
    placed, n = world.placed, len(world.leaf)
    nowhere = np.full(n, np.nan)
    lat_lng = (placed.lat_deg, placed.lng_deg) if places else (nowhere, nowhere)
    batch = FeatureBatch(placed.photo.tolist(), placed.vectors, [OK] * n, [""] * n, *lat_lng)
    return write_features(out, batch, encoder=encoder, width=placed.vectors.shape[1])


def table_of(world: Photos, out: Path) -> Path:
    placed = world.placed
    owners = [f"owner {row % 7}" if row % 5 else None for row in range(len(world.leaf))]
    columns = {"photo": placed.photo.tolist(), "lat": placed.lat_deg, "lng": placed.lng_deg, "user": owners}
    pyarrow.parquet.write_table(pa.table(columns), out)
    return out


@pytest.fixture
def world(hierarchy: Hierarchy) -> Photos:
    return photos(hierarchy, n=400)


@pytest.fixture(scope="module")
def built(hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features F and a registry R made of them, to copy."""
    world, home = photos(hierarchy, n=400), tmp_path_factory.mktemp("built")
    build(home / "R", hierarchy=hierarchy_folder, features=features_of(world, home / "F"), config=CONFIG)
    return home


@pytest.fixture
def bundle(built: Path, tmp_path: Path) -> Bundle:
    shutil.copytree(built, tmp_path, symlinks=True, dirs_exist_ok=True)
    return open_bundle(Registry(tmp_path / "R").resolve())


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def with_gallery(bundle: Bundle) -> Gallery:
    assert bundle.gallery is not None
    return bundle.gallery


def test_a_build_from_features_makes_a_gallery_of_all_photos(
    world: Photos, bundle: Bundle, hierarchy: Hierarchy, tmp_path: Path
) -> None:
    gallery = with_gallery(bundle)
    (tmp_path / "G").mkdir()
    written = write_gallery(tmp_path / "G", [world.placed], bundle.model.geocells, hierarchy, GalleryConfig())
    assert content(bundle.path) == content(tmp_path / "G")
    chosen = gallery.facts
    facts = replace(written.facts, similarity=chosen.similarity, lists=chosen.lists)  # which a bundle chooses
    assert gallery.facts == facts
    assert bundle.manifest.facts["gallery"] == gallery_facts(facts)
    assert (gallery.facts.encoder, gallery.facts.per_leaf, gallery.facts.precision) == (ENCODER, None, "int8")
    compared = bundle.model.geocells.compared(world.placed.vectors)
    row_of = {name: row for row, name in enumerate(world.placed.photo)}
    rows = [row_of[name] for name in all_names(gallery)]
    np.testing.assert_allclose(gallery.vectors(0, len(gallery)), compared[rows], atol=6e-3)
    assert verify_bundle(bundle.path) == []


def test_a_gallery_may_be_small_exact_or_absent_and_owners_are_kept(
    world: Photos, hierarchy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--hierarchy", hierarchy_folder, "--features", features_of(world, tmp_path / "F", places=False)]
    given += ["--photos", table_of(world, tmp_path / "photos.parquet"), "--shrinkage", 0.1]
    given += ["--registry", tmp_path / "R", "--json"]
    options = ["--gallery-per-leaf", 2, "--gallery-precision", "fp16", "--owner-column", "user"]
    assert indexer("build", *given, *options) == 0
    said = json.loads(capsys.readouterr().out)
    bundle = open_bundle(Registry(tmp_path / "R").resolve())
    gallery = with_gallery(bundle)
    assert (said["gallery"]["facts"]["photos"], said["gallery"]["given"]) == (len(gallery), len(world.leaf))
    assert (gallery.facts.per_leaf, gallery.facts.precision, np.diff(gallery.begins).max()) == (2, "fp16", 2)
    row_of = {name: row for row, name in enumerate(world.placed.photo)}
    rows = [row_of[name] for name in all_names(gallery)]
    expected = [f"owner {row % 7}" if row % 5 else None for row in rows]
    owners = gallery.owners(np.arange(len(gallery)))
    assert owners is not None
    assert owners.tolist() == expected
    assert indexer("build", *given, "--gallery-per-leaf", 0) == 0
    assert json.loads(capsys.readouterr().out)["gallery"] is None
    bare = open_bundle(Registry(tmp_path / "R").resolve())
    assert (bare.gallery, bare.manifest.facts["gallery"]) == (None, None)
    assert not set(FILES) & set(bare.manifest.files)


def test_a_far_larger_n_than_there_are_photos_keeps_all(
    world: Photos, bundle: Bundle, hierarchy_folder: Path, tmp_path: Path
) -> None:
    config = replace(CONFIG, gallery_per_leaf=10**9)
    made = build(tmp_path / "R", hierarchy=hierarchy_folder, features=tmp_path / "F", config=config)
    assert content(made.folder) == content(bundle.path)


def test_info_and_verify_know_the_gallery(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registry = ["--registry", tmp_path / "R"]
    assert indexer("info", *registry) == 0
    gallery = with_gallery(bundle)
    assert f"gallery   {len(gallery)} photos in 8 bits" in capsys.readouterr().out
    assert indexer("info", *registry, "--json") == 0
    said = json.loads(capsys.readouterr().out)["gallery"]
    empty = int((np.diff(gallery.begins) == 0).sum())
    assert (said["photos"], said["leaves_without_photos"], said["changed"]) == (len(gallery), empty, 0)
    assert said["size_bytes"] == sum((bundle.path / name).stat().st_size for name in FILES)
    damaged = bytearray((bundle.path / VECTORS_FILE).read_bytes())
    damaged[-1] ^= 1
    (bundle.path / VECTORS_FILE).write_bytes(damaged)
    assert indexer("verify", *registry) == 1
    assert "gallery.faiss: content differs" in capsys.readouterr().out
    (bundle.path / PHOTOS_FILE).unlink()
    with pytest.raises(ArtifactError, match=r"gallery\.parquet: missing"):
        open_bundle(bundle.path)


def test_a_gallery_of_another_encoder_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    from tests.indexer.bundles.test_bundle import rewrite_manifest

    manifest = json.loads((bundle.path / "manifest.json").read_text())
    manifest["facts"]["gallery"]["encoder"] = "f" * 64
    with pytest.raises(ArtifactError, match="its gallery is of encoder ffffffff"):
        open_bundle(rewrite_manifest(bundle.path, manifest))


def test_calibrating_shares_the_files_and_starts_to_count_changes_anew(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Registry(tmp_path / "R")
    inodes = {name: (bundle.path / name).stat().st_ino for name in bundle.manifest.files}
    made = calibrated_bundle(bundle, home.versions_folder, {"one": CALIBRATION}, config={}, inputs={})
    assert {name: (made / name).stat().st_ino for name in inodes} == inodes
    assert verify_bundle(made) == []
    geocells = replace(bundle.model.geocells, level_weights=bundle.model.geocells.level_weights * 2)
    weighted = calibrated_bundle(
        bundle, home.versions_folder, {"one": CALIBRATION}, config={}, inputs={}, geocells=geocells
    )
    assert verify_bundle(weighted) == verify_bundle(bundle.path) == []
    assert {name for name in inodes if (weighted / name).stat().st_ino == inodes[name]} == {"cells.duckdb", *FILES}
    monkeypatch.setattr(Path, "hardlink_to", lambda path, target: (_ for _ in ()).throw(PermissionError(1, "no")))
    copied = calibrated_bundle(bundle, home.versions_folder, {"ten": CALIBRATION}, config={}, inputs={})
    assert (copied / VECTORS_FILE).stat().st_ino != inodes[VECTORS_FILE]
    assert verify_bundle(copied) == []


def test_damage_is_not_called_sound_by_a_version_that_shares_it(bundle: Bundle, tmp_path: Path) -> None:
    damaged = bytearray((bundle.path / VECTORS_FILE).read_bytes())
    damaged[-1] ^= 1
    (bundle.path / VECTORS_FILE).write_bytes(damaged)
    home = Registry(tmp_path / "R")
    made = calibrated_bundle(bundle, home.versions_folder, {"one": CALIBRATION}, config={}, inputs={})
    assert len(verify_bundle(made)) == 1
    assert "gallery.faiss: content differs" in verify_bundle(made)[0]


def checkpoint_of(bundle: Bundle, out: Path, *, encoder: str | None = ENCODER) -> Path:
    with write_folder(out, kind=CHECKPOINT_KIND, schema_version=CHECKPOINT_SCHEMA_VERSION) as draft:
        save_geocells(draft, bundle.model.geocells)
        for name, data in content(bundle.path).items():
            (draft.path / name).write_bytes(data)
        draft.facts["gallery"] = {**asdict(with_gallery(bundle).facts), "encoder": encoder}
    return out


def test_a_build_takes_the_gallery_of_a_checkpoint(bundle: Bundle, hierarchy_folder: Path, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(bundle, tmp_path / "C")
    made = build(tmp_path / "R2", hierarchy=hierarchy_folder, checkpoint=checkpoint)
    assert content(made.folder) == content(bundle.path)
    assert (made.folder / VECTORS_FILE).stat().st_ino == (checkpoint / VECTORS_FILE).stat().st_ino
    assert verify_bundle(made.folder) == []
    few = build(
        tmp_path / "R2", hierarchy=hierarchy_folder, checkpoint=checkpoint, config=BuildConfig(gallery_per_leaf=1)
    )
    gallery = with_gallery(open_bundle(few.folder))
    assert np.diff(gallery.begins).max() == 1
    before = with_gallery(bundle)
    np.testing.assert_allclose(gallery.stands_for.sum(), before.stands_for.sum(), rtol=1e-5)
    none = build(
        tmp_path / "R2", hierarchy=hierarchy_folder, checkpoint=checkpoint, config=BuildConfig(gallery_per_leaf=0)
    )
    assert open_bundle(none.folder).gallery is None


def test_a_damaged_or_foreign_gallery_of_a_checkpoint_is_refused(
    bundle: Bundle, hierarchy_folder: Path, tmp_path: Path
) -> None:
    checkpoint = checkpoint_of(bundle, tmp_path / "C", encoder="f" * 64)
    with pytest.raises(BundleMismatch, match="its gallery is of encoder ffffffff"):
        build(tmp_path / "R2", hierarchy=hierarchy_folder, checkpoint=checkpoint)
    checkpoint = checkpoint_of(bundle, tmp_path / "D")
    damaged = bytearray((checkpoint / VECTORS_FILE).read_bytes())
    damaged[-1] ^= 1
    (checkpoint / VECTORS_FILE).write_bytes(damaged)
    with pytest.raises(ArtifactError, match=r"gallery\.faiss: content differs"):
        build(tmp_path / "R2", hierarchy=hierarchy_folder, checkpoint=checkpoint)
    assert not (tmp_path / "R2").exists()


def test_a_new_hierarchy_inherits_the_photos_in_its_own_lists(
    bundle: Bundle, world: Photos, points: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    finer = save_s2_hierarchy(*points, rule=PartitionRule(tau_max=(400, 60, 20), tau_min=5), out=tmp_path / "finer")
    made = build(tmp_path / "R", hierarchy=finer, inherit=bundle.version)
    new, old, opened = open_bundle(made.folder), with_gallery(bundle), open_bundle(made.folder).gallery
    assert opened is not None
    names = all_names(opened)
    assert set(names) <= set(all_names(old))
    row_of = {name: row for row, name in enumerate(all_names(old))}
    rows = [row_of[name] for name in names]
    np.testing.assert_array_equal(opened.vectors(0, len(opened)), old.vectors(0, len(old))[rows])
    located = new.hierarchy.locate(opened.lat_deg, opened.lng_deg)[:, -1]
    assert (opened.leaf[located >= 0] == located[located >= 0]).all()
    assert (located < 0).any()
    np.testing.assert_allclose(opened.stands_for.sum(), old.stands_for.sum(), rtol=1e-5)
    assert opened.facts.changed == 0
    same = build(tmp_path / "R", hierarchy=tmp_path / "finer", inherit=made.version)
    assert content(same.folder) == content(made.folder)


def test_labels_inherit_by_label(world: Photos, tmp_path: Path) -> None:
    countries = [f"c{int(lng // 30)}" for lng in world.placed.lng_deg]
    columns = {"photo": world.placed.photo.tolist(), "lat": world.placed.lat_deg, "lng": world.placed.lng_deg}
    table = pa.table({**columns, "country": countries, "city": [f"{c}x{row % 2}" for row, c in enumerate(countries)]})
    pyarrow.parquet.write_table(table, tmp_path / "photos.parquet")
    kept = table.filter(pa.compute.not_equal(table["city"], "c0x1"))
    pyarrow.parquet.write_table(kept, tmp_path / "kept.parquet")
    for name in ("photos", "kept"):
        labels = ["--scheme", "labels", "--labels", "country,city", "--out", tmp_path / name]
        assert indexer("partition", "--photos", tmp_path / f"{name}.parquet", *labels) == 0
    built = build(
        tmp_path / "R",
        hierarchy=tmp_path / "photos",
        features=features_of(world, tmp_path / "F"),
        photos=tmp_path / "photos.parquet",
        config=replace(CONFIG, keep_duplicates=True),
    )
    made = open_bundle(build(tmp_path / "R", hierarchy=tmp_path / "kept", inherit=built.version).folder)
    gallery = with_gallery(made)
    cities = dict(zip(world.placed.photo, table["city"].to_pylist(), strict=True))
    for name, leaf in zip(all_names(gallery), gallery.leaf, strict=True):
        if cities[name] != "c0x1":
            assert made.hierarchy.leaves.keys[leaf].endswith("/" + cities[name])
    assert len(gallery) == len(world.leaf)


def test_photos_are_appended_list_by_list_and_nothing_is_fitted_again(
    bundle: Bundle, world: Photos, hierarchy: Hierarchy, tmp_path: Path
) -> None:
    home, old = Registry(tmp_path / "R"), with_gallery(bundle)
    calibrated = calibrated_bundle(bundle, home.versions_folder, {"one": CALIBRATION}, config={}, inputs={})
    more = photos(hierarchy, n=60, seed=9, alike=0, prefix="more ")
    again = world.placed.take(np.arange(30))  # they are there: under their names, and under others
    copies = replace(again, photo=np.array([f"copy of {name}" for name in again.photo], object))
    everything = [more.placed, again, copies]
    joined = Photos(
        more.geocells,
        type(again)(*(np.concatenate([getattr(part, f) for part in everything]) for f in again.__slots__)),
        np.concatenate([more.leaf, world.leaf[:30], world.leaf[:30]]),
    )
    added = features_of(joined, tmp_path / "more")
    made = build(home.path, inherit=calibrated.name, gallery_add=added)
    bundle_now = open_bundle(made.folder)
    new = with_gallery(bundle_now)
    assert bundle_now.calibrations == {"one": CALIBRATION}
    for name in set(bundle.manifest.files) - set(FILES):
        assert (made.folder / name).stat().st_ino == (bundle.path / name).stat().st_ino
    n_new = 0
    compared = bundle.model.geocells.compared(more.placed.vectors)
    compared /= np.linalg.norm(compared, axis=1, keepdims=True)
    for leaf in range(old.n_leaves):
        before, after = slice(*old.begins[leaf : leaf + 2]), slice(*new.begins[leaf : leaf + 2])
        n = before.stop - before.start
        np.testing.assert_array_equal(new.codes(leaf)[:n], old.codes(leaf))
        names = new.names(np.arange(after.start, after.stop)).tolist()
        assert names[:n] == old.names(np.arange(before.start, before.stop)).tolist()
        assert set(names[n:]) <= set(more.placed.photo[more.leaf == leaf])
        n_new += len(names) - n
    assert n_new == made.facts["gallery"]["added"] > 50
    assert new.facts.changed == pytest.approx(n_new / len(old))
    assert not new.facts.keeps_calibrations
    assert bundle_now.manifest.inputs["features_added_1"] == open_features(added).digest
    # What is there counts once more under another name, and under its own where it had been left out.
    left_out = 30 - len(set(again.photo) & set(all_names(old)))
    stands = old.stands_for.sum() + len(more.leaf) + 30 + left_out
    np.testing.assert_allclose(new.stands_for.sum(), stands, rtol=1e-4)
    twice = build(home.path, inherit=made.version, gallery_add=features_of(more, tmp_path / "only more"))
    assert content(twice.folder)[VECTORS_FILE] == content(made.folder)[VECTORS_FILE]
    assert "features_added_2" in open_bundle(twice.folder).manifest.inputs


def test_a_full_list_keeps_the_most_typical_of_old_and_new(
    world: Photos, hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path: Path
) -> None:
    features = features_of(world, tmp_path / "F")
    config = replace(CONFIG, gallery_per_leaf=2)
    old = open_bundle(build(tmp_path / "R", hierarchy=hierarchy_folder, features=features, config=config).folder)
    more = photos(hierarchy, n=200, seed=9, alike=0, prefix="more ")
    made = build(tmp_path / "R", inherit=old.version, gallery_add=features_of(more, tmp_path / "more"))
    new = with_gallery(open_bundle(made.folder))
    assert np.diff(new.begins).max() == 2
    assert new.facts.per_leaf == 2
    assert made.facts["gallery"]["dropped"] > 0
    for leaf in np.unique(new.leaf):
        vector = old.model.geocells.vectors[-1][leaf]
        own = np.sort(with_gallery(old).vectors(*with_gallery(old).begins[leaf : leaf + 2]) @ vector)
        now = np.sort(new.vectors(*new.begins[leaf : leaf + 2]) @ vector)
        assert now[-1] >= (own[-1] if own.size else -1) - 0.02


def test_changes_are_a_share_of_the_photos_that_were_calibrated(
    bundle: Bundle, hierarchy: Hierarchy, tmp_path: Path
) -> None:
    home = Registry(tmp_path / "R")
    version = calibrated_bundle(bundle, home.versions_folder, {"one": CALIBRATION}, config={}, inputs={}).name
    then, changes = len(with_gallery(bundle)), 0
    for number in range(3):
        more = photos(hierarchy, n=200, seed=40 + number, alike=0, prefix=f"more {number} ")
        features = features_of(more, tmp_path / str(number))
        made = build(home.path, inherit=version, gallery_add=features)
        changes += made.facts["gallery"]["added"] + made.facts["gallery"]["dropped"]
        before = with_gallery(open_bundle(made.folder))
        assert before.facts.changed == pytest.approx(changes / then)
        (tmp_path / "names.txt").write_text("\n".join(all_names(before)[number:90:3]))
        made = build(home.path, inherit=made.version, gallery_remove=tmp_path / "names.txt")
        after = with_gallery(open_bundle(made.folder))
        changes += len(before) - len(after)
        assert (after.facts.changed, after.facts.photos_then) == (pytest.approx(changes / then), then)
        version = made.version
    anew = calibrated_bundle(open_bundle(made.folder), home.versions_folder, {}, config={}, inputs={})
    assert (with_gallery(open_bundle(anew)).facts.changed, with_gallery(open_bundle(anew)).facts.photos_then) == (
        0,
        None,
    )


def test_few_changes_keep_the_calibration_and_add_up(
    bundle: Bundle, hierarchy: Hierarchy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Registry(tmp_path / "R")
    version = calibrated_bundle(bundle, home.versions_folder, {"one": CALIBRATION}, config={}, inputs={}).name
    for number, keeps in enumerate((True, False)):
        more = photos(hierarchy, n=23, seed=30 + number, alike=0, prefix=f"more {number} ")
        few = Photos(more.geocells, more.placed.take(np.arange(20, 23)), more.leaf[20:])
        version = build(home.path, inherit=version, gallery_add=features_of(few, tmp_path / str(number))).version
        made = open_bundle(home.resolve())
        assert made.calibrations
        assert with_gallery(made).facts.keeps_calibrations is keeps
    assert indexer("info", "--registry", home.path) == 0
    assert "changed since the calibration, too much: calibrate again" in capsys.readouterr().out
    assert CALIBRATION.with_photos is not None
    fresh = replace(CALIBRATION, with_photos=replace(CALIBRATION.with_photos, queries=9))
    anew = calibrated_bundle(made, home.versions_folder, {"one": fresh, "ten": OF_CELLS}, config={}, inputs={})
    assert with_gallery(open_bundle(anew)).facts.changed == 0  # cells are as they were
    kept = {"one": CALIBRATION, "ten": fresh}
    other = calibrated_bundle(made, home.versions_folder, kept, config={}, inputs={})
    assert not with_gallery(open_bundle(other)).facts.keeps_calibrations


def test_a_version_without_a_gallery_gets_one(
    world: Photos, hierarchy_folder: Path, bundle: Bundle, tmp_path: Path
) -> None:
    config = replace(CONFIG, gallery_per_leaf=0)
    bare = build(tmp_path / "R", hierarchy=hierarchy_folder, features=tmp_path / "F", config=config)
    made = build(tmp_path / "R", inherit=bare.version, gallery_add=tmp_path / "F")
    assert content(made.folder) == content(bundle.path)


def nan_vectors(world: Photos, out: Path) -> Path:
    world.placed.vectors[3, 2] = np.nan
    return features_of(world, out)


def wide_vectors(world: Photos, out: Path) -> Path:
    return features_of(replace(world, placed=replace(world.placed, vectors=unit_rows(400, WIDTH + 1, 0))), out)


def one_nowhere(world: Photos, out: Path) -> Path:
    world.placed.lat_deg[3] = world.placed.lng_deg[3] = np.nan
    return features_of(world, out)


def other_vectors(world: Photos, out: Path) -> Path:
    return features_of(replace(world, placed=replace(world.placed, vectors=unit_rows(400, WIDTH, 77))), out)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (nan_vectors, "zero or not finite"),
        (wide_vectors, rf"wrong: vectors of {WIDTH + 1} values; {WIDTH} is needed here"),
        (one_nowhere, "photos without a place in the features, 1 of one shard, among them"),
        (other_vectors, "names of photos repeat for other vectors or places"),
        (lambda world, out: features_of(world, out, encoder="f" * 64), "vectors of encoder ffffffff"),
        (lambda world, out: features_of(world, out, places=False), "without a place in the features"),
        (lambda world, out: out, "no features here"),
    ],
)
def test_what_cannot_be_added_is_refused_and_nothing_is_written(
    bundle: Bundle, world: Photos, tmp_path: Path, features: Callable[[Photos, Path], Path], message: str
) -> None:
    wrong = features(world, tmp_path / "wrong")
    before = sorted(path.relative_to(tmp_path) for path in (tmp_path / "R").rglob("*"))
    with pytest.raises(InputError, match=message):
        build(tmp_path / "R", inherit=bundle.version, gallery_add=wrong)
    assert sorted(path.relative_to(tmp_path) for path in (tmp_path / "R").rglob("*")) == before


def test_photos_that_the_table_lacks_are_refused_but_for_other_splits(
    bundle: Bundle, world: Photos, hierarchy: Hierarchy, tmp_path: Path
) -> None:
    more = photos(hierarchy, n=60, seed=9, alike=0, prefix="more ")
    features = features_of(more, tmp_path / "more", places=False)
    table = pyarrow.parquet.read_table(table_of(more, tmp_path / "all.parquet"))
    pyarrow.parquet.write_table(table.slice(10), tmp_path / "some.parquet")
    split = ["no"] * 10 + ["yes"] * 50
    pyarrow.parquet.write_table(table.append_column("split", pa.array(split)), tmp_path / "split.parquet")
    with pytest.raises(InputError, match=r"photos without a place in .*some\.parquet, 10 of one shard"):
        build(tmp_path / "R", inherit=bundle.version, gallery_add=features, photos=tmp_path / "some.parquet")
    made = build(
        tmp_path / "R",
        inherit=bundle.version,
        gallery_add=features,
        photos=tmp_path / "split.parquet",
        config=BuildConfig(split="yes", owner_column="user"),
    )
    gallery = with_gallery(open_bundle(made.folder))
    owners = gallery.owners(np.arange(len(gallery)))
    assert made.facts["gallery"]["given"] == 50
    assert owners is not None
    assert {owner for name, owner in zip(all_names(gallery), owners, strict=True) if "more" not in name} == {None}
    assert any(owner is not None for owner in owners)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gallery-add", "F"], "Give one of"),
        (["--features", "F", "--gallery-add", "F"], "--gallery-add and --gallery-remove go with --inherit"),
        (["--checkpoint", "C", "--gallery-remove", "F"], "--gallery-add and --gallery-remove go with --inherit"),
        (["--inherit", "V", "--gallery-add", "F", "--gallery-per-leaf", "0"], "--gallery-per-leaf 0 wants none"),
        (["--features", "F", "--gallery-per-leaf", "-1"], "--gallery-per-leaf must be all, or at least 0"),
        (["--features", "F", "--gallery-per-leaf", "some"], "--gallery-per-leaf: expected whole number or all"),
        (["--checkpoint", "C", "--gallery-precision", "fp16"], "--gallery-precision goes with --features"),
        (["--checkpoint", "C", "--keep-duplicates"], "go with --features"),
        (["--inherit", "V", "--owner-column", "user"], "go with --features"),
        (["--inherit", "V", "--everywhere", "--hierarchy", "H"], "--everywhere goes with --gallery-remove"),
        (["--features", "F", "--hierarchy", "H", "--owner-column", "user"], "--owner-column is a column of --photos"),
    ],
)
def test_options_that_do_not_go_together_are_said(
    world: Photos,
    hierarchy_folder: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"F": tmp_path / "F", "H": hierarchy_folder}
    if "F" in arguments:
        features_of(world, tmp_path / "F")
    given = [places.get(argument, argument) for argument in arguments]
    assert indexer("build", "--registry", tmp_path / "R", *given) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "R").exists()


def test_other_indices_go_with_a_hierarchy(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`index` and `precision` go with `hierarchy`"):
        build(tmp_path / "R", inherit=bundle.version, gallery_add=tmp_path / "F", config=BuildConfig(precision="fp16"))


def test_a_maker_says_what_it_made(bundle: Bundle, hierarchy: Hierarchy, tmp_path: Path) -> None:
    source: FeatureSource = open_features(tmp_path / "F")
    maker = new_gallery(source, Placement(hierarchy), bundle.model.geocells, hierarchy, BuildConfig())
    assert maker.text == "no gallery"
    (tmp_path / "G").mkdir()
    facts = maker.write(Draft(tmp_path / "G"))
    assert facts is not None
    chosen = with_gallery(bundle).facts
    assert replace(facts, similarity=chosen.similarity, lists=chosen.lists) == chosen
    assert "of 400 new ones, the others are like one that is there" in maker.text
    assert GalleryMaker(lambda draft: None).facts == {"gallery": None}
    nothing = change_of(bundle, add=None, remove=None, photos=None, config=BuildConfig(), removed=frozenset())
    assert (nothing.names, nothing.inputs, nothing.sources) == ([], {}, {})
