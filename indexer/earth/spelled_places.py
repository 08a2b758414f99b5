"""Places as people and programs spell them: angles and pairs of angles in text, with any sign, mark and letter.

In: text of metadata, comments and names of files, or the numbers of an EXIF tag. Out: latitude and longitude in
degrees. What is read: decimals with a point or a comma; degrees with minutes, and seconds; the letters N, S, E, W or
the words before or after; labels (`lat`, `GPSLatitude`, `longitude`) with or without a reference (`LatitudeRef`); bare
pairs with three decimals or more; ISO 6709, NMEA, `geo:`, WKT and GeoJSON. Altitudes, directions and accuracies are
told apart by their labels.
"""

import math
import re
from collections.abc import Iterator, Sequence
from urllib.parse import unquote

# All spellings of one sign as that sign; spaces are one at most, so that no pattern below can take long.
_SIGNS = str.maketrans(
    dict.fromkeys("−‐‑‒–—﹣－", "-")
    | dict.fromkeys("＋﹢", "+")
    | dict.fromkeys("º˚∘⁰\N{REPLACEMENT CHARACTER}", "°")  # the last: a degree sign that was decoded as what it is not
    | dict.fromkeys("′’‘´`ʹ＇", "'")
    | dict.fromkeys("″”“ʺ＂", '"')
    | {"，": ",", "、": ",", "．": ".", "٫": ".", "：": ":", "；": ";"}
)

_FRACTION = r"(?:[.,]\d+)?"
_DEGREE = r"(?: ?(?:°|deg(?:rees?)?\.?|d|:|_|-) ?| )"  # what parts degrees from minutes
_MINUTE = r"(?: ?(?:'|min(?:utes?)?\.?|m|:|_|-) ?| )"
_SECOND = r"(?: ?(?:\"|''|sec(?:onds?)?\.?|s))?"
_PARTED = (
    rf"(?:\d{{1,3}}{_DEGREE}\d{{1,2}}{_MINUTE}\d{{1,2}}{_FRACTION}{_SECOND}"
    rf"|\d{{1,3}}{_DEGREE}\d{{1,2}}{_FRACTION}(?: ?(?:'|min(?:utes?)?\.?|m))?)"
)
_DECIMAL = r"(?:\d{1,3}(?:[.,]\d+|_\d{3,})?(?:e-\d{1,3})?(?: ?(?:°|deg(?:rees?)?\.?))?)"
_ANGLE = rf"(?:[+-] ?)?(?:{_PARTED}|{_DECIMAL})"
# Without a letter, spaces alone do not part degrees from minutes: other numbers may follow.
_ALONE = (
    rf"(?:[+-] ?)?(?>\d{{1,3}} ?(?:°|deg(?:rees?)?\.?|d|:) ?\d{{1,2}}{_MINUTE}\d{{1,2}}{_FRACTION}{_SECOND}"
    rf"|\d{{1,3}}[ _]\d{{1,2}}[ _]\d{{1,2}}{_FRACTION}(?!\d|[.,]\d)"
    rf"|\d{{1,3}} ?(?:°|deg(?:rees?)?\.?|d|:) ?\d{{1,2}}{_FRACTION}(?: ?(?:'|min(?:utes?)?\.?|m))?"
    rf"|\d{{1,3}}[ _]\d{{1,2}}[.,]\d{{2,}}|{_DECIMAL})(?!\d|\.\d)"
)
_NS, _EW = r"(?:north|south|[ns])(?![a-z])", r"(?:east|west|[ew])(?![a-z]|-\d)"  # 5e-05 is a number
_COMPASS = r"(?:north|south|east|west|[nsew])"
_BETWEEN = r"[ ,;/|_&()]{0,4}"
_LAT = r"(?<![a-z])(?:gps[ _]?|geo[ :_]?)?lat(?:itud(?:e|ine)?)?"
_LNG = r"(?<![a-z])(?:gps[ _]?|geo[ :_]?)?(?:longt?itud(?:e|ine)?|long|lon|lng)"
# Between a label and its value: quotes, a unit in brackets, and a sign of equality or what stands for one.
_SEPARATOR = (
    r"[\"')\]]{0,2}(?: ?\((?:degrees|deg|°|wgs ?84)\))?[\"']? ?(?:(?:(?:->|=>|[=:_>,]|is) ?){1,2}|- )?[\"'(\[]{0,2} ?"
)
_NUMBER = r"([+-]?\d{1,3}(?:\.\d+)?)"

# Of two angles, each with its letter. Not where another letter stands before: that would be the first angle's own.
_LETTER_AFTER = re.compile(
    rf"(?i)(?<![a-z\d.])(?<!(?<![a-z])[nsew] )({_ANGLE})[ ,]?({_COMPASS}){_BETWEEN}({_ANGLE})[ ,]?({_COMPASS})(?![a-z])"
)
_LETTER_BEFORE = re.compile(
    rf"(?i)(?<![a-z])({_COMPASS})[ .:]?({_ANGLE}){_BETWEEN}({_COMPASS})[ .:]?({_ANGLE})(?![a-z\d])"
)
_LETTERS_WITHOUT = re.compile(  # NMEA's 4851.504,N,00217.670,E and aviation's 485130N0021740E
    r"(?i)(?<![\d.])(\d\d)(\d\d)(\d\d)?(\.\d+)?[ ,]?([NS])[ ,;_/]{0,2}(\d{3})(\d\d)(\d\d)?(\.\d+)?[ ,]?([EW])(?![a-z])"
)
_ISO_6709 = re.compile(r"(?<![\d.])([+-])(\d{2,6})(\.\d+)?([+-])(\d{3,7})(\.\d+)?(?:[+-]\d+(?:\.\d+)?)?(?:CRS\w+)?(/)?")
_LABELLED = tuple(
    re.compile(
        rf"(?i){label}{_SEPARATOR}(?:({letter})[ .:]?({_ANGLE})(?!\d|\.\d)|({_ANGLE})[ ,]?({letter})|({_ALONE}))"
    )
    for label, letter in ((_LAT, _NS), (_LNG, _EW))
)
_REFERENCE = tuple(
    re.compile(rf"(?i){label}[ _]?ref(?:erence)?{_SEPARATOR}({letter})") for label, letter in ((_LAT, _NS), (_LNG, _EW))
)
_HEADED = re.compile(rf"(?i){_LAT}[\"']? ?[,;/] ?[\"']?{_LNG}{_SEPARATOR}{_NUMBER}(?:[,;/ ]{{1,2}}){_NUMBER}(?!\d)")
_GEO_URI = re.compile(rf"(?i)(?<![a-z])geo:{_NUMBER},{_NUMBER}")
_LNG_FIRST = (
    re.compile(rf"(?i){_LNG}[\"']? ?[,;/] ?[\"']?{_LAT}{_SEPARATOR}{_NUMBER}(?:[,;/ ]{{1,2}}){_NUMBER}(?!\d)"),
    re.compile(rf"(?i)(?<![a-z])point ?(?:zm?|m)? ?\( ?{_NUMBER} {_NUMBER}"),  # WKT
    re.compile(rf"(?i)\"coordinates\" ?: ?\[ ?{_NUMBER} ?, ?{_NUMBER}"),  # GeoJSON
)
_MARKED = re.compile(  # degrees and minutes by their marks, with signs
    rf"(?<![\d.])([+-]?\d{{1,2}} ?° ?\d{{1,2}}{_FRACTION} ?'(?: ?\d{{1,2}}{_FRACTION} ?(?:\"|'')?)?)[ ,;/|_]{{1,3}}"
    rf"([+-]?\d{{1,3}} ?° ?\d{{1,2}}{_FRACTION} ?'(?: ?\d{{1,2}}{_FRACTION} ?(?:\"|'')?)?)"
)
# Two numbers beside each other count only with three decimals each: fewer are prices and sizes. With commas four: three
# are thousands. A minus with a space after it is one only where nothing stands before that it could be a dash after.
_SIGN = r"(?:[+-]|(?:(?<=^)|(?<=[(,;:=] )|(?<=[(,;:=]))[+-] )?"
_NEXT = r"(?:[+-]|(?<=[,;/|] )[+-] |(?<=[,;/|])[+-] )?"
_PAIR = re.compile(rf"(?<![\d.])({_SIGN}\d{{1,2}}\.\d{{3,}}) ?°? ?[,;_/| ]{{1,3}}({_NEXT}\d{{1,3}}\.\d{{3,}})(?!\d)")
_COMMA_PAIR = re.compile(
    rf"(?<![\d.,])({_SIGN}\d{{1,2}},\d{{4,}}) ?°?(?: ?[,;_/|] ?| )({_NEXT}\d{{1,3}},\d{{4,}})(?!\d|\.\d)"
)
_OTHER_NUMBERS = re.compile(
    r"(?i)(?<![a-z])(?:gps[ _]?)?(?:(?:absolute|relative)[ _]?)?(?:alt(?:itude)?|elev?(?:ation)?|height|accuracy|"
    rf"heading|direction|bearing|speed|[hpv]?dop){_SEPARATOR}[+-]? ?\d+{_FRACTION}"
)
_ONE_ANGLE = re.compile(rf"(?i)({_COMPASS})?[ .:]?({_ANGLE})[ ,]?({_COMPASS})?")
_PART = re.compile(r"\d+(?:[.,]\d+)?(?:[eE]-\d{1,3})?")


def angle_of(parts: Sequence[float], compass: str = "") -> float:
    """Degrees of one angle; NaN where there is none.

    parts: degrees, or these and minutes, or these and seconds; minutes and seconds that are NaN are not known, and
    taken for 0. compass: S, W, or a word that begins so, makes it negative, as a negative part does.
    """
    if not 1 <= len(parts) <= 3 or math.isnan(parts[0]):
        return math.nan
    degrees, minutes, seconds = (*(0.0 if math.isnan(part) else abs(part) for part in parts), 0.0, 0.0)[:3]
    value = degrees + minutes / 60 + seconds / 3600
    if minutes > 60 or seconds > 60 or not value <= 180:
        return math.nan
    negative = compass.strip()[:1].upper() in ("S", "W") or any(part < 0 for part in parts)
    return -value if negative and value else value


def angle_in(text: str) -> float:
    """Degrees of the one angle that a text is, in any spelling; NaN where it is none."""
    match = _ONE_ANGLE.fullmatch(_plain(text))
    return math.nan if match is None else _degrees(match[2], match[1] or match[3] or "")


def place_in(text: str) -> tuple[float, float] | None:
    """The first latitude and longitude that a text spells out, in degrees, or None.

    0, 0 is where programs put what has no place: it is given only where the text spells no other.
    """
    nowhere = None
    for lat, lng in _candidates(_OTHER_NUMBERS.sub("\0", _plain(text))):
        if abs(lat) <= 90 and abs(lng) <= 180:
            if (lat, lng) != (0, 0):
                return lat, lng
            nowhere = lat, lng
    return nowhere


def _plain(text: str) -> str:
    if "%" in text:  # of an address on the web
        text = unquote(text, errors="replace")
    return " ".join(text.replace("Â°", "°").translate(_SIGNS).split())


def _candidates(text: str) -> Iterator[tuple[float, float]]:
    # 12 N 5 E is not a place, and N 12.5 E 5.1 not either.
    for match in _LETTER_AFTER.finditer(text):
        if any(len(_parts(match[angle])) > 1 or re.search(r"[.,]\d", match[angle]) for angle in (1, 3)):
            yield from _by_letters((match[1], match[2]), (match[3], match[4]))
    for match in _LETTER_BEFORE.finditer(text):
        if all(len(_parts(match[angle])) > 1 or re.search(r"[.,]\d\d", match[angle]) for angle in (2, 4)):
            yield from _by_letters((match[2], match[1]), (match[4], match[3]))
    yield from _without_marks(text)
    yield from _labelled(text)
    for match in (*_HEADED.finditer(text), *_GEO_URI.finditer(text)):
        yield float(match[1]), float(match[2])
    for pattern in _LNG_FIRST:
        for match in pattern.finditer(text):
            yield float(match[2]), float(match[1])
    for pattern in (_MARKED, _PAIR, _COMMA_PAIR):
        for match in pattern.finditer(text):
            yield _degrees(match[1]), _degrees(match[2])


def _by_letters(one: tuple[str, str], other: tuple[str, str]) -> Iterator[tuple[float, float]]:
    """Latitude and longitude of two angles with letters, in either order."""
    angles = {"ns" if letter[0] in "NSns" else "ew": _degrees(angle, letter) for angle, letter in (one, other)}
    if len(angles) == 2:
        yield angles["ns"], angles["ew"]


def _without_marks(text: str) -> Iterator[tuple[float, float]]:
    for match in _LETTERS_WITHOUT.finditer(text):
        lat, lng = (_run(match.groups()[at : at + 4], match[at + 5]) for at in (0, 5))
        yield lat, lng
    for match in _ISO_6709.finditer(text):
        one, other = match[2], match[5]
        if len(other) == len(one) + 1 and len(one) % 2 == 0 and (match[7] or (match[3] and match[6])):
            lat = _run((one[:2], one[2:4], one[4:], match[3]), "S" if match[1] == "-" else "N")
            yield lat, _run((other[:3], other[3:5], other[5:], match[6]), "W" if match[4] == "-" else "E")


def _run(digits: Sequence[str | None], compass: str) -> float:
    """Of degrees, minutes, seconds that follow each other, as far as they are there, and the decimals of the last."""
    *run, fraction = digits
    parts = [float(part) for part in run if part]
    parts[-1] += float(fraction or 0)
    return angle_of(parts, compass)


def _labelled(text: str) -> Iterator[tuple[float, float]]:
    found = [list(pattern.finditer(text)) for pattern in _LABELLED]
    references = [pattern.findall(text) for pattern in _REFERENCE]
    for number, matches in enumerate(zip(*found, strict=False)):
        angles = []
        for match, letters in zip(matches, references, strict=True):
            letter = match[1] or match[4] or (letters[number] if number < len(letters) else "")
            angles.append(_degrees(match[2] or match[3] or match[5], letter))
        yield angles[0], angles[1]


def _parts(angle: str) -> list[float]:
    if re.match(r"[+-]? ?\d{1,3}_\d{3,}", angle):  # in names of files, where a point ends the name
        angle = angle.replace("_", ".", 1)
    return [float(part.replace(",", ".")) for part in _PART.findall(angle)]


def _degrees(angle: str, compass: str = "") -> float:
    return angle_of(_parts(angle), "S" if angle.startswith("-") else compass)
