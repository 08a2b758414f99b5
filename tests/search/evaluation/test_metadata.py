"""What files say of places: every hiding place is found, ordinary files are left alone, and no model sees any of it."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags

from encoder.bad_images import BadImage
from encoder.config import FeedOptions, Resizing
from encoder.embedding import embed_photos
from encoder.encode import PhotoEncoder
from encoder.photos.photo_reader import PhotoReader
from indexer.photos.photo import Photo
from search.evaluation.metadata import coordinates_in, findings_in
from tests.encoder.conftest import tiny_encoder
from tests.search.photo_files import (
    LAT,
    LNG,
    XMP_GPS,
    XMP_PLACE,
    comment,
    exif,
    iptc,
    jpeg,
    png,
    with_segments,
    xmp,
)

IM2GPS_COMMENT = "photo: 67787391 c0ab1b285d 25\nowner: x\ntitle: y\nlatitude: 48.8584\nlongitude: 2.2945\naccuracy: 16"
LEAKS = {
    "exif_gps": exif(gps=True),
    "exif_text": exif(texts={ExifTags.Base.ImageDescription: "at 48.8584, 2.2945 in May"}),
    "comment": comment(IM2GPS_COMMENT),
    "xmp": xmp(XMP_GPS),
}


@pytest.mark.parametrize("where", LEAKS)
def test_coordinates_are_found_wherever_they_hide(where: str) -> None:
    (finding,) = findings_in("a.jpg", with_segments(jpeg(), LEAKS[where]))
    assert finding.where == where
    assert (finding.lat_deg, finding.lng_deg) == pytest.approx((LAT, LNG), abs=1e-4)


@pytest.mark.parametrize(
    "note", [b"ASCII\0\0\0latitude=48.8584 longitude=2.2945", b"UNICODE\0" + "48.8584,2.2945".encode("utf-16-be")]
)
def test_user_comments_in_their_encodings(note: bytes) -> None:
    (finding,) = findings_in("a.jpg", with_segments(jpeg(), exif(note=note)))
    assert finding.where == "exif_text"
    assert finding.lat_deg == LAT


def test_names_of_places_are_found_too() -> None:
    data = with_segments(jpeg(), xmp(XMP_PLACE), iptc((90, "Paris"), (101, "France"), (120, "a caption")))
    found = [(finding.where, finding.text) for finding in findings_in("a.jpg", data)]
    assert found == [
        ("xmp", "photoshop:City: Paris &amp; so on"),
        ("xmp", "Iptc4xmpExt:CountryName: France"),
        ("iptc", "city: Paris"),
        ("iptc", "country: France"),
    ]
    assert all(np.isnan(finding.lat_deg) for finding in findings_in("a.jpg", data))


def test_the_first_of_several_comments_counts_too() -> None:
    data = with_segments(jpeg(), comment(IM2GPS_COMMENT), comment("made with care"))
    assert [finding.where for finding in findings_in("a.jpg", data)] == ["comment"]


def test_text_behind_the_pixels_of_a_png() -> None:
    assert [finding.where for finding in findings_in("a.png", png(Place="lat 48.85 lon 2.29", Title="a tower"))] == [
        "comment"
    ]


def test_file_names_and_folders_with_coordinates() -> None:
    (finding,) = findings_in("48.8584_2.2945/0001.jpg", jpeg())
    assert (finding.where, finding.lat_deg, finding.lng_deg) == ("file_name", LAT, LNG)


@pytest.mark.parametrize(
    "name", ["IMG_20240101_120000.jpg", "104123223_7410c654ba_19_19355699@N00.jpg", "0/12.50-13.75.png"]
)
def test_ordinary_files_give_nothing_away(name: str) -> None:
    data = with_segments(jpeg(), comment("CREATOR: gd-jpeg v1.0, quality = 85"), exif(texts={0x010F: "Camera 12.345"}))
    assert findings_in(name, data) == []


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("48.8584, 2.2945", (LAT, LNG)),
        ("-33.8613_151.2090.jpg", (-33.8613, 151.209)),
        ("lat=48.85&lng=2.29", (48.85, 2.29)),
        ("latitude: -33.86\nlongitude: 151.2", (-33.86, 151.2)),
        ("48°51'30.24\"N 2°17'40.2\"E", (LAT, LNG)),
        ("33.5 S, 70.25 W", (-33.5, -70.25)),
        ("N48.8584 E2.2945", (LAT, LNG)),
        ("@48.8584,2.2945,17z", (LAT, LNG)),
        ("12.50, 13.75 euros", None),
        ("95.1234, 20.1234", None),  # off the Earth
        ("12 N 5 E", None),
        ("flat 20 along 30", None),
        ("", None),
    ],
)
def test_texts(text: str, place: tuple[float, float] | None) -> None:
    found = coordinates_in(text)
    assert found is None if place is None else found == pytest.approx(place)


@given(st.floats(-90, 90), st.floats(-180, 180), st.sampled_from([", ", "_", ";", " "]))
def test_any_place_written_out_is_read_back(lat: float, lng: float, between: str) -> None:
    found = coordinates_in(f"x {lat:.5f}{between}{lng:.5f} y")
    assert found == pytest.approx((round(lat, 5), round(lng, 5)))


@given(st.text(max_size=200))
def test_any_text_is_harmless(text: str) -> None:
    place = coordinates_in(text)
    assert place is None or (abs(place[0]) <= 90 and abs(place[1]) <= 180)


@given(st.binary(max_size=80), st.integers(0, 60))
def test_damaged_metadata_is_no_crash(noise: bytes, at: int) -> None:
    data = bytearray(with_segments(jpeg(), *LEAKS.values()))
    data[at : at + len(noise)] = noise
    with contextlib.suppress(BadImage):  # nothing else may come out
        findings_in("a.jpg", bytes(data))


def test_what_is_no_image_says_so() -> None:
    with pytest.raises(BadImage, match="not_an_image"):
        findings_in("a.jpg", b"text")
    with pytest.raises(BadImage, match="too_large"):
        findings_in("a.jpg", jpeg(), max_pixels=10)


def test_the_encoder_sees_pixels_and_nothing_else(tmp_path: Path) -> None:
    """Vectors of a photo are the same bits with every kind of metadata, under any name, and without."""
    from encoder.models.checkpoint import load_encoder, save_checkpoint
    from indexer.vectors.features import joined

    torch.manual_seed(0)
    save_checkpoint(tmp_path / "C", encoder=tiny_encoder(), geocells=None, config={}, inputs={})
    loaded = load_encoder(str(tmp_path / "C"))
    plain = jpeg()
    both = exif(gps=True, note=b"ASCII\0\0\0latitude=48.8584 longitude=2.2945")
    rich = with_segments(plain, both, LEAKS["comment"], LEAKS["xmp"], iptc((90, "Paris")))
    assert {finding.where for finding in findings_in("48.8584,2.2945.jpg", rich)} == {*LEAKS, "iptc", "file_name"}
    read = PhotoReader(Resizing(32))
    one, other = (read(Photo("a", data, np.nan, np.nan)) for data in (plain, rich))
    np.testing.assert_array_equal(one.pixels, other.pixels)  # type: ignore[union-attr]
    photos = [Photo("a.jpg", plain, np.nan, np.nan), Photo("48.8584,2.2945.jpg", rich, LAT, LNG)]
    encode = PhotoEncoder(loaded, crops="ten")
    batch = joined(list(embed_photos(encode, photos, feed=FeedOptions(workers=0, batch_size=10), shard_rows=1)))
    assert batch.ok.all()
    np.testing.assert_array_equal(batch.embedding[0], batch.embedding[1])
