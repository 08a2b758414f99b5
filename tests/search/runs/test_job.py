"""The front door of runs: what does not go together is refused, by the names of fields; the rest reaches an engine."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from encoder.config import EncoderOptions, FeedOptions
from indexer.bundles.registry import Registry
from indexer.cells.hierarchy import Hierarchy
from indexer.vectors.features import read_features
from indexer.vectors.prototypes import Placed
from search.runs.job import run
from search.runs.run_spec import RunConfig, RunSpec
from tests.conftest import random_geocells
from tests.search.conftest import WIDTH, features
from tests.search.gallery_oracle import bundle_with_photos


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
