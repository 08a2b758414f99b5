"""What a photo's file says of its place beside the pixels: EXIF, XMP, IPTC, comments, and its own name.

In: a photo's name and bytes. Out: findings, each with the text that was found. The encoder never sees any of this (its
input is pixels); but a test set whose files hold the answer invites mistakes. IM2GPS is such a set: its
JPEG comments hold latitude and longitude.
"""

import io
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from PIL import ExifTags, Image, ImageFile, IptcImagePlugin

from encoder.bad_images import BadImage
from encoder.config import MAX_PIXELS
from encoder.photos.images import FORMATS, problems_named

_SHOWN = 120  # characters of a finding

# Coordinates in text. Two numbers beside each other count only with three decimals each: fewer are prices and sizes.
_PAIR = re.compile(r"(?<![\d.])([+-]?\d{1,2}\.\d{3,})[°\s]*[,;_/ ]+\s*([+-]?\d{1,3}\.\d{3,})(?!\d)")
_LABELLED_LAT = re.compile(r"(?i)(?<![a-z])lat(?:itude)?[\s\"'=:_>-]{0,4}?([+-]?\d{1,2}(?:\.\d+)?)(?![\d,])")
_LABELLED_LNG = re.compile(
    r"(?i)(?<![a-z])(?:longitude|long|lon|lng)[\s\"'=:_>-]{0,4}?([+-]?\d{1,3}(?:\.\d+)?)(?![\d,])"
)
_ANGLE = (
    r"(\d{1,3}(?:\.\d+)?)"
    r"(?:\s*[°d]\s*(\d{1,2}(?:\.\d+)?)(?:\s*['′m]\s*(\d{1,2}(?:\.\d+)?)\s*(?:[\"″s]|''))?\s*['′m]?)?"
)
_DMS = re.compile(rf"(?i)(?<![\d.a-z]){_ANGLE}\s*([NS])[\s,;_]+{_ANGLE}\s*([EW])(?![a-z])")
_COMPASS_FIRST = re.compile(r"(?<![A-Za-z])([NS])\s?(\d{1,2}\.\d{2,})[\s,;_]{0,3}([EW])\s?(\d{1,3}\.\d{2,})")

_XMP_PLACES = re.compile(
    r"(?s)\b(photoshop:(?:City|State|Country)|Iptc4xmpCore:(?:Location|CountryCode)|"
    r"Iptc4xmpExt:(?:City|Sublocation|ProvinceState|CountryName|CountryCode))\s*"
    r"(?:=\s*\"([^\"]*)\"|=\s*'([^']*)'|>(.{0,2000}?)</\1\s*>)"
)
_XMP_GPS = re.compile(r"(?s)\bexif:GPS(Latitude|Longitude)\s*(?:=\s*[\"']([^\"']+)[\"']|>\s*([^<]+?)\s*<)")
_XMP_ANGLE = re.compile(r"^\s*(\d{1,3})\s*,\s*(\d{1,2}(?:\.\d+)?)(?:\s*,\s*(\d{1,2}(?:\.\d+)?))?\s*([NSEW])\s*$")
_TAG = re.compile(r"<[^>]*>")

# Record 2 of IPTC's Information Interchange Model, version 4.
_IPTC_PLACES = {
    (2, 26): "content location code",
    (2, 27): "content location name",
    (2, 90): "city",
    (2, 92): "sublocation",
    (2, 95): "province or state",
    (2, 100): "country code",
    (2, 101): "country",
}
# Windows' title, comment, tags and subject stand beside the standard's.
_EXIF_TEXTS = (ExifTags.Base.ImageDescription, 0x9C9B, 0x9C9C, 0x9C9E, 0x9C9F)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that gives a place away. Coordinates are NaN where it is a name of a place."""

    where: str  # exif_gps, exif_text, xmp, iptc, comment or file_name
    text: str  # as it stands there, shortened
    lat_deg: float = math.nan
    lng_deg: float = math.nan


def findings_in(name: str, data: bytes, *, max_pixels: int = MAX_PIXELS) -> list[Finding]:
    """All findings of one photo. Safe to call from several threads; no pixel is needed, and few formats decode some.

    Raises:
        BadImage: not_an_image, too_large, damaged, no_memory; the name is `in_name`'s to look at then.
    """
    with problems_named(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.width * image.height > max_pixels:
            raise BadImage("too_large", f"{image.width} x {image.height} pixels; at most {max_pixels:,} are read")
        return [*_in_exif(image), *_in_xmp(image), *_in_iptc(image), *_in_comments(image), *in_name(name)]


def in_name(name: str) -> list[Finding]:
    """What a photo's name gives away, folders included."""
    place = coordinates_in(name)
    return [] if place is None else [Finding("file_name", name[-_SHOWN:], *place)]


def coordinates_in(text: str) -> tuple[float, float] | None:
    """The first latitude and longitude that a text spells out, in degrees, or None.

    Understood: `48.8584, 2.2945` with three decimals or more; `lat 48.85 lng 2.29` in many spellings; `N48.85 E2.29`;
    48°51'29.6"N 2°17'40"E.
    """
    return next(((lat, lng) for lat, lng in _candidates(text) if abs(lat) <= 90 and abs(lng) <= 180), None)


def _candidates(text: str) -> Iterator[tuple[float, float]]:
    for match in _DMS.finditer(text):
        if "." in match[0] or match[2]:  # 12 N 5 E is not a place
            yield _degrees(match[1], match[2], match[3], match[4]), _degrees(match[5], match[6], match[7], match[8])
    for match in _COMPASS_FIRST.finditer(text):
        yield _degrees(match[2], None, None, match[1]), _degrees(match[4], None, None, match[3])
    lat, lng = _LABELLED_LAT.search(text), _LABELLED_LNG.search(text)
    if lat and lng:
        yield float(lat[1]), float(lng[1])
    for match in _PAIR.finditer(text):
        yield float(match[1]), float(match[2])


def _degrees(degrees: Any, minutes: Any, seconds: Any, compass: str) -> float:
    value = float(degrees) + float(minutes or 0) / 60 + float(seconds or 0) / 3600
    return -value if compass.upper() in "SW" else value


def _in_text(where: str, texts: Iterable[str]) -> Iterator[Finding]:
    for text in texts:
        place = coordinates_in(text)
        if place is not None:
            yield Finding(where, _short(text), *place)


def _in_exif(image: Image.Image) -> Iterator[Finding]:
    exif = image.getexif()
    gps, tags = exif.get_ifd(ExifTags.IFD.GPSInfo), ExifTags.GPS
    lat = _exif_degrees(gps.get(tags.GPSLatitude), gps.get(tags.GPSLatitudeRef))
    lng = _exif_degrees(gps.get(tags.GPSLongitude), gps.get(tags.GPSLongitudeRef))
    if not math.isnan(lat) and not math.isnan(lng):
        yield Finding("exif_gps", f"{lat:.6f}, {lng:.6f}", lat, lng)
    area = _decoded(gps.get(tags.GPSAreaInformation))
    if area:
        yield Finding("exif_gps", _short(area))
    inner = exif.get_ifd(ExifTags.IFD.Exif)
    values = [*(exif.get(tag) for tag in _EXIF_TEXTS), inner.get(ExifTags.Base.UserComment)]
    yield from _in_text("exif_text", filter(None, map(_decoded, values)))


def _exif_degrees(value: Any, compass: Any) -> float:
    try:
        degrees, minutes, seconds = (float(part) for part in value)
    except (TypeError, ValueError, ZeroDivisionError):  # absent, or not three numbers
        return math.nan
    result = _degrees(degrees, minutes, seconds, _decoded(compass)[:1] or "N")
    return result if math.isfinite(result) and abs(result) <= 180 else math.nan


def _in_xmp(image: Image.Image) -> Iterator[Finding]:
    # Read with patterns, not as XML: files come from anywhere, and entities can blow up a parser.
    xmp = _decoded(image.info.get("xmp") or image.info.get("XML:com.adobe.xmp"))
    angles = {match[1]: (match[2] or match[3]) for match in _XMP_GPS.finditer(xmp)}
    if len(angles) == 2:
        lat, lng = (_xmp_degrees(angles[name]) for name in ("Latitude", "Longitude"))
        yield Finding("xmp", _short(f"{angles['Latitude']} {angles['Longitude']}"), lat, lng)
    for match in _XMP_PLACES.finditer(xmp):
        value = _TAG.sub(" ", match[2] or match[3] or match[4] or "").strip()
        if value:
            yield Finding("xmp", _short(f"{match[1]}: {value}"))


def _xmp_degrees(text: str) -> float:
    match = _XMP_ANGLE.match(text)
    if match:
        return _degrees(match[1], match[2], match[3], match[4])
    try:
        return float(text)
    except ValueError:
        return math.nan


def _in_iptc(image: ImageFile.ImageFile) -> Iterator[Finding]:
    records = IptcImagePlugin.getiptcinfo(image) if image.format in ("JPEG", "MPO", "TIFF") else None
    for tag, label in _IPTC_PLACES.items():
        value = (records or {}).get(tag)
        for text in filter(None, map(_decoded, value if isinstance(value, list) else [value])):
            yield Finding("iptc", _short(f"{label}: {text}"))


def _in_comments(image: Image.Image) -> Iterator[Finding]:
    # All of a JPEG's comments: `info` keeps the last one alone.
    texts = [content for marker, content in getattr(image, "applist", []) if marker == "COM"]
    texts += [image.info.get("comment"), image.info.get("Comment")]
    if image.format == "PNG":
        image.load()  # chunks of text may follow the pixels
        texts += [f"{key}: {text}" for key, text in getattr(image, "text", {}).items() if "xmp" not in key.lower()]
    yield from _in_text("comment", dict.fromkeys(filter(None, map(_decoded, texts))))


def _decoded(value: Any) -> str:
    """Text of metadata, which has many encodings; control characters become spaces."""
    if isinstance(value, tuple) and all(isinstance(part, int) and 0 <= part < 256 for part in value):
        value = bytes(value)  # Windows' tags
    if isinstance(value, bytes):
        if value[:8] in (b"ASCII\0\0\0", b"UNICODE\0", b"JIS\0\0\0\0\0", b"\0" * 8):
            value = value[8:]  # the code that EXIF's comments begin with
        wide = value.count(b"\0") > len(value) // 4
        little = value[1::2].count(0) >= value[0::2].count(0)
        value = value.decode(("utf-16-le" if little else "utf-16-be") if wide else "utf-8", "replace")
    return "".join(c if c.isprintable() else " " for c in value).strip() if isinstance(value, str) else ""


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
