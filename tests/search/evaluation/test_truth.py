"""The benchmarks' truth, in every layout: all of them must come to the same photos and places."""

import json
import logging
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from indexer.errors import InputError
from indexer.photos.sources import PhotoTable
from search.evaluation.truth import beside_truth, has_column, read_truth, texts_in, write_photos

# Three of IM2GPS's places; the first longitude cannot be a latitude.
PHOTOS = [
    ("104123223_7410c654ba_19_19355699@N00.jpg", -16.663606, 145.563537),
    ("b.jpg", 42.3, -71.1),
    ("c.jpg", 37, 25),
]
ISN = "AUTHOR,{},S3_Label,S16_Label,S365_Label,Prob_indoor,Prob_natural,Prob_urban"
YFCC = ["7", "{}", *["x"] * 10, "{}", "{}", *["x"] * 9]


def isn(lat: str, lng: str) -> str:
    lines = [f"{photo},x@N00,{a},{b},1,8,150,0.1,0.7,0.2" for photo, a, b in PHOTOS]
    return "\n".join([f"IMG_ID,{ISN.format(f'{lat},{lng}')}", *lines]) + "\n"


def plain(header: str, *, suffix: bool = True) -> str:
    rows = ((photo if suffix else photo.removesuffix(".jpg"), lat, lng) for photo, lat, lng in PHOTOS)
    return "\n".join([header, *(f"{photo},{lat},{lng}" for photo, lat, lng in rows)]) + "\n"


def comments() -> str:
    lines = {
        photo: ["photo: 1 2 3", "owner: x", f"latitude: {lat}", f"longitude: {lng}", "accuracy: 16", "views: 3"]
        for photo, lat, lng in PHOTOS
    }
    return json.dumps({**lines, "unknown.jpg": []})


def yfcc() -> str:
    line = "\t".join(YFCC)
    return "".join(f"{line.format(photo.removesuffix('.jpg'), lng, lat)}\n" for photo, lat, lng in PHOTOS)


def jsonl() -> str:
    rows = ({"ID": photo.removesuffix(".jpg"), "LAT": lat, "LON": str(lng)} for photo, lat, lng in PHOTOS)
    return "\n".join(map(json.dumps, rows)) + "\n\n"


LAYOUTS = [
    ("im2gps", "im2gps_places365.csv", isn("LAT", "LON")),
    ("im2gps3k", "im2gps3k_places365.csv", isn("LON", "LAT")),  # the early tables' header
    ("yfcc26k", "yfcc25600_places365.csv", isn("LAT", "LON")),
    ("yfcc4k", "yfcc4k_aug.csv", plain("image,lat,lng")),
    ("gws15k", "gws15k.csv", plain("IMG_FILE,LAT,LON")),
    ("gws15k", "meta.jsonl", jsonl()),
    ("osv5m", "test.csv", plain("id,latitude,longitude", suffix=False)),
    ("im2gps3k", "info.json", comments()),
    ("yfcc4k", "info.txt", yfcc()),
    ("im2gps", "any.csv", plain("photo,lat,lng")),
]


@pytest.mark.parametrize(("benchmark", "name", "content"), LAYOUTS, ids=[f"{b}-{n}" for b, n, _ in LAYOUTS])
def test_every_layout_comes_to_the_same(benchmark: str, name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    for source in (tmp_path / name, tmp_path) if name != "any.csv" else (tmp_path / name,):
        photos = read_truth(source, benchmark=benchmark)  # type: ignore[arg-type]
        assert list(photos.photo) == [photo for photo, _, _ in PHOTOS]
        np.testing.assert_allclose(photos.lat_deg, [lat for _, lat, _ in PHOTOS])
        np.testing.assert_allclose(photos.lng_deg, [lng for _, _, lng in PHOTOS])


def test_a_swap_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "t.csv").write_text(isn("LON", "LAT"))
    with caplog.at_level(logging.WARNING):
        read_truth(tmp_path / "t.csv", benchmark="im2gps")
    assert "1 of 3 latitudes are beyond the poles" in caplog.text
    assert "They were swapped" in caplog.text
    assert "3 photos; the published set of im2gps has 237" in caplog.text


def test_what_is_possible_is_never_swapped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "t.csv").write_text("photo,lat,lng\na,10,20\nb,-80,80\n")
    with caplog.at_level(logging.WARNING):
        photos = read_truth(tmp_path / "t.csv", benchmark="gws15k")
    assert (photos.lat_deg.tolist(), caplog.text) == ([10, -80], "")


@pytest.mark.parametrize("row", ["b,95,100", "b,200,0", "b,95,"])
def test_what_is_impossible_both_ways_is_refused(row: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"photo,lat,lng\na,10,20\n{row}\n")
    with pytest.raises(InputError, match="row 1"):
        read_truth(tmp_path / "t.csv", benchmark="gws15k")


def test_tables_of_no_benchmark_are_never_swapped(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("photo,lat,lng\na,95,20\n")
    with pytest.raises(InputError, match="lat is 95"):
        read_truth(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("info.json", "[]", "it holds a list"),
        ("info.json", "{", "is not JSON"),
        ("info.json", '{"a.jpg": ["longitude: 1"]}', "no line 'latitude: number'"),
        ("info.json", '{"a.jpg": ["latitude: north", "longitude: 1"]}', "is no coordinate"),
        ("info.json", "{}", "no photo"),
        ("info.txt", "1\t2\t3\n", "line 0 .* has 3 columns"),
        ("meta.jsonl", '{"ID": 1}\n', "no object with ID, LAT and LON"),
        ("meta.jsonl", "7\n", "no object with ID, LAT and LON"),
        ("t.csv", "name,x,y\na,1,2\n", "no column 'photo'"),
        ("absent.csv", None, "no such file"),
    ],
)
def test_what_cannot_be_read_is_explained(name: str, content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_truth(tmp_path / name, benchmark="gws15k")


def test_a_column_is_read_in_the_order_of_the_photos(tmp_path: Path) -> None:
    lines = ["img_file,lat,lon,split,who", "a.jpg,1,2,x,7", "b.jpg,3,4,y,8", "c.jpg,5,6,x,"]
    (tmp_path / "gws15k.csv").write_text("\n".join(lines) + "\n")
    for benchmark, source in ((None, tmp_path / "gws15k.csv"), ("gws15k", tmp_path)):
        assert texts_in(source, "who", benchmark=benchmark).to_pylist() == ["7", "8", None]  # type: ignore[arg-type]
        assert texts_in(source, "who", benchmark=benchmark, split="x").to_pylist() == ["7", None]  # type: ignore[arg-type]
        assert has_column(source, "who", benchmark=benchmark)  # type: ignore[arg-type]
        assert not has_column(source, "whose", benchmark=benchmark)  # type: ignore[arg-type]
    (tmp_path / "meta.jsonl").write_text(jsonl())
    assert not has_column(tmp_path / "meta.jsonl", "ID", benchmark="gws15k")
    with pytest.raises(InputError, match="has no columns"):
        texts_in(tmp_path / "meta.jsonl", "ID", benchmark="gws15k")


def test_a_folder_without_truth_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"looked for test\.csv, test/test\.csv"):
        read_truth(tmp_path, benchmark="osv5m")


def test_photos_are_found_in_the_folders_people_have(tmp_path: Path) -> None:
    photos = PhotoTable(["a.jpg", "b.jpg"], np.array([1.0, 2]), np.array([3.0, 4]))
    with pytest.raises(InputError, match="none of its 2 photos"):
        beside_truth(photos, tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "b.jpg").touch()
    found = beside_truth(photos, tmp_path / "t.csv")
    assert list(found.photo) == [str(tmp_path / "images" / name) for name in photos.photo]
    table = pyarrow.parquet.read_table(write_photos(found, tmp_path / "photos.parquet"))
    assert table.to_pydict() == {"photo": list(found.photo), "lat": [1, 2], "lng": [3, 4]}
