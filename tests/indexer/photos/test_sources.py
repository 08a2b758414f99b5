"""Photos from wherever they are: tables, folders and what is neither, streamed and as a whole."""

import math
import os
import pickle
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from indexer.disk.manifest import file_digest
from indexer.errors import InputError
from indexer.photos.photo import FileRange, Photo
from indexer.photos.sources import listed_photos, open_photos, read_coordinates, read_photos
from indexer.photos.uris import SCHEMES

ANYWHERE = (*SCHEMES, "memory")


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
    with pytest.raises(InputError, match="none of its 3 photos says in its metadata or its name where it was taken"):
        read_photos(tmp_path, coordinates=True)


def test_names_of_images_may_say_their_places(tmp_path: Path) -> None:
    for name in ("@0448251.80@5411943.79@31@U@48.8584@2.2945@@.jpg", "a.jpg"):
        (tmp_path / name).write_bytes(b"")
    table = read_photos(tmp_path)
    np.testing.assert_array_equal(table.lat_deg, [48.8584, np.nan])
    np.testing.assert_array_equal(table.lng_deg, [2.2945, np.nan])


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


def same(one: list[Photo], other: list[Photo]) -> bool:
    """Equal, where two unknown coordinates are equal too."""
    return list(map(repr, one)) == list(map(repr, other))


def test_a_table_is_streamed_as_it_is_read_whole(tmp_path: Path) -> None:
    columns = {"photo": ["a.jpg", None, "../b.jpg", "/c.jpg", "s3://b/d.jpg"], "lat": [1.0, 2.0, 3.0, 4.0, None]}
    columns |= {"lng": [0.0] * 5, "split": list("xxyxx")}
    (tmp_path / "t").mkdir()
    path = parquet(tmp_path / "t" / "a.parquet", **columns)
    pa.csv.write_csv(pa.table(columns), path.with_suffix(".csv"))
    for source in (path, path.with_suffix(".csv"), str(path), path.as_uri()):
        opened, whole = open_photos(source, split="x"), read_photos(source, split="x")
        photos = list(opened)
        assert opened.n_photos == len(photos) == len(whole) == 4
        assert [p.name for p in photos] == list(whole.photo) == ["a.jpg", "", "/c.jpg", "s3://b/d.jpg"]
        places = [f"{tmp_path}/t/a.jpg", None, "/c.jpg", "s3://b/d.jpg"]
        assert [p.data for p in photos] == [place and FileRange(place) for place in places]
        np.testing.assert_array_equal([p.lat_deg for p in photos], whole.lat_deg)
        assert same(photos, list(opened))
        assert same(photos, list(pickle.loads(pickle.dumps(opened))))
    assert open_photos(path).digest == file_digest(path)
    assert next(iter(open_photos(path, split="y"))).data == FileRange(f"{tmp_path}/t/../b.jpg")


def test_faults_of_a_table_on_this_machine_are_found_before_the_first_photo(tmp_path: Path) -> None:
    for text, options, message in [
        ("photo,lat,lng\na,1,2\nb,95,2\n", {}, "lat is 95.0 in row 1"),
        ("photo,lat,lng\na,1,2\nb,,\n", {"coordinates": True}, "lat is nan in row 1"),
        ("photo,lat,lng\na,1,2\n", {"split": "x"}, "no column 'split'"),
        ("photo,split\na,y\n", {"split": "x"}, "no row of split 'x'"),
        ("photo\n", {}, "no row"),
        ("name,lat,lng\na,1,2\n", {}, "no column 'photo'"),
        ("photo\na\n", {"coordinates": True}, "no column 'lat' or 'lng'"),
    ]:
        with pytest.raises(InputError, match=message):
            open_photos(csv(tmp_path / "a.csv", text), **options)


def test_photos_inside_a_table_come_with_their_maps(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "a.parquet",
        image=[{"bytes": b"one", "path": "1.jpg"}, {"bytes": None, "path": "2.jpg"}, None],
        map=["1.png", None, "/m/3.png"],
        lat=[1.0, 2.0, 3.0],
        lng=[0.0] * 3,
    )
    opened = open_photos(path, coordinates=True)
    assert (opened.n_photos, opened.digest) == (3, None)
    photos = list(opened)
    assert [p.name for p in photos] == ["1.jpg", "2.jpg", "2"]
    assert [p.data for p in photos] == [b"one", FileRange(f"{tmp_path}/2.jpg"), None]
    assert [p.class_map for p in photos] == [FileRange(f"{tmp_path}/1.png"), None, FileRange("/m/3.png")]
    whole = read_photos(path)
    assert (list(whole.photo), whole.lat_deg.tolist()) == (["1.jpg", "2.jpg", "2"], [1.0, 2.0, 3.0])
    maps = parquet(tmp_path / "b.parquet", photo=["a.jpg"], map=[b"png"])
    assert [(p.data, p.class_map) for p in open_photos(maps)] == [(FileRange(f"{tmp_path}/a.jpg"), b"png")]


def test_what_is_left_out_of_a_folder_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.JPG", "b.jfif", "c.mpo", "d.heic", "e.heic", "f", "g.xmp"):
        (tmp_path / name).touch()
    assert [photo.name for photo in open_photos(tmp_path)] == ["a.JPG", "b.jfif", "c.mpo"]
    assert "left out, because their names are not those of images: 2 .heic, 1 without a suffix, 1 .xmp" in caplog.text


def test_hidden_files_are_no_photos(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.jpg", "._a.jpg", "sub/.b.png", "sub/b.png", ".trash/c.jpg", "sub/.old/more/d.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    opened = open_photos(tmp_path)
    assert (opened.n_photos, [photo.name for photo in opened]) == (2, ["a.jpg", "sub/b.png"])
    assert "4 hidden" in caplog.text


def test_hidden_files_are_no_shards(tmp_path: Path) -> None:
    for name in ("._0000.tar", "a.jpg"):
        (tmp_path / name).touch()
    assert [photo.name for photo in open_photos(tmp_path)] == ["a.jpg"]
    (tmp_path / "a.jpg").unlink()
    (tmp_path / "b.jpg").touch()
    with tarfile.open(tmp_path / "0000.tar", "w") as tar:
        tar.add(tmp_path / "b.jpg", "b.jpg")
    (tmp_path / "b.jpg").unlink()
    assert [photo.name for photo in open_photos(tmp_path)] == ["0000.tar/b.jpg"]


def test_a_folder_is_streamed_in_the_order_of_its_names(tmp_path: Path) -> None:
    for name in ("b/2.PNG", "a.jpg", "b.jpg", "b/1.jpeg", "notes.txt", os.fsdecode(b"caf\xe9.jpg")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    opened = open_photos(tmp_path)
    assert opened.n_photos == 5
    photos = list(opened)
    assert [p.name for p in photos] == ["a.jpg", "b.jpg", "b/1.jpeg", "b/2.PNG", "caf\\xe9.jpg"]
    for photo in photos:
        assert isinstance(photo.data, FileRange)
        assert Path(photo.data.uri).is_file()
        assert math.isnan(photo.lat_deg)
    whole = read_photos(tmp_path)
    assert list(whole.photo) == [p.name for p in photos]
    assert "caf" in pickle.loads(pickle.dumps(photos[4])).data.uri


def test_paths_are_absolute_wherever_workers_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").touch()
    csv(tmp_path / "in" / "a.csv", "photo\na.jpg\n")
    monkeypatch.chdir(tmp_path)
    for source in ("in", "in/a.csv", "./in/"):
        assert [p.data for p in open_photos(source)] == [FileRange(str(tmp_path / "in" / "a.jpg"))]


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[str]:
    system = fsspec.filesystem("memory")
    table = parquet(tmp_path / "a.parquet", photo=["p/1.jpg", "../up.jpg", "/etc/passwd"], lat=[1.0] * 3, lng=[2.0] * 3)
    system.pipe_file("/photos/t/a.parquet", table.read_bytes())
    system.pipe_file("/photos/t/a.csv", b"photo,split\np/1.jpg,x\n")
    for name in ("b.jpg", "a/2.png", "a.jpg"):
        system.pipe_file(f"/photos/in/{name}", name.encode())
    system.pipe_file("/photos/none/a.txt", b"")
    yield "memory://photos"
    system.rm("/photos", recursive=True)


def test_tables_and_folders_in_a_bucket(bucket: str) -> None:
    opened = open_photos(f"{bucket}/t/a.parquet", coordinates=True, schemes=ANYWHERE)
    assert (opened.location, opened.n_photos, opened.digest) == (f"{bucket}/t/a.parquet", 3, None)
    assert [p.data for p in opened] == [
        FileRange(f"{bucket}/{name}") for name in ("t/p/1.jpg", "up.jpg", "etc/passwd")
    ]  # nothing leads out of the bucket
    whole = read_photos(f"{bucket}/t/a.parquet", schemes=ANYWHERE)
    assert list(whole.photo) == [p.name for p in opened]
    assert open_photos(f"{bucket}/t/a.csv", schemes=ANYWHERE).n_photos is None
    for folder in (f"{bucket}/in", f"{bucket}/in/"):
        images = open_photos(folder, schemes=ANYWHERE)
        assert images.n_photos is None
        assert [(p.name, p.data) for p in images] == [
            (name, FileRange(f"{bucket}/in/{name}")) for name in ("a.jpg", "a/2.png", "b.jpg")
        ]
    with pytest.raises(InputError, match="no image below this folder"):
        list(open_photos(f"{bucket}/none", schemes=ANYWHERE))
    with pytest.raises(InputError, match="no such file"):
        open_photos(f"{bucket}/absent", schemes=ANYWHERE)
    with pytest.raises(InputError, match="images are given as the folder they are in"):
        open_photos(f"{bucket}/in/a.jpg", schemes=ANYWHERE)


@pytest.mark.parametrize("source", ["http://h/a.csv", "memory://a", "simplecache::s3://b/a.csv", "s3://b::file:///x"])
def test_sources_that_may_not_be_read_are_refused(source: str) -> None:
    for read in (open_photos, read_photos):
        with pytest.raises(InputError, match=r"not allowed|chained"):
            read(source)


def test_credentials_of_a_table_are_used_and_never_shown(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", "photo\nhttps://u:S3CRET@h/a.jpg\nhttps://h/b.jpg?sig=S3CRET\n")
    photos, whole = list(open_photos(path)), read_photos(path)
    assert [p.data.uri for p in photos if isinstance(p.data, FileRange)] == [
        "https://u:S3CRET@h/a.jpg",
        "https://h/b.jpg?sig=S3CRET",
    ]
    assert "S3CRET" not in repr(photos)
    assert "S3CRET" not in "".join(whole.photo)
    listed = listed_photos(["https://u:S3CRET@h/a.jpg", "b.jpg", ""])
    assert [p.name for p in listed] == ["https://***@h/a.jpg", "b.jpg", ""]
    assert [p.data for p in listed] == [photos[0].data, FileRange("b.jpg"), None]


def test_files_whose_names_look_like_uris_are_files(tmp_path: Path) -> None:
    assert len(read_photos(csv(tmp_path / "a::b:c.csv", "photo\nx::y:z.jpg\n"))) == 1
    (photo,) = open_photos(tmp_path / "a::b:c.csv")
    assert photo.data == FileRange(f"{tmp_path}/x::y:z.jpg")


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_no_more_than_a_part_of_a_long_table_is_held_however_slow_its_reader(tmp_path: Path, suffix: str) -> None:
    n = 400_000
    names = pa.array([f"some/folder/of/photos/{row:09d}.jpg" for row in range(n)])
    table = pa.table({"photo": names, "lat": np.zeros(n), "lng": np.zeros(n)})
    (pa.csv.write_csv if suffix == "csv" else pyarrow.parquet.write_table)(table, tmp_path / f"a.{suffix}")
    size = table.nbytes
    del table, names
    photos, before, most = iter(open_photos(tmp_path / f"a.{suffix}")), pa.total_allocated_bytes(), 0
    for _ in range(4):
        for _ in range(10_000):
            next(photos)
        time.sleep(0.1)
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 0.4 * size


def test_other_photos_are_told_by_their_digest_or_by_the_sizes_of_what_holds_them(tmp_path: Path) -> None:
    """A digest of terabytes is not made. A folder that is moved holds the same photos."""
    table = csv(tmp_path / "a.csv", "photo,lat,lng\nx.jpg,1.5,3\n")
    assert open_photos(table).identity == file_digest(table)
    for folder, size in (("one", 10), ("moved", 10), ("other", 30)):
        (tmp_path / folder).mkdir()
        with tarfile.open(tmp_path / folder / "00.tar", "w") as tar:
            (tmp_path / "x.jpg").write_bytes(b"x" * size * 1024)
            tar.add(tmp_path / "x.jpg", "x.jpg")
    one, moved, other = (open_photos(tmp_path / name / "*.tar").identity for name in ("one", "moved", "other"))
    assert one == moved != other
    assert one is not None
    held = [parquet(tmp_path / f"{n}.parquet", photo=["x"], image=[b"y" * n]) for n in (1, 5000)]
    first, second = (open_photos(file).identity for file in held)
    assert None is not first != second
    assert open_photos(tmp_path / "one" / "..").identity is None  # of a folder of single files
