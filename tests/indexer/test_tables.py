"""Tables as people have them: text stays text, and a fault is named by the row the file has it in."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from indexer.errors import InputError
from indexer.tables import ROW, coordinates_of, names_of, read_columns, scan_columns, standard_names


def csv(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_names_in_a_csv_are_text_whatever_they_look_like(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", "photo,split\n0001,1\n1.10,0\n2024-01-01,1\nNA,1\n")
    table = read_columns(path, ["photo"], split="1")
    assert names_of(table, path) == ["0001", "2024-01-01", "NA"]
    many = csv(tmp_path / "b.csv", "photo\n" + "\n".join(map(str, range(200_000))) + "\na.jpg\n")
    assert names_of(read_columns(many, ["photo"]), many)[-1] == "a.jpg"


def test_splits_that_are_numbers_can_be_asked_for(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pa.table({"photo": list("abc"), "split": [0, 1, 0]}), tmp_path / "a.parquet")
    assert read_columns(tmp_path / "a.parquet", ["photo"], split="0")["photo"].to_pylist() == ["a", "c"]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_bad_row_is_named_as_the_file_counts_it(tmp_path: Path, suffix: str) -> None:
    table = pa.table({"lat": [0.0] * 260 + [95.0, 0.0], "lng": [0.0] * 262, "split": ["train"] * 250 + ["test"] * 12})
    path = tmp_path / f"a.{suffix}"
    (pa.csv.write_csv if suffix == "csv" else pyarrow.parquet.write_table)(table, path)
    with pytest.raises(InputError, match=r"lat is 95\.0 in row 260 \(counted from 0\)"):
        coordinates_of(read_columns(path, ["lat", "lng"], split="test"), path)


def test_a_place_off_the_earth_is_refused_though_places_are_not_needed(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", "photo,lat,lng\na,,\nb,91,0\n")
    with pytest.raises(InputError, match=r"lat is 91\.0 in row 1"):
        coordinates_of(read_columns(path, ["photo"], optional=("lat", "lng")), path)


def test_batches_are_the_table(tmp_path: Path) -> None:
    n = 300_000
    pyarrow.parquet.write_table(pa.table({"LAT": np.arange(n) % 90, "LON": np.zeros(n)}), tmp_path / "a.parquet")
    parts = list(scan_columns(tmp_path / "a.parquet", ["lat", "lng"]))
    assert len(parts) > 1
    whole = pa.concat_tables(parts)
    assert whole[ROW].to_pylist() == list(range(n))
    assert whole["lat"].to_pylist() == (np.arange(n) % 90).tolist()


def test_other_peoples_names_are_understood() -> None:
    table = standard_names(pa.table({"IMG_ID": ["a"], "LON": [1.0], "embedding": [[1.0]]}))
    assert table.column_names == ["photo", "lng", "embedding"]


def test_columns_that_are_missing_are_named_with_what_is_there(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", "country,lat,lng\nFR,1,2\n")
    with pytest.raises(InputError, match=r"no column 'city'; it has country, lat, lng. Name the columns as they are"):
        read_columns(path, ["country", "city"])
