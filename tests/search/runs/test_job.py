"""The front door of runs: what does not go together is refused, by the names of fields; the rest reaches an engine."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from encoder.config import EncoderOptions, FeedOptions
from indexer.bundles.registry import Registry
from indexer.cells.hierarchy import Hierarchy
from indexer.disk.manifest import ROWS_MANIFEST, file_digest
from indexer.errors import InputError
from indexer.vectors.features import read_features
from indexer.vectors.geocells import load_geocells
from indexer.vectors.prototypes import Placed
from search.answers.options import SearchOptions
from search.runs.job import run
from search.runs.run_report import RunReport
from search.runs.run_spec import RunConfig, RunSpec
from tests.conftest import random_geocells
from tests.search.conftest import WIDTH, features
from tests.search.gallery_oracle import bundle_with_photos
from tests.search.runs.conftest import OWNERS


def test_a_spec_is_answered_and_reported(registry: Registry, tmp_path: Path) -> None:
    spec = RunSpec(registry=registry.path, features=features(tmp_path / "F", [10, 8], bad={3}), shard_rows=7)
    report = run(spec, tmp_path / "O", config=RunConfig(top_k=2, check_recall=5, audit_log=tmp_path / "log"))
    assert (report.rows, report.ok, report.failed, report.rows_known) == (18, 17, {"truncated": 1}, 0)
    assert report.to_dict() == json.loads((tmp_path / "O" / "_report.json").read_text())
    assert report.recall is not None
    assert (report.recall.queries, report.recall.at_1) == (5, 1.0)
    assert pyarrow.parquet.read_table(tmp_path / "O").num_rows == 18
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert json.loads(line)["photos"] == str(tmp_path / "F")
    as_text = RunSpec(registry=str(registry.path), features=str(tmp_path / "F"), shard_rows=7)
    again = run(as_text, str(tmp_path / "O"), config=RunConfig(top_k=2, audit_log=str(tmp_path / "log")))
    assert (again.rows, again.rows_known, again.recall) == (18, 18, None)
    first, second = (json.loads(line) for line in (tmp_path / "log").read_text().splitlines())
    assert second == first | {"at": second["at"]}


def test_what_lists_miss_of_the_gallery_is_reported(
    hierarchy: Hierarchy, hierarchy_folder: Path, placed: Placed, tmp_path: Path
) -> None:
    home, geocells = Registry(tmp_path / "R"), random_geocells(hierarchy, WIDTH, seed=0)
    home.publish(bundle_with_photos(hierarchy, hierarchy_folder, geocells, placed, home.versions_folder).version)
    spec = RunSpec(registry=home.path, features=features(tmp_path / "F", [30]))
    report = run(spec, tmp_path / "O", config=RunConfig(check_recall=20))
    assert report.recall is not None
    found = report.recall.photos
    assert found is not None
    assert found.queries == 20
    assert 0 < found.weight <= 1
    kept = json.loads((tmp_path / "O" / "_report.json").read_text())["recall"]
    assert kept["photos"] == {
        "queries": 20,
        "weight": found.weight,
        "stayed": found.stayed,
        "within_km": found.within_km,
    }


@pytest.mark.parametrize("kind", [str, Path])
def test_paths_may_be_text(world: Path, tmp_path: Path, kind: Callable[[Path], Any]) -> None:
    spec = RunSpec(
        registry=kind(world / "R"),
        photos=kind(world / "photos.csv"),
        checkpoint=kind(world / "C"),
        encoder=EncoderOptions(device="cpu", precision="float32"),
        feed=FeedOptions(workers=0),
    )
    report = run(spec, kind(tmp_path / "O"), config=RunConfig(save_features=kind(tmp_path / "F")))
    assert (report.rows, report.ok) == (5, 4)
    assert len(read_features(tmp_path / "F")) == 5


def photos_told(out: Path) -> list[list[str]]:
    told: list[list[str]] = pyarrow.parquet.read_table(out)["gallery_photo"].to_pylist()
    return told


def go(owned: Path, out: Path, **parts: Any) -> RunReport:
    spec = RunSpec(
        registry=owned / "R",
        features=owned / "F",
        shard_rows=7,
        search=SearchOptions(gallery="all", gallery_photos=40),
        **parts,
    )
    return run(spec, out)


def test_photos_of_a_querys_owner_are_left_out(owned: Path, placed: Placed, tmp_path: Path) -> None:
    go(owned, tmp_path / "all")
    report = go(owned, tmp_path / "O", owner_column="who")
    whose = {name: OWNERS[row % 3] for row, name in enumerate(placed.photo.tolist())}
    itself = placed.photo[:18].tolist()
    assert all(own in told for own, told in zip(itself, photos_told(tmp_path / "all"), strict=True))
    for row, told in enumerate(photos_told(tmp_path / "O")):
        owners = {whose[photo] for photo in told}
        assert owners == (set(OWNERS) if row == 5 else set(OWNERS) - {whose[itself[row]]})
    assert (report.options["owner_column"], report.inputs["owners"]) == ("who", None)
    manifest = json.loads((tmp_path / "O" / ROWS_MANIFEST).read_text())
    assert manifest["config"]["owner_column"] == "who"
    # Nothing that was written tells whose anything is.
    for file in (path for path in (tmp_path / "O").rglob("*") if path.is_file()):
        assert not any(owner.encode() in file.read_bytes() for owner in OWNERS), file
    for column in pyarrow.parquet.read_table(tmp_path / "O").itercolumns():
        assert not any(owner in str(column.to_pylist()) for owner in OWNERS)


def test_owners_may_stand_in_a_table_of_their_own(owned: Path, tmp_path: Path) -> None:
    rows = pyarrow.parquet.read_table(owned / "F" / "0.parquet")
    bare = tmp_path / "F"
    bare.mkdir()
    pa.parquet.write_table(rows.select(["photo", "embedding"]), bare / "0.parquet")
    spec = RunSpec(registry=owned / "R", features=bare, owner_column="who", shard_rows=7)
    with pytest.raises(InputError, match=r"no column 'who'; it has photo, embedding.*Or give `owner_table`"):
        run(spec, tmp_path / "O")
    assert not (tmp_path / "O").exists()
    table = tmp_path / "owners.parquet"
    pa.parquet.write_table(rows.select(["photo", "who"]), table)
    given = replace(spec, owner_table=str(table), search=SearchOptions(gallery="all", gallery_photos=40))
    report = run(given, tmp_path / "O")
    assert report.inputs["owners"] == file_digest(table)
    go(owned, tmp_path / "same", owner_column="who")
    assert photos_told(tmp_path / "O") == photos_told(tmp_path / "same")
    # A job goes on with the very owners it began with.
    part, mark = tmp_path / "O" / "part-00001.parquet", tmp_path / "O" / "_done" / "00001.json"
    for file in (part, mark, tmp_path / "O" / ROWS_MANIFEST):
        file.unlink()
    assert run(given, tmp_path / "O").rows_known == 11
    assert photos_told(tmp_path / "O") == photos_told(tmp_path / "same")
    pa.parquet.write_table(rows.select(["photo", "who"]).set_column(1, "who", pa.array(["ann-0xA1"] * 18)), table)
    with pytest.raises(InputError, match="owners"):
        run(given, tmp_path / "O")
    with pytest.raises(InputError, match="owner_column"):
        run(replace(given, owner_column=None, owner_table=None), tmp_path / "O")
    pa.parquet.write_table(rows.slice(1).select(["photo", "who"]), table)
    with pytest.raises(InputError, match="which is answered"):
        run(given, tmp_path / "other")


def test_albums_leave_out_all_of_their_owners(
    owned: Path, placed: Placed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each trip of three photos has all three owners, but the one in which a photo is nobody's."""
    report = go(owned, tmp_path / "O", owner_column="who", album="trip")
    assert caplog.text.count("nobody recorded which encoder") == 1  # though three read these features
    assert (report.options["album"], report.options["owner_column"]) == ("trip", "who")
    evidence = pyarrow.parquet.read_table(tmp_path / "O")["evidence"].to_pylist()
    told, whose = photos_told(tmp_path / "O"), {name: OWNERS[row % 3] for row, name in enumerate(placed.photo.tolist())}
    for row in range(18):
        left = {whose[photo] for photo in told[row]}
        assert left == (({OWNERS[2]}) if row // 3 == 1 else set())
        assert evidence[row] == ("cells+photos (all)" if row // 3 == 1 else "cells")


@pytest.mark.parametrize("split", [None, "a"])
def test_owners_of_photos_are_a_column_of_their_table(
    world: Path, owned: Path, hierarchy: Hierarchy, hierarchy_folder: Path, placed: Placed, tmp_path: Path,
    split: str | None,
) -> None:  # fmt: skip
    home = shutil.copytree(world, tmp_path / "world", symlinks=True)
    registry = Registry(home / "R")
    geocells = load_geocells(home / "C")
    whose = [OWNERS[row % 3] for row in range(len(placed.photo))]
    bundle = bundle_with_photos(hierarchy, hierarchy_folder, geocells, placed, registry.versions_folder, owners=whose)
    registry.publish(bundle.version)
    lines = (home / "photos.csv").read_text().splitlines()
    owners = ["who", OWNERS[0], OWNERS[1], "", OWNERS[2], OWNERS[0]]
    both = (f"{line},{owner}" for line, owner in zip(lines, owners, strict=True))
    (home / "photos.csv").write_text("\n".join(both) + "\n")
    photos: dict[str, Any] = {"registry": home / "R", "checkpoint": str(home / "C"), "feed": FeedOptions(workers=0)}
    photos["search"] = SearchOptions(gallery="all", gallery_photos=40)
    spec = RunSpec(photos=str(home / "photos.csv"), split=split, owner_column="who", **photos)
    run(spec, tmp_path / "O")
    of_photo = dict(zip(placed.photo.tolist(), whose, strict=True))
    for owner, told in zip(owners[1:], photos_told(tmp_path / "O"), strict=False):
        assert told is None or {of_photo[photo] for photo in told} == set(OWNERS) - {owner}
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "0.png").write_bytes((home / "0.png").read_bytes())
    with pytest.raises(InputError, match=r"photos that are no table have no columns\. Give `owner_table`"):
        run(RunSpec(photos=str(pictures), owner_column="who", **photos), tmp_path / "P")
    (tmp_path / "t.csv").write_text(f"photo,who\n0.png,{OWNERS[1]}\n")
    run(
        RunSpec(photos=str(pictures), owner_column="who", owner_table=str(tmp_path / "t.csv"), **photos), tmp_path / "P"
    )
    (told,) = photos_told(tmp_path / "P")
    assert {of_photo[photo] for photo in told} == set(OWNERS) - {OWNERS[1]}


def test_galleries_that_know_no_owners_are_refused_before_work(registry: Registry, owned: Path, tmp_path: Path) -> None:
    spec = RunSpec(registry=registry.path, features=owned / "F", owner_column="who")
    with pytest.raises(InputError, match="has no gallery"):
        run(spec, tmp_path / "O")
    assert not (tmp_path / "O").exists()
