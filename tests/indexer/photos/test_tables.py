"""Tables as people have them: text stays text, and a fault is named by the row the file has it in."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from indexer.errors import InputError
from indexer.photos.tables import (
    IMAGES,
    ROW,
    contents_of,
    coordinates_of,
    names_of,
    open_table,
    read_columns,
    standard_names,
)
from indexer.photos.uris import masked
from tests.web import served


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
    parts = list(open_table(tmp_path / "a.parquet").scan(["lat", "lng"]))
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


PHOTOS = [b"first", None, b"third"]
LAYOUTS = {
    "image": {"image": PHOTOS},
    "bytes": {"bytes": PHOTOS},
    "jpg": {"jpg": PHOTOS, "key": ["k0", None, ""]},
    "photo": {"photo": PHOTOS, "path": ["p0", "p1", "p2"]},
    "struct": {
        "image": [{"bytes": b"first", "path": "s0"}, {"bytes": None, "path": None}, {"bytes": b"third", "path": ""}]
    },
}
NAMES = {
    "image": ["0", "1", "2"],
    "bytes": ["0", "1", "2"],
    "jpg": ["k0", "1", "2"],
    "photo": ["p0", "p1", "p2"],
    "struct": ["s0", "1", "2"],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_photos_inside_a_table_have_names_of_another_column_or_their_rows(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pa.table({**LAYOUTS[layout], "split": ["a", "b", "a"]}), path)
    assert open_table(path).has(IMAGES)
    table = read_columns(path, ["photo"], optional=(IMAGES,))
    assert names_of(table, path) == NAMES[layout]
    assert list(contents_of(table, IMAGES, path)) == PHOTOS
    alone = read_columns(path, ["photo"], split="a")
    assert IMAGES not in alone.column_names
    assert names_of(alone, path) == [NAMES[layout][0], NAMES[layout][2]]


def test_an_image_column_of_names_is_a_column_of_names(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pa.table({"image": ["a.jpg"], "key": ["k"]}), tmp_path / "a.parquet")
    assert not open_table(tmp_path / "a.parquet").has(IMAGES)
    table = read_columns(tmp_path / "a.parquet", ["photo"], optional=(IMAGES,))
    assert (names_of(table, tmp_path), IMAGES in table.column_names) == (["a.jpg"], False)


def test_photos_inside_a_table_are_held_a_few_at_a_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    # Numbers of one row group that would all be held at once by Arrow's dataset; pages are of 1 MB.
    table = pa.table({"image": [{"bytes": rng.bytes(20_000), "path": f"{row}.jpg"} for row in range(3000)]})
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(table, path, row_group_size=3000, use_dictionary=False, write_batch_size=64)
    size = table.nbytes
    del table
    for wanted, share in (((IMAGES,), 0.1), ((), 0.01)):
        pool = pa.default_memory_pool()
        before, most = pool.bytes_allocated(), 0
        for batch in open_table(path).scan(["photo"], optional=wanted):
            assert not wanted or batch.num_rows <= 64
            most = max(most, pool.bytes_allocated() - before)
        assert most < share * size


def test_counting_rows_reads_no_column(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pa.table({"photo": ["a"] * 5}), tmp_path / "a.parquet")
    assert open_table(tmp_path / "a.parquet").n_rows == 5
    assert open_table(csv(tmp_path / "a.csv", "photo,split\na,x\n")).n_rows is None
    for path, count in ((tmp_path / "a.parquet", 5), (tmp_path / "a.csv", 1)):
        assert sum(table.num_rows for table in open_table(path).scan([])) == count
    with pytest.raises(InputError, match="no column 'split'"):
        open_table(tmp_path / "a.parquet").columns(["photo"], split="x")


def test_columns_whose_names_repeat_or_have_dots_are_read(tmp_path: Path) -> None:
    twice = pa.table([pa.array(["a"]), pa.array(["b"]), pa.array([{"city": "c"}])], names=["photo", "photo", "geo"])
    pyarrow.parquet.write_table(twice.append_column("geo.city", pa.array(["d"])), tmp_path / "a.parquet")
    table = read_columns(tmp_path / "a.parquet", ["photo", "geo.city"])
    assert (table["photo"].to_pylist(), table["geo.city"].to_pylist()) == (["a"], ["d"])


def test_credentials_in_names_are_masked_and_in_locations_kept(tmp_path: Path) -> None:
    uris = ["https://u:S3CRET@h/a.jpg", "https://h/a?X-Amz-Signature=S3CRET&w=2", "plain.jpg"]
    table = pa.table({"photo": uris})
    shown = ["https://***@h/a.jpg", "https://h/a?X-Amz-Signature=***&w=2", "plain.jpg"]
    assert names_of(table, tmp_path) == shown == [masked(uri) for uri in uris]
    assert list(contents_of(table, "photo", tmp_path)) == uris


def test_tables_at_uris_are_read_like_files_and_named_without_credentials(tmp_path: Path) -> None:
    table = pa.table({"photo": ["a", "b"], "lat": [1.0, 95.0], "lng": [0.0, 0.0], "split": ["x", "y"]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    pa.csv.write_csv(table, tmp_path / "a.csv")
    files = {f"/{name}": (tmp_path / name).read_bytes() for name in ("a.parquet", "a.csv")} | {
        "/b.csv": b"",
        "/b.parquet": b"x",
    }
    with served(files=files, status={"/c.csv": 403}) as web:
        for name in ("a.parquet", "a.csv"):
            uri = f"{web.root}/{name}?token=S3CRET"
            assert read_columns(uri, ["photo"], split="y")["photo"].to_pylist() == ["b"]
            with pytest.raises(InputError, match=rf"{name}\?token=\*\*\*: lat is 95\.0 in row 1"):
                coordinates_of(read_columns(uri, ["lat", "lng"]), uri)
        for name, message in {
            "absent.csv": "no such file",
            "b.csv": "cannot be read as csv",
            "b.parquet": "cannot be read as parquet",
            "c.csv": r"cannot be read \(403",
        }.items():
            with pytest.raises(InputError, match=message) as caught:
                read_columns(f"{web.root}/{name}?token=S3CRET", ["photo"])
            assert "S3CRET" not in str(caught.value)
    with pytest.raises(InputError, match=r"token=\*\*\*: cannot be read") as caught:
        read_columns(f"{web.root}/a.csv?token=S3CRET", ["photo"])  # the server is gone


PLACED = [
    "@0448251.80@5411943.79@31@U@48.8584@2.2945@a@@@@@@@@.jpg",
    "@0448251.80@5411943.79@31@U@@@b@@@@@@@@.jpg",
    "beach.jpg",
]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_names_say_places_where_no_column_does(tmp_path: Path, suffix: str) -> None:
    table, path = pa.table({"photo": PLACED, "split": ["a", "b", "a"]}), tmp_path / f"a.{suffix}"
    (pa.csv.write_csv if suffix == "csv" else pyarrow.parquet.write_table)(table, path)
    read = read_columns(path, ["photo"], optional=("lat", "lng"))
    lat, lng = coordinates_of(read, path)
    np.testing.assert_allclose(lat, [48.8584, 48.8584, np.nan], atol=1e-4)
    np.testing.assert_allclose(lng, [2.2945, 2.2945, np.nan], atol=1e-4)
    assert names_of(read, path) == PLACED
    alone = read_columns(path, ["lat", "lng"], split="b")
    assert set(alone.column_names) == {"lat", "lng", "split", ROW}
    np.testing.assert_allclose(coordinates_of(alone, path, required=True), [[48.8584], [2.2945]], atol=1e-4)
    with pytest.raises(InputError, match="in row 2"):
        coordinates_of(read_columns(path, ["lat", "lng"]), path, required=True)


def test_columns_of_coordinates_count_more_than_names(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", f"photo,lat,lng\n{PLACED[0]},1,2\n{PLACED[1]},,\n")
    lat, lng = coordinates_of(read_columns(path, ["photo"], optional=("lat", "lng")), path)
    np.testing.assert_array_equal([lat, lng], [[1, np.nan], [2, np.nan]])
    half = csv(tmp_path / "b.csv", f"photo,lat\n{PLACED[0]},1\n")
    with pytest.raises(InputError, match="no column 'lng'"):
        read_columns(half, ["lat", "lng"])
    other = csv(tmp_path / "c.csv", f"photo\nbeach.jpg\n{PLACED[0]}\n")
    with pytest.raises(InputError, match="no column 'lat' or 'lng'"):
        read_columns(other, ["lat", "lng"])
