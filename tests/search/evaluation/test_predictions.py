"""Predictions in the layouts people have."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from indexer.errors import InputError
from search.evaluation.predictions import read_predictions


def test_columns_that_others_write(tmp_path: Path) -> None:
    published = tmp_path / "base.csv"
    published.write_text(
        "img_id,gt_lat,predicted_lat,gt_long,predicted_long,great_circle_distance\na.jpg,1,2,3,4,5\nb.jpg,5,,6,,\n"
    )
    inference = tmp_path / "inference.csv"
    inference.write_text("img_id,p_key,pred_class,pred_lat,pred_lng\na.jpg,coarse,7,2,4\n")
    for file in (published, inference):
        answers = read_predictions(file)
        assert answers.photo[0] == "a.jpg"
        assert (answers.lat_deg[0], answers.lng_deg[0]) == (2, 4)
        assert answers.cells is None
    assert np.isnan(read_predictions(published).lat_deg).tolist() == [False, True]


def test_cells_come_along_where_answers_list_them(tmp_path: Path) -> None:
    folder = tmp_path / "O"
    folder.mkdir()
    columns = {"row": [1, 0], "photo": ["b", "a"], "lat": [None, 1.0], "lng": [None, 2.0]}
    cells = pa.array([None, [3, 5]], pa.list_(pa.uint64()))
    pyarrow.parquet.write_table(pa.table({**columns, "top_s2_id": cells}), folder / "part-00000.parquet")
    answers = read_predictions(folder)
    assert list(answers.photo) == ["a", "b"]
    assert answers.cells is not None
    assert answers.cells.to_pylist() == [[3, 5], None]


def test_cells_that_are_labels_have_no_area(tmp_path: Path) -> None:
    folder = tmp_path / "O"
    folder.mkdir()
    columns = {"row": [0], "photo": ["a"], "lat": [1.0], "lng": [2.0]}
    cells = pa.array([[None, None]], pa.list_(pa.uint64()))
    pyarrow.parquet.write_table(pa.table({**columns, "top_s2_id": cells}), folder / "part-00000.parquet")
    assert read_predictions(folder).cells is None


@pytest.mark.parametrize(
    ("album", "asked", "expected"),
    [
        ([4, 4, 0], True, [4, 0, 4]),
        ([4, None, 0], True, None),  # shards of before answers said it are among them
        (None, True, None),
        ([4, 4, 0], False, None),  # of a job that asked no albums it is not ours
    ],
)
def test_answers_say_which_photos_were_asked_together(
    tmp_path: Path, album: list[int | None] | None, asked: bool, expected: list[int] | None
) -> None:
    folder = tmp_path / "O"
    folder.mkdir()
    columns = {"row": [0, 2, 1], "photo": ["a", "c", "b"], "lat": [1.0, 2, 3], "lng": [1.0, 2, 3]}
    table = pa.table(columns if album is None else {**columns, "album": pa.array(album, pa.int64())})
    pyarrow.parquet.write_table(table, folder / "part-00000.parquet")
    options = {"album": "trip"} if asked else {}
    job = {"kind": "predictions", "schema_version": 1, "options": options, "inputs": {}}
    (folder / "_job.json").write_text(json.dumps(job))
    (folder / "_manifest.json").write_text("{}")
    answers = read_predictions(folder)
    assert answers.album == ("trip" if asked else None)
    assert (None if answers.albums is None else answers.albums.tolist()) == expected


def test_half_a_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("photo,lat,lng\na,1,\n")
    with pytest.raises(InputError, match="half a place"):
        read_predictions(tmp_path / "p.csv")
