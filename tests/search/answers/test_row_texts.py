"""Columns of texts beside photos: from tables and from vectors, of the very photos that are answered."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from indexer.disk.manifest import file_digest
from indexer.errors import InputError
from indexer.vectors.features import open_features
from search.answers.row_texts import texts_of_features, texts_of_table
from tests.conftest import unit_rows

NAMES = [f"{row}.jpg" for row in range(6)]
WHOSE = ["ann", None, "", "ben", "ann", "7"]


def test_texts_come_from_tables_and_from_features(tmp_path: Path) -> None:
    table = tmp_path / "photos.parquet"
    pa.parquet.write_table(pa.table({"photo": NAMES, "split": list("xyxyxy"), "Who": WHOSE}), table)
    whole = texts_of_table(table, "who")
    assert (whole.text.to_pylist(), list(whole.photo), len(whole)) == (WHOSE, NAMES, 6)
    assert whole.digest == file_digest(table)
    assert texts_of_table(table, "who", split="y").text.to_pylist() == [None, "ben", "7"]
    vectors, folder = unit_rows(6, 4, seed=0), tmp_path / "F"
    folder.mkdir()
    for number, part in enumerate((slice(0, 4), slice(4, 6))):
        shard = {"photo": NAMES[part], "who": WHOSE[part], "embedding": vectors[part].tolist()}
        pa.parquet.write_table(pa.table(shard), folder / f"{number}.parquet")
    own = texts_of_features(open_features(folder), "who")
    assert (own.text.to_pylist(), list(own.photo), own.digest) == (WHOSE, NAMES, None)
    np.save(tmp_path / "v.npy", vectors)
    lines = [f"{name},{who or ''}" for name, who in zip(NAMES, WHOSE, strict=True)]
    (tmp_path / "v.csv").write_text("\n".join(["photo,who", *lines]) + "\n")
    beside = texts_of_features(open_features(tmp_path / "v.npy"), "who")
    assert [text or None for text in beside.text.to_pylist()] == [text or None for text in WHOSE]
    with pytest.raises(InputError, match=r"no column 'whose'; it has photo, split, Who"):
        texts_of_table(table, "whose")


def test_numbers_are_texts_and_large_files_of_photos_have_no_digest(tmp_path: Path) -> None:
    images = tmp_path / "images.parquet"
    pa.parquet.write_table(pa.table({"image": [b"one", b"two"], "key": ["a", "b"], "who": [7, None]}), images)
    texts = texts_of_table(images, "who")
    assert (texts.text.to_pylist(), list(texts.photo), texts.digest) == (["7", None], ["a", "b"], None)


def test_photos_are_found_by_name(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("photo,who\na,x\nb,y\nc,z\n")
    texts = texts_of_table(tmp_path / "t.csv", "who")
    assert texts.places(["c", "a"], 0).tolist() == [2, 0]
    assert texts.places(["b"], 7).tolist() == [1]
    assert texts.places([], 0).tolist() == []
    with pytest.raises(InputError, match=r"t\.csv: has no row for d, which is answered"):
        texts.places(["c", "d"], 2)


def test_where_names_repeat_other_photos_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("photo,who\na,x\na,y\nc,z\n")
    texts = texts_of_table(tmp_path / "t.csv", "who")
    assert texts.places(["a", "a"], 0).tolist() == [0, 1]
    assert texts.places(["c"], 2).tolist() == [2]
    for photos, row in ((["c"], 0), (["c", "d"], 2), (["d"], 3)):
        with pytest.raises(InputError, match=f"not those that are answered, from row {row} on"):
            texts.places(photos, row)
