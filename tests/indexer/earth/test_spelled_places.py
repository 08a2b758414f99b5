"""Places in text: one place in every spelling is read back; ordinary text holds none."""

import math
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.earth.spelled_places import angle_in, angle_of, place_in

LAT, LNG = 48.8584, 2.2945
LATITUDES, LONGITUDES = st.floats(-90, 90), st.floats(-180, 180)


def number(value: float, *, comma: bool = False, places: int = 5, minus: str = "-") -> str:
    text = f"{value:.{places}f}".replace("-", minus)
    return text.replace(".", ",") if comma else text


def parted(value: float, marks: tuple[str, str, str], *, seconds: bool, comma: bool = False) -> str:
    """Degrees, minutes and perhaps seconds, without a sign."""
    units = round(abs(value) * (3_600_000 if seconds else 6_000_000))  # thousandths of seconds, 1/100000 of minutes
    if seconds:
        degrees, rest = divmod(units, 3_600_000)
        minutes, rest = divmod(rest, 60_000)
        text = f"{degrees}{marks[0]}{minutes:02d}{marks[1]}{rest / 1000:06.3f}{marks[2]}"
    else:
        degrees, rest = divmod(units, 6_000_000)
        text = f"{degrees}{marks[0]}{rest / 100_000:08.5f}{marks[1].rstrip(' :_-')}"
    return text.replace(".", ",") if comma else text


def letters(lat: float, lng: float, words: bool) -> tuple[str, str]:
    if words:
        return "South" if lat < 0 else "North", "West" if lng < 0 else "East"
    return "S" if lat < 0 else "N", "W" if lng < 0 else "E"


MARKS = [
    ("°", "'", '"'),
    ("° ", "' ", '"'),
    ("°", "′", "″"),
    ("º", "’", "”"),
    (" deg ", "' ", '"'),
    ("d", "m", "s"),
    (":", ":", ""),
    (" ", " ", ""),
    ("_", "_", ""),
    ("°", "'", "''"),
    ("\N{REPLACEMENT CHARACTER}", "'", '"'),
]
MINUSES = ["-", "−", "–", "‐", "－"]
BARE: list[Callable[[str, str], str]] = [
    lambda lat, lng: f"{lat}; {lng}",
    lambda lat, lng: f"x ({lat} / {lng}) y",
    lambda lat, lng: f"x {lat} {lng} y",
    lambda lat, lng: f"x {lat}_{lng} y",
    lambda lat, lng: f"IMG_{lat}_{lng}.jpg",
    lambda lat, lng: f"{lat}° {lng}°",
    lambda lat, lng: f"{lat}, {lng}",
    lambda lat, lng: f"{lat},{lng}",
]
LABELLED: list[Callable[[str, str], str]] = [
    lambda lat, lng: f"Lat: {lat}, Lon: {lng}",
    lambda lat, lng: f"lat={lat}&lng={lng}",
    lambda lat, lng: f"latitude {lat}\nlongitude {lng}\naccuracy: 16",
    lambda lat, lng: f'{{"latitude": "{lat}", "longitude": "{lng}"}}',
    lambda lat, lng: f"<lat>{lat}</lat><lon>{lng}</lon>",
    lambda lat, lng: f"GPS Latitude             : {lat}\nGPS Longitude            : {lng}",
    lambda lat, lng: f"LONG {lng} LAT {lat}",
    lambda lat, lng: f"Altitude: 35.12345 m Latitude (deg): {lat}; Longitude (deg): {lng}",
    lambda lat, lng: f"geo:lat={lat} geo:lon={lng}",
    lambda lat, lng: f"lat{lat}_lon{lng}.jpg",
]


@settings(max_examples=60, deadline=None)
@given(LATITUDES, LONGITUDES, st.booleans(), st.sampled_from(MINUSES))
def test_decimals_are_read_back_in_every_spelling(lat: float, lng: float, comma: bool, minus: str) -> None:
    place = pytest.approx((round(lat, 5), round(lng, 5)), abs=1e-9)
    one, other = (number(value, comma=comma, minus=minus) for value in (lat, lng))
    for written in (*BARE, *LABELLED):
        assert place_in(written(one, other)) == place, written(one, other)
    if not comma:  # a program wrote it
        for text in (f"{{'latitude': {one}, 'longitude': {other}}}", f"geo:{one},{other};u=35", f"@{one},{other},17z"):
            assert place_in(text) == place, text
        assert place_in(f"lat,lon\n{one},{other}") == place
        assert place_in(f"lon,lat\n{other},{one}") == place
        assert place_in(f"POINT({other} {one})") == place
        assert place_in(f'"coordinates": [{other}, {one}, 12.0]') == place
        assert place_in(f"https://maps.example/?q={one}%2C{other}") == place


@settings(max_examples=60, deadline=None)
@given(LATITUDES, LONGITUDES, st.sampled_from(MARKS), st.booleans(), st.booleans(), st.booleans())
def test_angles_with_letters_are_read_back_in_every_spelling(
    lat: float, lng: float, marks: tuple[str, str, str], seconds: bool, comma: bool, words: bool
) -> None:
    place, (ns, ew) = pytest.approx((lat, lng), abs=1e-6), letters(lat, lng, words)
    for one, other in (
        [parted(value, marks, seconds=seconds, comma=comma) for value in (lat, lng)],
        [number(abs(value), comma=comma, places=7) for value in (lat, lng)],
    ):
        for text in (
            f"{one}{ns} {other}{ew}",
            f"{one} {ns}, {other} {ew}",
            f"at {one} {ns}; {other} {ew} in May",
            f"{other} {ew}, {one} {ns}",
            f"{ns} {one} {ew} {other}",
            f"{ns}{one}, {ew}{other}",
            f"{ew} {other} {ns} {one}",
            f"{one}{ns}_{other}{ew}.jpg",
            f"Lat: {one} {ns}, Lon: {other} {ew}",
            f"Latitude: {ns} {one} Longitude: {ew} {other}",
        ):
            assert place_in(text) == place, text
        labelled = f"GPSLatitude: {one}, GPSLatitudeRef: {ns}, GPSLongitude: {other}, GPSLongitudeRef: {ew}"
        assert place_in(labelled) == place, labelled


@settings(max_examples=60, deadline=None)
@given(LATITUDES, LONGITUDES, st.sampled_from(MARKS[:3]), st.booleans(), st.sampled_from(MINUSES))
def test_parted_angles_may_have_signs(
    lat: float, lng: float, marks: tuple[str, str, str], seconds: bool, minus: str
) -> None:
    one, other = (
        f"{minus if value < 0 else ''}{parted(value, marks, seconds=seconds)}" for value in (lat, lng)
    )  # -0°30': the sign of a number would be lost
    for text in (f"{one}, {other}", f"Lat {one} Lon {other}"):
        assert place_in(text) == pytest.approx((lat, lng), abs=1e-6), text


@settings(max_examples=60, deadline=None)
@given(LATITUDES, LONGITUDES)
def test_machines_own_forms_are_read_back(lat: float, lng: float) -> None:
    place, (ns, ew) = pytest.approx((lat, lng), abs=1e-6), letters(lat, lng, words=False)
    assert place_in(f"{lat:+010.6f}{lng:+011.6f}/") == place
    assert place_in(f"{lat:+010.6f}{lng:+011.6f}+035.1CRSWGS_84/") == place
    minutes = [divmod(round(abs(value) * 6_000_000), 6_000_000) for value in (lat, lng)]
    (lat_deg, lat_min), (lng_deg, lng_min) = ((whole, rest / 100_000) for whole, rest in minutes)
    assert place_in(f"{lat_deg:02d}{lat_min:08.5f},{ns},{lng_deg:03d}{lng_min:08.5f},{ew}") == place
    assert place_in(f"lat: {lat!r}, lon: {lng!r}") == pytest.approx((lat, lng), abs=1e-12)


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
        ("485130.24N0021740.20E", (LAT, LNG)),
        ("lat48_8584_lon2_2945.jpg", (LAT, LNG)),
        ("48.8584, 2.2945, 35.123", (LAT, LNG)),  # the last is an altitude
        ("alt 35.123 48.8584 2.2945", (LAT, LNG)),
        ("lat: 0.0 lon: 0.0 then lat: 48.8584 lon: 2.2945", (LAT, LNG)),
        ("0.000, 0.000", (0.0, 0.0)),
        ("- 33.8569, 151.2153", (-33.8569, 151.2153)),
        ("Sydney - 33.8569, 151.2153", (33.8569, 151.2153)),  # a dash
        ("lat - 48.8584 lon - 2.2945", (LAT, LNG)),
        ("lat: - 33.8569 lon: 151.2153", (-33.8569, 151.2153)),
        ("48.85N 2.29E 33.86S 151.2E", (48.85, 2.29)),
        ("N48.85 E2.29 N33.86 E151.21", (48.85, 2.29)),
        ("12.50, 13.75 euros", None),
        ("12,345; 67,890", None),
        ("95.1234, 20.1234", None),  # off the Earth
        ("48°75'N 2°17'E", None),  # there is no minute 75
        ("12 N 5 E", None),
        ("flat 20 along 30", None),
        ("2024:05:12 10:20:30", None),
        ("altitude 35.123, 12.345", None),
        ("GPSAltitude: 35.1234 GPSSpeed: 12.3456", None),
        ("", None),
    ],
)
def test_texts(text: str, place: tuple[float, float] | None) -> None:
    found = place_in(text)
    assert found is None if place is None else found == pytest.approx(place)


@given(st.text(max_size=200))
def test_any_text_is_harmless(text: str) -> None:
    place = place_in(text)
    assert place is None or (abs(place[0]) <= 90 and abs(place[1]) <= 180)


@pytest.mark.parametrize("part", ["1 ", "lat ", "48 51 ", "1.234 ", "lat:(", "gps ", "point", "1'", "_", "1_", "N1 "])
def test_long_texts_take_time_in_proportion(part: str) -> None:
    began = time.process_time()
    place_in(part * (40_000 // len(part)))
    assert time.process_time() - began < 5  # it is below 0.2 s; what grows with the square takes minutes


@pytest.mark.parametrize(
    ("parts", "compass", "degrees"),
    [
        ((33.0, 51.4147, math.nan), "S", -33.856912),
        ((33.8569,), "south", -33.8569),
        ((33.0, 51.4147), " N", 33.856912),
        ((-33.0, 30.0, 0.0), "S", -33.5),  # told twice
        ((0.0, -30.0, 0.0), "", -0.5),
        ((151.0, 60.0, 60.0), "w", -152.016667),  # rounded up by who wrote it
        ((0.0, 0.0, 0.0), "S", 0.0),
    ],
)
def test_numbers_of_an_angle(parts: tuple[float, ...], compass: str, degrees: float) -> None:
    assert angle_of(parts, compass) == pytest.approx(degrees, abs=1e-6)


@pytest.mark.parametrize(
    "parts", [(), (math.nan, 1.0, 2.0), (math.inf, 1.0, 2.0), (1.0, 61.0, 0.0), (181.0,), (1.0, math.inf), (1.0,) * 4]
)
def test_what_is_no_angle(parts: tuple[float, ...]) -> None:
    assert math.isnan(angle_of(parts))


@pytest.mark.parametrize(("text", "degrees"), [("2°17'40.2\"W", -LNG), ("−2,2945", -LNG), ("W 2 17.670", -LNG)])
def test_a_text_that_is_one_angle(text: str, degrees: float) -> None:
    assert angle_in(text) == pytest.approx(degrees)
    assert math.isnan(angle_in(f"{text} and more"))
