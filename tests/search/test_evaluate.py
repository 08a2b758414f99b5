"""Evaluation: joins that cannot mix photos up, misses that count, tables from anyone."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from indexer.errors import InputError
from indexer.geo import haversine_km
from search.evaluate import evaluate


def csv(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


TRUTH = "photo,lat,lng\na,0,0\nb,10,10\nc,0,179.9\n"


def test_distances_and_shares_by_hand(tmp_path: Path) -> None:
    truth = csv(tmp_path / "t.csv", TRUTH)
    result = evaluate(csv(tmp_path / "p.csv", "photo,lat,lng\nc,0,-179.9\nb,11,10\na,0,0\n"), truth)
    expected = haversine_km(
        np.array([0, 10, 0]), np.array([0, 10, 179.9]), np.array([0, 11, 0]), np.array([0, 10, -179.9])
    )
    np.testing.assert_allclose(result.distance_km, expected)
    assert result.accuracy.n == 3
    assert result.accuracy.within["1"] == pytest.approx(100 / 3)
    assert result.accuracy.within["25"] == pytest.approx(200 / 3)
    assert result.accuracy.within["200"] == pytest.approx(100)
    assert result.answered == result.accuracy


def test_photos_without_an_answer_are_misses(tmp_path: Path) -> None:
    truth = csv(tmp_path / "t.csv", TRUTH)
    result = evaluate(csv(tmp_path / "p.csv", "photo,lat,lng\na,0,0\nb,,\n"), truth)
    assert np.isnan(result.distance_km).tolist() == [False, True, True]
    assert result.accuracy.within["2500"] == pytest.approx(100 / 3)
    assert result.accuracy.median_km > 20_000
    assert result.answered is not None
    assert (result.answered.n, result.answered.within["1"]) == (1, 100)


def test_names_may_repeat_when_both_tables_are_the_same(tmp_path: Path) -> None:
    text = "photo,lat,lng\na,0,0\na,10,10\n"
    assert evaluate(csv(tmp_path / "p.csv", text), csv(tmp_path / "t.csv", text)).accuracy.within["1"] == 100
    with pytest.raises(InputError, match="'a' stands 2 times"):
        evaluate(csv(tmp_path / "p.csv", text), csv(tmp_path / "t2.csv", "photo,lat,lng\na,0,0\n"))
    with pytest.raises(InputError, match="'a' stands 2 times"):
        evaluate(csv(tmp_path / "p2.csv", "photo,lat,lng\na,0,0\n"), csv(tmp_path / "t.csv", text))


def test_a_folder_of_shards_is_read_in_row_order(tmp_path: Path) -> None:
    (tmp_path / "O").mkdir()
    for shard, rows in enumerate(([2], [0, 1])):
        columns = {"row": rows, "photo": ["abc"[r] for r in rows], "lat": [[0.0, 10, 0][r] for r in rows]}
        pyarrow.parquet.write_table(
            pa.table({**columns, "lng": [[0.0, 10, 179.9][r] for r in rows]}), tmp_path / "O" / f"part-{shard}.parquet"
        )
    (tmp_path / "O" / "_manifest.json").write_text("{}")
    assert evaluate(tmp_path / "O", csv(tmp_path / "t.csv", TRUTH)).accuracy.median_km == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("photo,lat,lng\na,95,0\n", "lat is 95.0 in row 0"),
        ("photo,lat,lng\na,1,\n", "half a place"),
        ("photo,lat\na,1\n", "no column 'lng'"),
        ("photo,lat,lng\nx,1,1\n", "None of the 1 photos"),
    ],
)
def test_predictions_that_make_no_sense_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(csv(tmp_path / "p.csv", text), csv(tmp_path / "t.csv", TRUTH))


def test_folders_that_hold_no_predictions(tmp_path: Path) -> None:
    truth = csv(tmp_path / "t.csv", TRUTH)
    (tmp_path / "O").mkdir()
    with pytest.raises(InputError, match="O"):
        evaluate(tmp_path / "O", truth)
    with pytest.raises(InputError, match="no such file"):
        evaluate(tmp_path / "absent", truth)
