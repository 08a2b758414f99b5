"""Answers for people: found by any spelling of a photo's name, and exported with a row for every photo."""

import csv
import json
import shutil
from pathlib import Path

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from indexer.errors import InputError
from indexer.vectors.features import FeatureBatch, open_features
from search.answers.engine import Engine
from search.runs.local_run import run_here
from search.runs.lookup import answers_to, export_answers, export_target
from search.runs.run_spec import RunConfig
from search.runs.vectors import StoredVectors
from tests.conftest import unit_rows, write_features
from tests.search.conftest import WIDTH

NAMES = ["in/a.jpg", "in/b.jpg", "other/b.jpg", 'it\'s=1,"c".png', "in/broken.jpg", "s3://bucket/é.jpeg"]


@pytest.fixture(scope="module")
def predictions(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lookup")
    vectors, nowhere = unit_rows(len(NAMES), WIDTH, seed=0), np.full(len(NAMES), np.nan)
    status = ["truncated" if "broken" in name else "ok" for name in NAMES]
    reason = ["ends early" if "broken" in name else "" for name in NAMES]
    vectors[4] = 0
    source = write_features(
        folder / "F", FeatureBatch(NAMES, vectors, status, reason, nowhere, nowhere), encoder="e" * 64
    )
    run_here(engine, StoredVectors(engine, open_features(source), shard_rows=2), folder / "O", RunConfig(top_k=2))
    return folder / "O"


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("in/b.jpg", [1]),
        ("b.jpg", [1, 2]),
        ("b", [1, 2]),
        ("somewhere/a.jpg", [0]),
        ('it\'s=1,"c".png', [3]),
        ("é", [5]),
        ("broken", [4]),
    ],
)
def test_a_photo_is_found_however_it_is_called(predictions: Path, name: str, rows: list[int]) -> None:
    assert [answer["row"] for answer in answers_to(predictions, name)] == rows


@pytest.mark.parametrize("name", ["", "jpg", "in/", "A.jpg", "%"])
def test_nobody_is_nobody(predictions: Path, name: str) -> None:
    with pytest.raises(InputError, match="no row of a photo"):
        answers_to(predictions, name)


def test_csv_has_every_photo_in_order_and_every_column(predictions: Path, tmp_path: Path) -> None:
    assert export_answers(predictions, tmp_path / "o.csv") == len(NAMES)
    with (tmp_path / "o.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    written = pyarrow.parquet.read_table(predictions).schema
    assert sorted(rows[0]) == sorted(field.name for field in written if not pa.types.is_list(field.type))
    assert [row["photo"] for row in rows] == NAMES
    assert [row["row"] for row in rows] == [str(number) for number in range(len(NAMES))]
    assert (rows[4]["lat"], rows[4]["status"], rows[4]["reason"]) == ("", "truncated", "ends early")
    answers = {answer["row"]: answer for name in NAMES for answer in answers_to(predictions, name)}
    assert all(int(row["s2_id"]) == answers[int(row["row"])]["s2_id"] for row in rows if row["lat"])


def test_a_job_of_before_there_were_galleries_is_exported_as_it_is(predictions: Path, tmp_path: Path) -> None:
    shutil.copytree(predictions, tmp_path / "old")
    for part in (tmp_path / "old").glob("part-*.parquet"):
        table = pyarrow.parquet.read_table(part)
        pyarrow.parquet.write_table(table.drop_columns(["point_key", "evidence"]), part)
    assert export_answers(tmp_path / "old", tmp_path / "old.csv") == len(NAMES)
    export_answers(predictions, tmp_path / "new.csv")
    old, new = (list(csv.DictReader((tmp_path / f"{name}.csv").read_text().splitlines())) for name in ("old", "new"))
    assert old == [{name: row[name] for name in row if name not in ("point_key", "evidence")} for row in new]


@pytest.mark.parametrize("suffix", [".geojson", ".parquet"])
def test_maps_get_points_where_the_answers_are(predictions: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"o{suffix}"
    assert export_answers(predictions, out) == len(NAMES)
    frame = geopandas.read_file(out) if suffix == ".geojson" else geopandas.read_parquet(out)
    assert frame["photo"].tolist() == NAMES
    for number, point in enumerate(frame.geometry):
        if number == 4:
            assert point is None
            continue
        assert point.x == pytest.approx(frame["lng"][number], abs=1e-8)
        assert point.y == pytest.approx(frame["lat"][number], abs=1e-8)
    if suffix == ".geojson":
        assert json.loads(out.read_text())["features"][4]["geometry"] is None


def test_what_cannot_be_exported_is_refused_before_anything_is_read(predictions: Path, tmp_path: Path) -> None:
    (tmp_path / "there.csv").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        export_answers(predictions, tmp_path / "there.csv")
    with pytest.raises(InputError, match="no such folder"):
        export_answers(tmp_path / "none", tmp_path / "o.csv")
    with pytest.raises(InputError, match="no predictions"):
        answers_to(tmp_path, "a.jpg")
    with pytest.raises(InputError, match="these are no predictions"):
        answers_to(predictions.parent / "F", "a.jpg")
    assert (tmp_path / "there.csv").read_text() == "mine"


def test_the_format_is_said_once(tmp_path: Path) -> None:
    assert export_target(tmp_path / "O", None, "geojson") == tmp_path / "O.geojson"
    assert export_target(tmp_path / "O", tmp_path / "a.PARQUET", None) == tmp_path / "a.PARQUET"
    assert export_target(tmp_path / "O", tmp_path / "a.csv", "csv") == tmp_path / "a.csv"
    for out, kind, message in (
        (None, None, "Give `format`"),
        (tmp_path / "a.txt", None, "must end in"),
        (tmp_path / "a.csv", "geojson", r"must end in \.geojson"),
    ):
        with pytest.raises(InputError, match=message):
            export_target(tmp_path / "O", out, kind)
