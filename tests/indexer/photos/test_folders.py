"""Folders of photos: what is in them, and the places that their files say."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags

from indexer.errors import InputError
from indexer.photos import folders, metadata
from indexer.photos.folders import count_images, folder_photos, folder_places, located_photos
from indexer.photos.photo import FileRange
from indexer.photos.sources import open_photos, read_coordinates, read_photos
from indexer.photos.tables import read_columns, table_digest
from tests.photo_files import LAT, LNG, comment, exif, jpeg, located, with_segments


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Four photos with places, of EXIF, a comment and a name; and three without: none, 0, 0, and no image."""
    zero = {ExifTags.GPS.GPSLatitude: (0, 0, 0), ExifTags.GPS.GPSLongitude: (0, 0, 0)}
    files = {
        "a.jpg": located(LAT, LNG),
        "below/b.jpg": located(-33.8569, -151.2153),
        "c.jpg": with_segments(jpeg(), comment("latitude: 1.5\nlongitude: -2.5")),
        "d_10.1234_20.1234.jpg": jpeg(),
        "e.jpg": jpeg(),
        "f.jpg": with_segments(jpeg(), exif(gps=zero)),
        "g.jpg": b"no image",
        "notes.txt": b"",
        ".hidden.jpg": located(5, 5),
    }
    for name, content in files.items():
        (tmp_path / "P" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "P" / name).write_bytes(content)
    return tmp_path / "P"


NAMES = ["a.jpg", "below/b.jpg", "c.jpg", "d_10.1234_20.1234.jpg"]
PLACES = [(LAT, LNG), (-33.8569, -151.2153), (1.5, -2.5), (10.1234, 20.1234)]


def test_photos_say_where_they_were_taken_and_the_others_are_counted(
    album: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        places = folder_places(str(album))
    assert list(places.photo) == NAMES
    np.testing.assert_allclose(np.transpose([places.lat_deg, places.lng_deg]), PLACES, atol=1e-7)
    (told,) = [record.message for record in caplog.records if "have a place" in record.message]
    assert "4 of 7 photos have a place (2 by exif_gps, 1 by comment, 1 by file_name)" in told
    assert "2 say nothing (such as e.jpg)" in told
    assert "1 say 0, 0, as cameras do that know no place (such as f.jpg)" in told
    assert "not those of images: 1 hidden, 1 .txt" in caplog.text


def test_every_way_to_read_a_table_reads_a_folder_too(album: Path) -> None:
    places = folder_places(str(album))
    whole, source = read_photos(album, coordinates=True), open_photos(album, coordinates=True)
    assert (list(whole.photo), source.n_photos, source.digest) == (NAMES, 4, places.digest)
    photos = list(source)
    assert [photo.name for photo in photos] == NAMES
    assert photos[1].data == FileRange(str(album / "below/b.jpg"))
    table = read_columns(album, ["photo", "lat", "lng"])
    assert table["photo"].to_pylist() == NAMES
    for lat, lng in (
        (whole.lat_deg, whole.lng_deg),
        read_coordinates(album),
        (table["lat"].to_numpy(), table["lng"].to_numpy()),
        np.transpose([(photo.lat_deg, photo.lng_deg) for photo in photos]),
    ):
        np.testing.assert_array_equal(lat, places.lat_deg)
        np.testing.assert_array_equal(lng, places.lng_deg)
    with pytest.raises(InputError, match="no column 'split'; it has photo, lat, lng"):
        read_columns(album, ["photo"], split="test")
    with pytest.raises(InputError, match="a folder has no splits"):
        read_photos(album, split="test", coordinates=True)


def test_names_are_those_that_photos_are_embedded_under(album: Path) -> None:
    assert {photo.name for photo in located_photos(str(album))} < {photo.name for photo in open_photos(album)}
    assert all(np.isnan(photo.lat_deg) for photo in open_photos(album))  # of photos that are only to be decoded


def test_none_with_a_place_is_an_error_with_an_example(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(jpeg())
    with pytest.raises(InputError, match=r"none of its 2 photos says .*: 2 say nothing \(such as a\.jpg\)"):
        folder_places(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no image below"):
        folder_places(str(tmp_path / "empty"))
    with pytest.raises(InputError, match="on this machine only"):
        folder_places("s3://bucket/photos")


def test_files_are_read_again_only_where_one_changed(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, find = list[str](), metadata.findings_in

    def noted(name: str, *given: object, **options: object) -> object:
        read.append(name)
        return find(name, *given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(metadata, "findings_in", noted)
    folders._read_places.cache_clear()
    first = table_digest(album)
    assert (table_digest(album), len(read)) == (first, 7)
    (album / "a.jpg").write_bytes(located(1, 2))
    assert (table_digest(album) != first, len(read)) == (True, 14)
    (album / "a.jpg").unlink()
    assert len(read_photos(album, coordinates=True)) == 3


def test_what_is_no_file_is_left_out_and_never_waited_for(album: Path) -> None:
    os.mkfifo(album / "pipe.jpg")
    (album / "gone.jpg").symlink_to(album / "absent")
    assert list(folder_places(str(album)).photo) == NAMES
    assert count_images(str(album)) == len(list(folder_photos(str(album)))) == 9
