"""What a photo's file says of its place beside the pixels: EXIF, XMP, IPTC, comments, and its own name.

In: a photo's name and file. Out: findings, each with the text that was found; `indexer.earth.spelled_places` reads
them. They place photos that are learned from or measured with. The encoder never sees any of this (its input is
pixels); but a test set whose files hold the answer invites mistakes. IM2GPS is such a set: its JPEG comments hold
latitude and longitude.
"""

import html
import itertools
import logging
import math
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, ImageFile, IptcImagePlugin

from indexer.earth.spelled_places import angle_in, angle_of, place_in
from indexer.photos.image_files import opened_image
from indexer.photos.utm_names import place_in_name

log = logging.getLogger(__name__)

# Where findings are, those first that say best where a photo was taken.
PLACES = ("exif_gps", "xmp", "exif_text", "comment", "iptc", "file_name")
_SHOWN = 120  # characters of a finding

_Look = Callable[[ImageFile.ImageFile], Iterator["Finding"]]

_XMP_PLACES = re.compile(
    r"(?s)\b(photoshop:(?:City|State|Country)|Iptc4xmpCore:(?:Location|CountryCode)|"
    r"Iptc4xmpExt:(?:City|Sublocation|ProvinceState|CountryName|CountryCode))\s*"
    r"(?:=\s*\"([^\"]*)\"|=\s*'([^']*)'|>(.{0,2000}?)</\1\s*>)"
)
# Whatever the name space: cameras, drones and editors each have their own, one of them with a spelling of its own.
_XMP_GPS = re.compile(
    r"(?si)\b(?:([\w-]+):)?(?:GPS)?(?:(Lat)itude|(Long)t?itude)(Ref)?\s*"
    r"(?:=\s*\"([^\"]*)\"|=\s*'([^']*)'|>\s*([^<]{0,200}?)\s*<)"
)
# The standard's own form, in which commas part degrees, minutes and seconds; and EXIF's rationals as text.
_XMP_ANGLE = re.compile(r"(?i)([+-]?\d{1,3}), ?(\d{1,2}(?:\.\d+)?)(?:, ?(\d{1,2}(?:\.\d+)?))? ?([NSEW]?)")
_RATIONALS = re.compile(r"(?i)(-?\d+/\d+(?:[, ]+-?\d+/\d+){0,2}) ?([NSEW]?)")
_XMP_TEXTS = re.compile(
    r"(?s)\b(dc:(?:description|title|subject)|exif:UserComment|tiff:ImageDescription|"
    r"photoshop:(?:Headline|Instructions))\s*(?:=\s*\"([^\"]*)\"|=\s*'([^']*)'|>(.{0,20000}?)</\1\s*>)"
)
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
_IPTC_TEXTS = ((2, 5), (2, 25), (2, 40), (2, 105), (2, 120))  # title, keywords, instructions, headline, caption
# Windows' title, comment, tags and subject stand beside the standard's.
_EXIF_TEXTS = (ExifTags.Base.ImageDescription, 0x9C9B, 0x9C9C, 0x9C9E, 0x9C9F)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that gives a place away. Coordinates are NaN where it is a name of a place, or cannot be understood."""

    where: str  # one of PLACES
    text: str  # as it stands there, shortened
    lat_deg: float = math.nan
    lng_deg: float = math.nan


def findings_in(name: str, file: bytes | Path, *, max_pixels: int) -> list[Finding]:
    """All findings of one photo. Safe to call from several threads; no pixel is needed, and few formats decode some.

    file: its bytes, or where it lies; of that only what is needed is read.

    Raises:
        BadImage: not_an_image, too_large, damaged, no_memory; the name is `in_name`'s to look at then.
    """
    with opened_image(file, max_pixels=max_pixels) as image:
        if image.format == "PNG":
            image.load()  # chunks of text may follow the pixels
        found = (_readable(look, image) for look in (_in_exif, _in_xmp, _in_iptc, _in_comments))
        return [*itertools.chain.from_iterable(found), *in_name(name)]


def in_name(name: str) -> list[Finding]:
    """What a photo's name gives away: as a dataset writes it, or else any coordinates, folders included."""
    lat, lng = place_in_name(name)
    if math.isnan(lat):
        return list(_in_text("file_name", [name]))
    return [Finding("file_name", name[-_SHOWN:], lat, lng)]


def place_of(findings: Iterable[Finding]) -> Finding | None:
    """Which of a photo's findings says best where it was taken; None where none does.

    Those at 0, 0 come last: cameras write it where they know no place.
    """
    located = [each for each in findings if not math.isnan(each.lat_deg) and not math.isnan(each.lng_deg)]
    return min(located, key=lambda each: (is_nowhere(each), PLACES.index(each.where)), default=None)


def is_nowhere(finding: Finding) -> bool:
    """Whether it says 0, 0."""
    return (finding.lat_deg, finding.lng_deg) == (0, 0)


def _readable(look: _Look, image: ImageFile.ImageFile) -> list[Finding]:
    """What one kind of metadata says, as far as it can be read: what is broken there is no fault of the photo."""
    found: list[Finding] = []
    try:
        found.extend(look(image))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 (damaged metadata makes Pillow raise nearly anything)
        log.debug("%s cannot be read (%s)", look.__name__, error)
    return found


def _in_text(where: str, texts: Iterable[str]) -> Iterator[Finding]:
    for text in texts:
        place = place_in(text)
        if place is not None:
            yield Finding(where, text[-_SHOWN:] if where == "file_name" else _short(text), *place)


def _in_exif(image: Image.Image) -> Iterator[Finding]:
    exif = image.getexif()
    yield from _readable_gps(exif)
    inner = exif.get_ifd(ExifTags.IFD.Exif)
    values = [*(exif.get(tag) for tag in _EXIF_TEXTS), inner.get(ExifTags.Base.UserComment)]
    yield from _in_text("exif_text", filter(None, map(_decoded, values)))


def _readable_gps(exif: Image.Exif) -> Iterator[Finding]:
    try:
        gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    except (KeyError, TypeError, ValueError, SyntaxError, OSError, struct.error):  # the texts beside it may be good
        return
    tags = ExifTags.GPS
    values = gps.get(tags.GPSLatitude), gps.get(tags.GPSLongitude)
    lat = _exif_degrees(values[0], gps.get(tags.GPSLatitudeRef))
    lng = _exif_degrees(values[1], gps.get(tags.GPSLongitudeRef))
    if abs(lat) <= 90 and abs(lng) <= 180:
        yield Finding("exif_gps", f"{lat:.6f}, {lng:.6f}", lat, lng)
    elif any(map(_says_something, values)):
        yield Finding("exif_gps", _short(f"not understood: {values[0]}, {values[1]}"))
    area = _decoded(gps.get(tags.GPSAreaInformation))
    if area:
        yield Finding("exif_gps", _short(area))


def _exif_parts(value: Any) -> list[float]:
    """Degrees, minutes and seconds of a tag, as many as there are; Pillow gives one alone as it is."""
    try:
        return [float(part) for part in (value if isinstance(value, tuple | list) else (value,))]
    except (TypeError, ValueError, ZeroDivisionError):  # absent, or no numbers
        return []


def _exif_degrees(value: Any, compass: Any) -> float:
    if isinstance(value, str | bytes):  # against the standard, but it happens
        text = _decoded(value)
        return angle_in(f"{text} {_decoded(compass)[:1]}" if text[-1:].isdigit() else text)
    return angle_of(_exif_parts(value), _decoded(compass))


def _says_something(value: Any) -> bool:
    """Whether a tag of GPS holds more than numbers that are not known, 0/0, as where a camera found no place."""
    if isinstance(value, str | bytes):
        return bool(_decoded(value))
    return any(not math.isnan(part) for part in _exif_parts(value))


def _in_xmp(image: Image.Image) -> Iterator[Finding]:
    # Read with patterns, not as XML: files come from anywhere, and entities can blow up a parser.
    xmp = _decoded(image.info.get("xmp") or image.info.get("XML:com.adobe.xmp"))
    yield from _xmp_gps(xmp)
    for match in _XMP_PLACES.finditer(xmp):
        value = _xmp_value(match)
        if value:
            yield Finding("xmp", _short(f"{match[1]}: {value}"))
    texts = (html.unescape(_xmp_value(match)) for match in _XMP_TEXTS.finditer(xmp))
    yield from _in_text("xmp", dict.fromkeys(texts))


def _xmp_value(match: re.Match[str]) -> str:
    """Of an attribute, or of an element and all in it."""
    return _TAG.sub(" ", match[2] or match[3] or match[4] or "").strip()


def _xmp_gps(xmp: str) -> Iterator[Finding]:
    spaces: dict[str, dict[str, str]] = {}  # of each name space, the first value of each property
    for match in _XMP_GPS.finditer(xmp):
        value = html.unescape(match[5] or match[6] or match[7] or "").strip()
        if value:
            name = f"{(match[2] or match[3]).lower()}{'ref' if match[4] else ''}"
            spaces.setdefault((match[1] or "").lower(), {}).setdefault(name, value)
    for values in spaces.values():
        if "lat" in values and "long" in values:
            lat, lng = (_xmp_degrees(values[name], values.get(f"{name}ref", "")) for name in ("lat", "long"))
            text = _short(f"{values['lat']} {values['long']}")
            yield Finding("xmp", text, lat, lng) if abs(lat) <= 90 and abs(lng) <= 180 else Finding("xmp", text)


def _xmp_degrees(text: str, compass: str) -> float:
    match = _XMP_ANGLE.fullmatch(text)
    if match:
        negative = "S" if match[1].startswith("-") else match[4] or compass
        degrees = angle_of([float(part) for part in match.groups()[:3] if part], negative)
        if not math.isnan(degrees):  # 48,8584 has no minutes: that is a comma of decimals
            return degrees
    rationals = _RATIONALS.fullmatch(text)
    if rationals:
        pairs = (part.split("/") for part in re.split(r"[, ]+", rationals[1]))
        parts = [float(over) / float(under) if float(under) else math.nan for over, under in pairs]
        return angle_of(parts, rationals[2] or compass)
    return angle_in(f"{text} {compass[:1]}" if text[-1:].isdigit() else text)


def _in_iptc(image: ImageFile.ImageFile) -> Iterator[Finding]:
    records = IptcImagePlugin.getiptcinfo(image) if image.format in ("JPEG", "MPO", "TIFF") else None

    def texts(tag: tuple[int, int]) -> list[str]:
        value = (records or {}).get(tag)
        return list(filter(None, map(_decoded, value if isinstance(value, list) else [value])))

    for tag, label in _IPTC_PLACES.items():
        for text in texts(tag):
            yield Finding("iptc", _short(f"{label}: {text}"))
    yield from _in_text("iptc", ("; ".join(texts(tag)) for tag in _IPTC_TEXTS))


def _in_comments(image: Image.Image) -> Iterator[Finding]:
    # All of a JPEG's comments: `info` keeps the last one alone.
    values = [content for marker, content in getattr(image, "applist", []) if marker == "COM"]
    values += [image.info.get("comment"), image.info.get("Comment")]
    if image.format == "PNG":
        values += [f"{key}: {text}" for key, text in getattr(image, "text", {}).items() if "xmp" not in key.lower()]
    texts = list(dict.fromkeys(filter(None, map(_decoded, values))))
    found = list(_in_text("comment", texts))
    # Latitude and longitude may be two comments.
    yield from found or _in_text("comment", ["; ".join(texts)])


def _decoded(value: Any) -> str:
    """Text of metadata, which has many encodings; control characters become spaces."""
    if isinstance(value, tuple) and all(isinstance(part, int) and 0 <= part < 256 for part in value):
        value = bytes(value)  # Windows' tags
    if isinstance(value, bytes):
        if value[:8] in (b"ASCII\0\0\0", b"UNICODE\0", b"JIS\0\0\0\0\0", b"\0" * 8):
            value = value[8:]  # the code that EXIF's comments begin with
        wide = value.count(b"\0") > len(value) // 4
        little = value[1::2].count(0) >= value[0::2].count(0)
        if wide:
            value = value.decode("utf-16-le" if little else "utf-16-be", "replace")
        else:
            try:
                value = value.decode()
            except UnicodeDecodeError:  # older than that, in which one byte is a degree sign
                value = value.decode("cp1252", "replace")
    return "".join(c if c.isprintable() else " " for c in value).strip() if isinstance(value, str) else ""


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
