"""Takedowns: the photos are gone and stay away, and everyone who still has them is named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from indexer.bundles.build_config import BuildConfig
from indexer.bundles.builds import build
from indexer.bundles.bundle import Bundle, open_bundle, verify_bundle
from indexer.bundles.registry import Registry
from indexer.bundles.takedown import Takedown, versions_holding
from indexer.cells.hierarchy import Hierarchy
from indexer.errors import ArtifactError, InputError
from tests.indexer.bundles.gallery_worlds import Photos, all_names, photos
from tests.indexer.bundles.test_gallery_maker import checkpoint_of, content, features_of, table_of, with_gallery
from tests.indexer.conftest import indexer
from tests.kills import KILLED, Forks

CONFIG = BuildConfig(shrinkage=0.1)


@pytest.fixture
def world(hierarchy: Hierarchy) -> Photos:
    return photos(hierarchy, n=400)


@pytest.fixture
def bundle(world: Photos, hierarchy_folder: Path, tmp_path: Path) -> Bundle:
    features, table = features_of(world, tmp_path / "F", places=False), table_of(world, tmp_path / "photos.parquet")
    made = build(tmp_path / "R", hierarchy=hierarchy_folder, features=features, photos=table, config=CONFIG)
    return open_bundle(made.folder)


@pytest.fixture
def gone(bundle: Bundle) -> list[str]:
    """Names of photos: all of one leaf, and some of others."""
    gallery = with_gallery(bundle)
    leaf = int(np.argmax(np.diff(gallery.begins) == 2))
    rows = [*range(*gallery.begins[leaf : leaf + 2]), 1, 50, 51]
    return gallery.names(np.array(sorted(set(rows)))).tolist()


def listed(names: list[str], tmp_path: Path) -> Path:
    (tmp_path / "names.txt").write_text("\n".join([*names, "", names[0], ""]))
    return tmp_path / "names.txt"


def test_a_version_without_the_photos_is_as_if_they_had_never_been_there(
    bundle: Bundle, gone: list[str], tmp_path: Path
) -> None:
    made = build(tmp_path / "R", inherit=bundle.version, gallery_remove=listed(gone, tmp_path))
    old, new = with_gallery(bundle), with_gallery(open_bundle(made.folder))
    keep = np.array([name not in gone for name in all_names(old)])
    assert all_names(new) == [name for name in all_names(old) if name not in gone]
    np.testing.assert_array_equal(new.vectors(0, len(new)), old.vectors(0, len(old))[keep])
    np.testing.assert_array_equal(new.leaf, old.leaf[keep])
    for leaf in range(old.n_leaves):
        rows = old.leaf == leaf
        n_gone, n_kept = (rows & ~keep).sum(), (rows & keep).sum()
        if n_kept:
            expected = (old.stands_for[rows].sum() - n_gone) / n_kept
            np.testing.assert_allclose(new.stands_for[new.leaf == leaf], expected, rtol=1e-5)
    assert (np.diff(new.begins) == 0).sum() > (np.diff(old.begins) == 0).sum()
    assert new.facts.changed == 0  # nothing was calibrated
    assert verify_bundle(made.folder) == []
    assert Registry(tmp_path / "R").current == made.version


def test_everyone_who_still_holds_them_is_named(
    bundle: Bundle,
    gone: list[str],
    world: Photos,
    hierarchy_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    home = Registry(tmp_path / "R")
    checkpoint = checkpoint_of(bundle, tmp_path / "C")
    other = build(home.path, hierarchy=hierarchy_folder, checkpoint=checkpoint)
    bare = build(home.path, hierarchy=hierarchy_folder, checkpoint=checkpoint, config=BuildConfig(gallery_per_leaf=0))
    home.pin(other.version, reason="the trial")
    capsys.readouterr()
    remove = ["build", "--registry", home.path, "--inherit", bundle.version]
    remove += ["--gallery-remove", listed(gone, tmp_path), "--json"]
    assert indexer(*remove) == 0
    said = json.loads(capsys.readouterr().out)
    taken = said["takedown"]
    assert (taken["photos"], taken["retired"]) == (len(gone), [])
    still = {state["version"]: state["pinned"] for state in taken["still_in"]}
    assert still == {bundle.version: False, other.version: True}
    assert bare.version not in still
    sources = {(source["kind"], source["path"]): source["holds"] for source in taken["sources"]}
    assert sources == {
        ("features", str(tmp_path / "F")): True,
        ("table", str(tmp_path / "photos.parquet")): True,
        ("checkpoint", str(tmp_path / "C")): True,
    }
    # What that was made from is told, too, though only its digest is known.
    digests = {source["kind"]: source["digest"] for source in taken["sources"]}
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["inputs"] = {"photos": "a" * 64, "features": bundle.manifest.inputs["features"], "start_from": "b" * 64}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    assert indexer(*remove, "--no-publish") == 0
    again = json.loads(capsys.readouterr().out)["takedown"]["sources"]
    assert again == [*taken["sources"], {"kind": "table", "digest": "a" * 64, "path": None, "holds": None}]
    said = (checkpoint / "manifest.json").read_text()
    (checkpoint / "manifest.json").write_text("torn")
    assert indexer(*remove, "--no-publish") == 0
    assert json.loads(capsys.readouterr().out)["takedown"]["sources"] == taken["sources"]
    (checkpoint / "manifest.json").write_text(said)
    # The file is gone from where it was: nobody can say.
    (tmp_path / "photos.parquet").rename(tmp_path / "moved.parquet")
    assert indexer(*remove[:-1], "--no-publish") == 0
    text = capsys.readouterr().out
    assert f"still in version {other.version[:12]} (pinned)" in text
    assert f"perhaps in table {bundle.manifest.inputs['photos'][:12]}: {tmp_path / 'photos.parquet'}" in text
    assert f"still in checkpoint {digests['checkpoint'][:12]}: {tmp_path / 'C'}" in text
    assert "perhaps in table aaaaaaaaaaaa: which was read at a place that is not known" in text


def test_inputs_of_places_that_nobody_noted_are_named_by_digest(
    bundle: Bundle, gone: list[str], tmp_path: Path
) -> None:
    (tmp_path / "R" / "sources.jsonl").write_text("{torn\n")
    taken = Takedown(Registry(tmp_path / "R"), gone, everywhere=False).finish()
    assert {source.digest for source in taken.sources} == {
        bundle.manifest.inputs["features"],
        bundle.manifest.inputs["photos"],
    }
    assert all(source.path is None and source.holds is None for source in taken.sources)
    assert "read at a place that is not known" in taken.text


def test_later_builds_adds_and_inheritances_leave_them_out(
    bundle: Bundle, gone: list[str], world: Photos, hierarchy_folder: Path, tmp_path: Path
) -> None:
    home = Registry(tmp_path / "R")
    checkpoint = checkpoint_of(bundle, tmp_path / "C")
    first = build(home.path, inherit=bundle.version, gallery_remove=listed(gone, tmp_path))
    assert len(home.removed) == len(gone)
    assert not any(name in (home.path / "removed.txt").read_text() for name in gone)
    features, table = tmp_path / "F", tmp_path / "photos.parquet"
    made = [
        build(home.path, hierarchy=hierarchy_folder, features=features, photos=table, config=CONFIG),
        build(home.path, hierarchy=hierarchy_folder, checkpoint=checkpoint),
        build(home.path, hierarchy=hierarchy_folder, inherit=bundle.version),
        build(home.path, inherit=first.version, gallery_add=features, photos=table),
        build(home.path, inherit=bundle.version, gallery_add=features, photos=table),
    ]
    for version in made:
        names = set(all_names(with_gallery(open_bundle(version.folder))))
        assert not names & set(gone)
        assert len(names) > 200
    assert made[0].facts["photos"] <= 400 - len(gone)


def test_everywhere_retires_the_others_and_refuses_while_one_is_pinned(
    bundle: Bundle, gone: list[str], hierarchy_folder: Path, tmp_path: Path
) -> None:
    home = Registry(tmp_path / "R")
    other = build(home.path, hierarchy=hierarchy_folder, checkpoint=checkpoint_of(bundle, tmp_path / "C"))
    home.pin(bundle.version)
    before = {path: path.stat().st_mtime_ns for path in home.path.rglob("*") if path.is_file()}
    names = listed(gone, tmp_path)
    with pytest.raises(InputError, match=rf"these photos are in versions that are pinned: {bundle.version[:12]}"):
        build(home.path, inherit=other.version, gallery_remove=names, everywhere=True)
    home_now = {path: path.stat().st_mtime_ns for path in home.path.rglob("*") if path.is_file()}
    assert {path: at for path, at in home_now.items() if path.name != ".lock"} == {
        path: at for path, at in before.items() if path.name != ".lock"
    }
    home.unpin(bundle.version)
    with pytest.raises(InputError, match="the current version holds these photos"):
        build(home.path, inherit=other.version, gallery_remove=names, everywhere=True, publish=False)
    assert sorted(home.versions) == sorted([bundle.version, other.version])
    made = build(home.path, inherit=other.version, gallery_remove=names, everywhere=True)
    assert home.versions == [made.version]
    assert home.current == made.version
    assert sorted(made.facts["takedown"]["retired"]) == sorted([bundle.version, other.version])
    assert made.facts["takedown"]["still_in"] == []
    assert f"retired: {bundle.version[:12]}" in made.text
    assert len(with_gallery(bundle).vectors(0, 10)) == 10  # who has it open keeps it


def take_down(registry: str, version: str, names: str) -> None:
    """One takedown."""
    build(registry, inherit=version, gallery_remove=names, everywhere=True)


def test_a_kill_before_any_system_call_leaves_the_old_or_the_new(
    bundle: Bundle, gone: list[str], started: Forks, tmp_path: Path
) -> None:
    names, steps, status = listed(gone, tmp_path), 0, KILLED
    while status == KILLED:
        home = Registry(tmp_path / f"R{steps}")
        shutil.copytree(tmp_path / "R", home.path, symlinks=True)
        status = started.run("take_down", home.path, bundle.version, names, changes=steps)
        assert home.faults() == []
        assert all(verify_bundle(home.versions_folder / version) == [] for version in home.versions)
        current = with_gallery(open_bundle(home.resolve()))
        if home.current == bundle.version:
            assert len(current) == len(with_gallery(bundle))
        else:
            assert len(current) == len(with_gallery(bundle)) - len(gone)
            assert len(home.removed) == len(gone)
        shutil.rmtree(home.path)
        steps += 7
    assert status == 0
    assert steps > 40, "the calls that change the disk were not counted"


def test_unknown_names_are_named_and_nothing_is_changed(bundle: Bundle, gone: list[str], tmp_path: Path) -> None:
    home, files = Registry(tmp_path / "R"), content(bundle.path)
    unknown = [f"unknown {number}" for number in range(5)]
    with pytest.raises(
        InputError, match=r"5 of .* names are not in the gallery of .*'unknown 0', 'unknown 1'.*, \.\.\."
    ):
        build(home.path, inherit=bundle.version, gallery_remove=listed([*gone, *unknown], tmp_path), everywhere=True)
    assert home.versions == [bundle.version]
    assert home.removed == frozenset()
    assert content(bundle.path) == files


@pytest.mark.parametrize(("text", "message"), [(b"\n \n", "names no photo"), (b"\xff\xfe", "cannot be read")])
def test_a_list_that_cannot_be_used_is_refused(bundle: Bundle, tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "names.txt").write_bytes(text)
    with pytest.raises(InputError, match=message):
        build(tmp_path / "R", inherit=bundle.version, gallery_remove=tmp_path / "names.txt")
    with pytest.raises(InputError, match="cannot be read"):
        build(tmp_path / "R", inherit=bundle.version, gallery_remove=tmp_path / "absent.txt")


def test_a_version_without_a_gallery_has_no_photo_to_remove(
    bundle: Bundle, gone: list[str], hierarchy_folder: Path, tmp_path: Path
) -> None:
    checkpoint = checkpoint_of(bundle, tmp_path / "C")
    config = BuildConfig(gallery_per_leaf=0)
    bare = build(tmp_path / "R", hierarchy=hierarchy_folder, checkpoint=checkpoint, config=config)
    with pytest.raises(InputError, match="has no gallery"):
        build(tmp_path / "R", inherit=bare.version, gallery_remove=listed(gone, tmp_path))


def test_a_damaged_version_or_list_is_a_clean_error(bundle: Bundle, gone: list[str], tmp_path: Path) -> None:
    (tmp_path / "R" / "removed.txt").write_text("a" * 64 + "\nnot a digest\n")
    (fault,) = Registry(tmp_path / "R").faults()
    assert "removed.txt: line 2 is no SHA-256" in fault
    with pytest.raises(ArtifactError, match=r"removed\.txt: line 2 is no SHA-256"):
        build(tmp_path / "R", inherit=bundle.version, gallery_remove=listed(gone, tmp_path))
    (bundle.path / "gallery.parquet").write_bytes(b"x" * (bundle.path / "gallery.parquet").stat().st_size)
    with pytest.raises(ArtifactError, match=r"gallery\.parquet: cannot be read"):
        versions_holding([bundle.path], gone)
