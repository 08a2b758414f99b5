"""Offline runs: every row once, in order, failures included, whole or absent."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from indexer.disk.manifest import ROWS_MANIFEST, read_manifest
from indexer.earth import s2
from indexer.errors import InputError, WorkError
from indexer.jobs.job_folder import check_ended
from indexer.vectors.features import FeatureBatch, open_features
from search.answers.album import albums_of_table
from search.answers.engine import Engine
from search.runs.local_run import KIND, run_here
from search.runs.run_spec import RunConfig
from search.runs.vectors import StoredVectors
from tests.conftest import unit_rows, write_features
from tests.search.conftest import WIDTH, features


def answers(engine: Engine, source: Path, out: Path, k: int = 1) -> pa.Table:
    run_here(engine, StoredVectors(engine, open_features(source), shard_rows=7), out, RunConfig(top_k=k))
    return pyarrow.parquet.read_table(out)


def test_rows_out_are_rows_in_and_match_the_engine(engine: Engine, tmp_path: Path) -> None:
    source = features(tmp_path / "F", [10, 1, 7], bad={3, 10})
    report = run_here(engine, StoredVectors(engine, open_features(source), shard_rows=7), tmp_path / "O", RunConfig())
    assert (report.rows, report.ok, report.failed) == (18, 16, {"truncated": 2})
    table = pyarrow.parquet.read_table(tmp_path / "O")
    assert table["row"].to_pylist() == list(range(18))
    assert table["photo"].to_pylist() == [f"p{row % 7}" for row in range(18)]
    assert sorted(path.name for path in (tmp_path / "O").glob("part-*")) == [f"part-{n:05d}.parquet" for n in range(3)]
    hits = engine.search(unit_rows(18, WIDTH, seed=0))
    leaves = engine.bundle.hierarchy.leaves
    for row, answer in enumerate(table.to_pylist()):
        if row in (3, 10):
            assert (answer["status"], answer["reason"]) == ("truncated", "ends early")
            assert [answer[name] for name in ("lat", "lng", "s2_id", "token", "score", "probability", "mode")] == [
                None
            ] * 7
            continue
        leaf = hits.leaf[row, 0]
        assert answer["s2_id"] == leaves.s2_ids[leaf]
        assert answer["token"] == s2.tokens(leaves.s2_ids[[leaf]])[0]
        assert (answer["lat"], answer["lng"]) == (leaves.lat_deg[leaf], leaves.lng_deg[leaf])
        assert answer["city"] == leaves.city[leaf]
        assert answer["score"] == pytest.approx(hits.score[row, 0])
        assert answer["probability"] == pytest.approx(hits.probability[row, 0], rel=1e-5)
        assert (answer["calibrated"], answer["mode"], answer["status"]) == (False, "exact", "ok")
    assert table.schema.field("s2_id").type == pa.uint64()


def test_top_k_columns_begin_with_the_answer(engine: Engine, tmp_path: Path) -> None:
    table = answers(engine, features(tmp_path / "F", [5], bad={2}), tmp_path / "O", k=3)
    for row in table.to_pylist():
        if row["status"] != "ok":
            assert row["top_score"] is None
            continue
        assert len(row["top_s2_id"]) == 3
        assert (row["top_s2_id"][0], row["top_lat"][0], row["top_score"][0]) == (row["s2_id"], row["lat"], row["score"])
        assert row["top_score"] == sorted(row["top_score"], reverse=True)


def test_how_the_input_is_cut_does_not_change_the_answers(engine: Engine, tmp_path: Path) -> None:
    one = answers(engine, features(tmp_path / "F1", [18], bad={3}), tmp_path / "O1")
    three = answers(engine, features(tmp_path / "F3", [1, 16, 1], bad={3}), tmp_path / "O3")
    assert one.drop_columns(["probability"]).equals(three.drop_columns(["probability"]))
    np.testing.assert_allclose(
        one["probability"].drop_null().to_numpy(), three["probability"].drop_null().to_numpy(), rtol=1e-5
    )


def test_a_shard_of_failures_alone_is_fine(engine: Engine, tmp_path: Path) -> None:
    table = answers(engine, features(tmp_path / "F", [2, 3], bad={0, 1}), tmp_path / "O", k=2)
    assert table["lat"].null_count == 2


def test_the_manifest_says_what_answered(engine: Engine, tmp_path: Path) -> None:
    answers(engine, features(tmp_path / "F", [4]), tmp_path / "O")
    manifest = read_manifest(tmp_path / "O", kind=KIND, schema_version=1, name=ROWS_MANIFEST)
    assert manifest.facts["bundle"] == engine.bundle.version
    assert manifest.inputs["encoder"] == "e" * 64


def test_vectors_of_another_width_are_refused_and_whole_shards_before_them_kept(engine: Engine, tmp_path: Path) -> None:
    unknown = np.full(7, np.nan)
    parts = [
        FeatureBatch([name] * 7, unit_rows(7, width, 0), ["ok"] * 7, [""] * 7, unknown, unknown)
        for name, width in (("a", WIDTH), ("b", WIDTH + 2))
    ]
    source = write_features(tmp_path / "F", *parts, encoder="e" * 64)
    with pytest.raises(InputError, match="a folder of their own"):
        answers(engine, source, tmp_path / "O")
    assert pyarrow.parquet.read_table(tmp_path / "O")["photo"].to_pylist() == ["a"] * 7
    with pytest.raises(InputError, match="has not ended"):
        check_ended(tmp_path / "O")


def test_rows_that_never_came_are_an_error(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = StoredVectors(engine, open_features(features(tmp_path / "F", [5, 5])), shard_rows=5)
    whole = stored.shards
    monkeypatch.setattr(stored, "shards", lambda *given: itertools.islice(whole(*given), 1))
    with pytest.raises(WorkError, match="5 rows of an input of 10"):
        run_here(engine, stored, tmp_path / "O", RunConfig())
    assert not (tmp_path / "O" / ROWS_MANIFEST).exists()
    monkeypatch.undo()
    assert run_here(engine, stored, tmp_path / "O", RunConfig()).rows == 10


def test_albums_get_one_answer_and_go_on_where_they_stopped(engine: Engine, tmp_path: Path) -> None:
    source = features(tmp_path / "F", [10, 10], bad={3})
    names = [f"p{row % 7}" for row in range(20)]
    lines = [f"{name},{'' if row == 19 else row // 4}" for row, name in enumerate(names)]
    (tmp_path / "trips.csv").write_text("\n".join(["photo,trip", *lines]) + "\n")
    albums = albums_of_table(tmp_path / "trips.csv", "trip")

    def go(out: Path) -> pa.Table:
        run_here(engine, StoredVectors(engine, open_features(source), shard_rows=7), out, RunConfig(), albums=albums)
        return pyarrow.parquet.read_table(out)

    whole = go(tmp_path / "O")
    assert whole["row"].to_pylist() == list(range(20))
    assert whole["n_photos"].to_pylist() == [3, 3, 3, None] + [4] * 12 + [3] * 3 + [1]
    assert whole["key"].to_pylist()[4] == whole["key"].to_pylist()[7]
    later = tmp_path / "later"
    shutil.copytree(tmp_path / "O", later)
    for name in ("part-00001.parquet", ROWS_MANIFEST, "_done/00001.json"):
        (later / name).unlink()
    kept = (later / "part-00000.parquet").stat().st_mtime_ns
    assert go(later).equals(whole)
    assert (later / "part-00000.parquet").stat().st_mtime_ns == kept
    with pytest.raises(InputError, match="album"):
        answers(engine, source, tmp_path / "O")
