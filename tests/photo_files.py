"""Photos as files, with metadata put in byte by byte, so that the pixels stay those of the plain file."""

import io
import zlib
from collections.abc import Mapping

import numpy as np
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

LAT, LNG = 48.8584, 2.2945
XMP_HEAD = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description '
XMP_GPS = XMP_HEAD + 'exif:GPSLatitude="48,51.504N" exif:GPSLongitude="2,17.67E"/></rdf:RDF></x:xmpmeta>'
XMP_PLACE = (
    XMP_HEAD + 'photoshop:City="Paris &amp; so on"><Iptc4xmpExt:CountryName><rdf:Alt><rdf:li>France</rdf:li></rdf:Alt>'
    "</Iptc4xmpExt:CountryName></rdf:Description></rdf:RDF></x:xmpmeta>"
)


def picture(seed: int = 0, edge: int = 96) -> Image.Image:
    """Smooth patches with a little grain."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 7, 3), dtype=np.uint8))
    grain = rng.integers(-8, 9, (edge, edge, 1))
    smooth = np.asarray(coarse.resize((edge, edge), Image.Resampling.BICUBIC), np.int16)
    return Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))


def jpeg(image: Image.Image | None = None, quality: int = 90) -> bytes:
    """A JPEG file without any metadata."""
    stream = io.BytesIO()
    (image or picture()).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def with_segments(plain: bytes, *segments: tuple[int, bytes]) -> bytes:
    """A JPEG file with (marker, content) segments after its first marker; the image data are not touched."""
    inserted = b"".join(
        bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content for marker, content in segments
    )
    return plain[:2] + inserted + plain[2:]


def located(lat_deg: float, lng_deg: float) -> bytes:
    """A small JPEG file whose EXIF says where it was taken, to a centimetre."""
    tags = {
        ExifTags.GPS.GPSLatitudeRef: "S" if lat_deg < 0 else "N",
        ExifTags.GPS.GPSLatitude: (IFDRational(round(abs(lat_deg) * 1e7), 10**7),),
        ExifTags.GPS.GPSLongitudeRef: "W" if lng_deg < 0 else "E",
        ExifTags.GPS.GPSLongitude: (IFDRational(round(abs(lng_deg) * 1e7), 10**7),),
    }
    return with_segments(jpeg(Image.new("RGB", (8, 8))), exif(gps=tags))


def comment(text: str) -> tuple[int, bytes]:
    return 0xFE, text.encode()


def xmp(text: str) -> tuple[int, bytes]:
    return 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + text.encode()


def iptc(*records: tuple[int, str]) -> tuple[int, bytes]:
    """Records of IPTC's application record, as Photoshop wraps them."""
    data = b"".join(
        bytes([0x1C, 2, number]) + len(text.encode()).to_bytes(2, "big") + text.encode() for number, text in records
    )
    padded = data + b"\0" * (len(data) % 2)
    return 0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + len(data).to_bytes(4, "big") + padded


def exif(
    *, gps: bool | Mapping[int, object] = False, texts: dict[int, str | bytes] | None = None, note: bytes | None = None
) -> tuple[int, bytes]:
    """EXIF with the coordinates of LAT, LNG, or with tags of GPS as given; texts of the first directory; a comment."""
    tags = Image.Exif()
    if isinstance(gps, Mapping):
        tags.get_ifd(ExifTags.IFD.GPSInfo).update(gps)
    elif gps:
        tags.get_ifd(ExifTags.IFD.GPSInfo).update(
            {
                ExifTags.GPS.GPSLatitudeRef: "N",
                ExifTags.GPS.GPSLatitude: (48.0, 51.0, 30.24),
                ExifTags.GPS.GPSLongitudeRef: "E",
                ExifTags.GPS.GPSLongitude: (2.0, 17.0, 40.2),
            }
        )
    for tag, text in (texts or {}).items():
        tags[tag] = text
    if note is not None:
        tags.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = note
    return 0xE1, tags.tobytes()


def png(**texts: str) -> bytes:
    """A PNG file with chunks of text, compressed ones, after the pixels."""
    stream = io.BytesIO()
    picture().save(stream, "PNG")
    plain = stream.getvalue()
    chunks = b""
    for key, text in texts.items():
        content = b"zTXt" + key.encode() + b"\0\0" + zlib.compress(text.encode())
        chunks += (len(content) - 4).to_bytes(4, "big") + content + zlib.crc32(content).to_bytes(4, "big")
    return plain[:-12] + chunks + plain[-12:]  # the end is a chunk of its own
