"""Photo tables as people have them, and the errors for what is not one."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from indexer.errors import InputError
from indexer.photos import read_coordinates, read_photos


def parquet(file: Path, /, **columns: list) -> Path:
    pyarrow.parquet.write_table(pa.table(columns), file)
    return file


def csv(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_parquet_and_csv_read_alike(tmp_path: Path) -> None:
    a = read_photos(parquet(tmp_path / "a.parquet", photo=["x.jpg", "y.jpg"], lat=[1.5, -2.0], lng=[3.0, 180.0]))
    b = read_photos(csv(tmp_path / "b.csv", "photo,lat,lng\nx.jpg,1.5,3\ny.jpg,-2,180\n"))
    for table in (a, b):
        assert list(table.photo) == ["x.jpg", "y.jpg"]
        assert table.lat_deg.tolist() == [1.5, -2.0]
        assert table.path(1) == tmp_path / "y.jpg"


def test_mp16s_own_column_names_are_understood(tmp_path: Path) -> None:
    table = read_photos(csv(tmp_path / "m.csv", "IMG_ID,LAT,LON\n01/ab.jpg,10,20\n"), coordinates=True)
    assert list(table.photo) == ["01/ab.jpg"]
    lat, lng = read_coordinates(tmp_path / "m.csv")
    assert (lat.tolist(), lng.tolist()) == ([10.0], [20.0])


def test_standard_names_win_over_aliases(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", photo=["p"], path=["q"], lat=[1.0], latitude=[2.0], lng=[3.0])
    table = read_photos(path)
    assert list(table.photo) == ["p"]
    assert table.lat_deg.tolist() == [1.0]


def test_split_keeps_only_its_rows(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "a.parquet", photo=["a", "b", "c"], lat=[1.0, 2.0, 3.0], lng=[0.0] * 3, split=["t", "v", "t"]
    )
    assert list(read_photos(path, split="t").photo) == ["a", "c"]
    with pytest.raises(InputError, match="no row of split 'x'"):
        read_photos(path, split="x")


def test_numbers_for_names_become_text(tmp_path: Path) -> None:
    assert list(read_photos(csv(tmp_path / "n.csv", "photo\n17\n18\n")).photo) == ["17", "18"]


def test_rows_without_a_name_keep_their_place(tmp_path: Path) -> None:
    path = parquet(tmp_path / "n.parquet", photo=["a", None, "c"])
    assert list(read_photos(path).photo) == ["a", "", "c"]


def test_names_that_are_no_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="photo must hold names"):
        read_photos(parquet(tmp_path / "n.parquet", photo=[[1, 2]]))


def test_a_missing_split_has_its_own_advice(tmp_path: Path) -> None:
    path = parquet(tmp_path / "n.parquet", photo=["a"], lat=[1.0], lng=[2.0])
    with pytest.raises(InputError, match=r"no column 'split'.*Add one that says 'train'"):
        read_photos(path, split="train")


def test_a_folder_lists_its_images_sorted(tmp_path: Path) -> None:
    for name in ("b/2.PNG", "a.jpg", "b/1.jpeg", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    table = read_photos(tmp_path)
    assert list(table.photo) == ["a.jpg", "b/1.jpeg", "b/2.PNG"]
    assert np.isnan(table.lat_deg).all()
    with pytest.raises(InputError, match="has no coordinates"):
        read_photos(tmp_path, coordinates=True)


def test_unknown_coordinates_are_nan_unless_needed(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", "photo,lat,lng\na,1,2\nb,,\n")
    lat = read_photos(path).lat_deg
    assert np.isnan(lat).tolist() == [False, True]
    with pytest.raises(InputError, match="lat is nan in row 1"):
        read_photos(path, coordinates=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("photo,lat\na,1\n", "no column 'lng'; it has photo, lat"),
        ("lat,lng\n1,2\n", "no column 'photo'"),
        ("photo,lat,lng\n", "no row"),
        ("", "cannot be read as csv"),
        ("photo,lat,lng\na,95,0\n", "lat is 95.0 in row 0"),
        ("photo,lat,lng\na,1,181\n", "lng is 181.0 in row 0"),
        ("photo,lat,lng\na,north,0\n", "must be numbers"),
        ("photo,lat,lng\na,1,2,3\n", "Expected 3 columns, got 4"),
        ("photo,lat,lng\na,2024-01-01,0\n", "must be numbers"),
    ],
)
def test_bad_tables_say_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_photos(csv(tmp_path / "bad.csv", text), coordinates=True)


def test_what_is_no_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no such file"):
        read_photos(tmp_path / "absent.csv")
    with pytest.raises(InputError, match=r"must be a \.parquet or \.csv"):
        read_photos(csv(tmp_path / "a.xlsx", "x"))
    with pytest.raises(InputError, match="cannot be read as parquet"):
        read_photos(csv(tmp_path / "a.parquet", "this is not parquet"))
    with pytest.raises(InputError, match="no image below"):
        read_photos(tmp_path / "empty")
