"""What files say of places: every hiding place is found, ordinary files are left alone, and no model sees any of it."""

import contextlib
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

from encoder.config import FeedOptions, Resizing
from encoder.embedding import embed_photos
from encoder.encode import PhotoEncoder
from encoder.photos.photo_reader import PhotoReader
from indexer.errors import BadImage
from indexer.photos.metadata import findings_in, in_name, is_nowhere, place_of
from indexer.photos.photo import Photo
from tests.encoder.conftest import tiny_encoder
from tests.photo_files import (
    LAT,
    LNG,
    XMP_GPS,
    XMP_HEAD,
    XMP_PLACE,
    comment,
    exif,
    iptc,
    jpeg,
    picture,
    png,
    with_segments,
    xmp,
)

MOST = 1_000_000  # pixels
IM2GPS_COMMENT = "photo: 67787391 c0ab1b285d 25\nowner: x\ntitle: y\nlatitude: 48.8584\nlongitude: 2.2945\naccuracy: 16"
LEAKS = {
    "exif_gps": exif(gps=True),
    "exif_text": exif(texts={ExifTags.Base.ImageDescription: "at 48.8584, 2.2945 in May"}),
    "comment": comment(IM2GPS_COMMENT),
    "xmp": xmp(XMP_GPS),
}


@pytest.mark.parametrize("where", LEAKS)
def test_coordinates_are_found_wherever_they_hide(where: str) -> None:
    (finding,) = findings_in("a.jpg", with_segments(jpeg(), LEAKS[where]), max_pixels=MOST)
    assert finding.where == where
    assert (finding.lat_deg, finding.lng_deg) == pytest.approx((LAT, LNG), abs=1e-4)


@pytest.mark.parametrize(
    "note", [b"ASCII\0\0\0latitude=48.8584 longitude=2.2945", b"UNICODE\0" + "48.8584,2.2945".encode("utf-16-be")]
)
def test_user_comments_in_their_encodings(note: bytes) -> None:
    (finding,) = findings_in("a.jpg", with_segments(jpeg(), exif(note=note)), max_pixels=MOST)
    assert finding.where == "exif_text"
    assert finding.lat_deg == LAT


def test_names_of_places_are_found_too() -> None:
    data = with_segments(jpeg(), xmp(XMP_PLACE), iptc((90, "Paris"), (101, "France"), (120, "a caption")))
    found = [(finding.where, finding.text) for finding in findings_in("a.jpg", data, max_pixels=MOST)]
    assert found == [
        ("xmp", "photoshop:City: Paris &amp; so on"),
        ("xmp", "Iptc4xmpExt:CountryName: France"),
        ("iptc", "city: Paris"),
        ("iptc", "country: France"),
    ]
    assert all(np.isnan(finding.lat_deg) for finding in findings_in("a.jpg", data, max_pixels=MOST))


def test_the_first_of_several_comments_counts_too() -> None:
    data = with_segments(jpeg(), comment(IM2GPS_COMMENT), comment("made with care"))
    assert [finding.where for finding in findings_in("a.jpg", data, max_pixels=MOST)] == ["comment"]


def test_text_behind_the_pixels_of_a_png() -> None:
    data = png(Place="lat 48.85 lon 2.29", Title="a tower")
    assert [finding.where for finding in findings_in("a.png", data, max_pixels=MOST)] == ["comment"]


def test_file_names_and_folders_with_coordinates() -> None:
    (finding,) = findings_in("48.8584_2.2945/0001.jpg", jpeg(), max_pixels=MOST)
    assert (finding.where, finding.lat_deg, finding.lng_deg) == ("file_name", LAT, LNG)


def test_names_of_datasets_are_read_by_their_own_rule() -> None:
    (finding,) = in_name("in/@0448251.00@5411932.00@31@U@48.8584@2.2945@@.jpg")
    assert (finding.where, finding.lat_deg, finding.lng_deg) == ("file_name", LAT, LNG)
    (finding,) = in_name("@0448251.00@5411932.00@31@U@@@.jpg")
    assert (finding.lat_deg, finding.lng_deg) == (pytest.approx(LAT, abs=0.01), pytest.approx(LNG, abs=0.01))


@pytest.mark.parametrize(
    "name", ["IMG_20240101_120000.jpg", "104123223_7410c654ba_19_19355699@N00.jpg", "0/12.50-13.75.png"]
)
def test_ordinary_files_give_nothing_away(name: str) -> None:
    data = with_segments(jpeg(), comment("CREATOR: gd-jpeg v1.0, quality = 85"), exif(texts={0x010F: "Camera 12.345"}))
    assert findings_in(name, data, max_pixels=MOST) == []


def gps_texts(lat: str, lng: str, *, at: int = 26) -> tuple[int, bytes]:
    """EXIF whose tags of GPS are texts, which Pillow does not write. at: where its directory is said to be."""
    texts = [text.encode() + b"\0" for text in ("N", lat, "E", lng)]
    entries, data = struct.pack(">H", 4), b""
    for tag, text in enumerate(texts, 1):
        place = struct.pack(">I", 80 + len(data)) if len(text) > 4 else text.ljust(4, b"\0")
        entries += struct.pack(">HHI", tag, 2, len(text)) + place
        data += text if len(text) > 4 else b""
    first = struct.pack(">HHHIII", 1, 0x8825, 4, 1, at, 0)
    return 0xE1, b"Exif\0\0MM\0*" + struct.pack(">I", 8) + first + entries + struct.pack(">I", 0) + data


DEGREE = (IFDRational(33, 1), IFDRational(51, 1), IFDRational(2488, 100))


def gps(lat: object, lng: object, lat_ref: object = "N", lng_ref: object = "E") -> bytes:
    tags = {1: lat_ref, 2: lat, 3: lng_ref, 4: lng}
    return with_segments(jpeg(), exif(gps={tag: value for tag, value in tags.items() if value is not None}))


def rationals(value: float, form: str) -> object:
    """The same angle as a tag may hold it, to a hundredth of a second."""
    value = abs(value)
    minutes = (value - int(value)) * 60
    seconds = IFDRational(round((minutes - int(minutes)) * 6000), 100)
    return {
        "three": (int(value), int(minutes), seconds),
        "scaled": (IFDRational(int(value) * 10, 10), IFDRational(int(minutes) * 100, 100), seconds),
        "seconds 0/0": (int(value), IFDRational(round(minutes * 10**6), 10**6), IFDRational(0, 0)),
        "two": (int(value), IFDRational(round(minutes * 10**6), 10**6)),
        "one": (IFDRational(round(value * 10**6), 10**6),),
        "one and zeros": (IFDRational(round(value * 10**6), 10**6), 0, 0),
    }[form]


FORMS = ["three", "scaled", "seconds 0/0", "two", "one", "one and zeros"]
REFERENCES = [str, str.lower, lambda ref: f" {ref}", lambda ref: {"N": "North", "S": "South"}.get(ref, ref)]


@settings(max_examples=60, deadline=None)
@given(
    st.floats(-90, 90),
    st.floats(-180, 180),
    st.sampled_from(FORMS),
    st.sampled_from(FORMS),
    st.sampled_from(REFERENCES),
)
def test_a_place_is_read_back_from_every_form_of_the_tags(
    lat: float, lng: float, one: str, other: str, spelled: Callable[[str], str]
) -> None:
    refs = spelled("S" if lat < 0 else "N"), spelled("W" if lng < 0 else "E")
    (finding,) = findings_in("a.jpg", gps(rationals(lat, one), rationals(lng, other), *refs), max_pixels=MOST)
    assert (finding.where, finding.lat_deg, finding.lng_deg) == ("exif_gps", *map(near, (lat, lng)))


def near(degrees: float) -> object:
    return pytest.approx(degrees, abs=2e-6)


def test_tags_without_a_reference_are_north_and_east() -> None:
    (finding,) = findings_in("a.jpg", gps(DEGREE, DEGREE, None, None), max_pixels=MOST)
    assert (finding.lat_deg, finding.lng_deg) == (near(33.856911), near(33.856911))


def test_tags_that_say_nothing_are_no_finding() -> None:
    nothing = (IFDRational(0, 0),) * 3
    for data in (gps(nothing, nothing), gps(None, None), with_segments(jpeg(), exif(gps={5: b"\0", 6: 35.0}))):
        assert findings_in("a.jpg", data, max_pixels=MOST) == []  # the last has an altitude


@pytest.mark.parametrize(
    ("lat", "lng"),
    [("48.8584", "2.2945"), ("48,8584", "2,2945"), ("48 deg 51.504'", "2:17:40.2"), ("48.8584N", "2.2945E")],
)
def test_tags_that_hold_text_are_read_too(lat: str, lng: str) -> None:
    (finding,) = findings_in("a.jpg", with_segments(jpeg(), gps_texts(lat, lng)), max_pixels=MOST)
    assert (finding.where, finding.lat_deg, finding.lng_deg) == ("exif_gps", near(LAT), near(LNG))
    (finding,) = findings_in("a.jpg", with_segments(jpeg(), gps_texts("north", lng)), max_pixels=MOST)
    assert finding.text == f"not understood: north, {lng}"


@pytest.mark.parametrize("lat", [(33, 75, 0), (95, 0, 0)])
def test_tags_that_cannot_be_understood_are_told_all_the_same(lat: object) -> None:
    (finding,) = findings_in("a.jpg", gps(lat, DEGREE), max_pixels=MOST)
    assert finding.where == "exif_gps"
    assert finding.text.startswith("not understood: ")
    assert place_of([finding]) is None


@pytest.mark.parametrize(
    "gps_tags",
    [
        'exif:GPSLatitude="48,51.504N" exif:GPSLongitude="2,17.67E"',
        "exif:GPSLatitude = '48,51,30.24N'\n exif:GPSLongitude = '2,17,40.2E'",
        'exif:GPSLatitude="48.8584N" exif:GPSLongitude="2.2945E"',
        'exif:GPSLatitude="48,8584N" exif:GPSLongitude="2,2945E"',
        'exif:GPSLatitude="48/1,51/1,3024/100" exif:GPSLatitudeRef="N" exif:GPSLongitude="2/1,1767/100,0/0"',
        'exif:GPSLatitude="48&#176;51&apos;30.24&quot;N" exif:GPSLongitude="2&#176;17&apos;40.2&quot;E"',
        'drone-dji:GpsLatitude="+48.8584000" drone-dji:GpsLongitude="+2.2945000" drone-dji:AbsoluteAltitude="+120.1"',
        'drone-dji:Latitude="48.8584000" drone-dji:Longtitude="2.2945000"',
    ],
)
def test_xmp_in_every_spelling(gps_tags: str) -> None:
    pretty = re.sub(r"\s*([\w:-]+)\s*=\s*[\"']([^\"']*)[\"']", r"\n  <\1>\n    \2\n  </\1>", gps_tags)
    for text in (f"{XMP_HEAD}{gps_tags}/></rdf:RDF>", f"{XMP_HEAD}>{pretty}\n</rdf:Description></rdf:RDF>"):
        (finding,) = findings_in("a.jpg", with_segments(jpeg(), xmp(text)), max_pixels=MOST)
        assert (finding.where, finding.lat_deg, finding.lng_deg) == ("xmp", near(LAT), near(LNG)), text


def test_xmp_of_the_south_and_west() -> None:
    text = f'{XMP_HEAD}exif:GPSLatitude="33,51.414S" exif:GPSLongitude="70.25" exif:GPSLongitudeRef="W"/>'
    (finding,) = findings_in("a.jpg", with_segments(jpeg(), xmp(text)), max_pixels=MOST)
    assert (finding.lat_deg, finding.lng_deg) == (near(-33.8569), near(-70.25))


def test_captions_and_keywords_may_spell_a_place() -> None:
    keywords = iptc((25, "geo:lat=48.8584"), (25, "geo:lon=2.2945"), (120, "N48°51.504' E2°17.670'"))
    found = findings_in("a.jpg", with_segments(jpeg(), keywords), max_pixels=MOST)
    assert [(each.where, each.lat_deg, each.lng_deg) for each in found] == [("iptc", near(LAT), near(LNG))] * 2
    subject = (
        "><dc:subject><rdf:Bag><rdf:li>geo:lat=48.8584</rdf:li><rdf:li>geo:lon=2.2945</rdf:li></rdf:Bag></dc:subject>"
    )
    (finding,) = findings_in("a.jpg", with_segments(jpeg(), xmp(XMP_HEAD + subject)), max_pixels=MOST)
    assert (finding.where, finding.lat_deg) == ("xmp", LAT)


def test_a_place_in_two_comments_and_one_in_an_old_encoding() -> None:
    two = with_segments(jpeg(), comment("Latitude: 48,8584"), comment("Longitude: 2,2945"))
    old = with_segments(jpeg(), (0xFE, "48°51'30.24\"N 2°17'40.2\"E, à Paris".encode("latin-1")))
    for data in (two, old, png(GPSLatitude="48.8584", GPSLongitude="2.2945")):
        (finding,) = findings_in("a.jpg", data, max_pixels=MOST)
        assert (finding.where, finding.lat_deg, finding.lng_deg) == ("comment", near(LAT), near(LNG))


def test_broken_metadata_hides_nothing_else(tmp_path: Path) -> None:
    broken = gps_texts("48.8584", "2.2945", at=9999)
    (finding,) = findings_in("a.jpg", with_segments(jpeg(), broken, comment(IM2GPS_COMMENT)), max_pixels=MOST)
    assert finding.where == "comment"
    tags = Image.Exif()
    tags[33723] = b"\x1c\x02\x5a\xff\xff no such length"  # IPTC
    tags[ExifTags.Base.ImageDescription] = "48.8584, 2.2945"
    picture().save(tmp_path / "a.tif", exif=tags)
    assert [each.where for each in findings_in("a.tif", tmp_path / "a.tif", max_pixels=MOST)] == ["exif_text"]


def test_the_camera_is_believed_before_texts_and_names() -> None:
    data = with_segments(jpeg(), exif(gps=True), comment("latitude: 1.5\nlongitude: 2.5"))
    place = place_of(findings_in("10.1234,20.1234.jpg", data, max_pixels=MOST))
    assert place is not None
    assert (place.where, place.lat_deg) == ("exif_gps", near(LAT))


def test_nowhere_is_told_and_believed_last() -> None:
    zero = gps((0, 0, 0), (0, 0, 0), "S", "W")
    (finding,) = findings_in("a.jpg", zero, max_pixels=MOST)
    assert is_nowhere(finding)
    assert str(finding.lat_deg) == "0.0"
    other = place_of(findings_in("48.8584_2.2945.jpg", zero, max_pixels=MOST))
    assert other is not None
    assert (other.where, other.lat_deg) == ("file_name", LAT)


@given(st.binary(max_size=80), st.integers(0, 60))
def test_damaged_metadata_is_no_crash(noise: bytes, at: int) -> None:
    data = bytearray(with_segments(jpeg(), *LEAKS.values()))
    data[at : at + len(noise)] = noise
    with contextlib.suppress(BadImage):  # nothing else may come out
        findings_in("a.jpg", bytes(data), max_pixels=MOST)


def test_what_is_no_image_says_so() -> None:
    with pytest.raises(BadImage, match="not_an_image"):
        findings_in("a.jpg", b"text", max_pixels=MOST)
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
    found = findings_in("48.8584,2.2945.jpg", rich, max_pixels=MOST)
    assert {finding.where for finding in found} == {*LEAKS, "iptc", "file_name"}
    read = PhotoReader(Resizing(32))
    one, other = (read(Photo("a", data, np.nan, np.nan)) for data in (plain, rich))
    np.testing.assert_array_equal(one.pixels, other.pixels)  # type: ignore[union-attr]
    photos = [Photo("a.jpg", plain, np.nan, np.nan), Photo("48.8584,2.2945.jpg", rich, LAT, LNG)]
    encode = PhotoEncoder(loaded, crops="ten")
    batch = joined(list(embed_photos(encode, photos, feed=FeedOptions(workers=0, batch_size=10), shard_rows=1)))
    assert batch.ok.all()
    np.testing.assert_array_equal(batch.embedding[0], batch.embedding[1])
