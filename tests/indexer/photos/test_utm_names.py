import math

import pytest

from indexer.photos.utm_names import place_in_name

# Eiffel Tower, and Christ the Redeemer; UTM as PROJ computes it.
TOWER, STATUE = (48.8584, 2.2945), (-22.9519, -43.2105)


def is_nowhere(name: str) -> bool:
    lat, lng = place_in_name(name)
    return math.isnan(lat) and math.isnan(lng)


def test_latitude_and_longitude_of_a_name_count() -> None:
    name = "@0448251.80@5411943.79@31@U@048.85840@002.29450@pano@@90@@@@201810@@.jpg"
    assert place_in_name(name) == TOWER
    assert place_in_name(f"database/a@b/{name}") == TOWER
    assert place_in_name("@1@2@31@U@-22.9519@-43.2105@.jpg") == STATUE


@pytest.mark.parametrize("place", [TOWER, STATUE, (37.757, -122.50886), (-0.5, 179.9), (0.5, -179.9), (80.0, 20.0)])
def test_where_they_are_empty_utm_counts(place: tuple[float, float]) -> None:
    pyproj = pytest.importorskip("pyproj")
    lat, lng = place
    zone, band = int((lng + 180) // 6) + 1, "CDEFGHJKLMNPQRSTUVWX"[int((lat + 80) // 8)] if lat < 72 else "X"
    east, north = pyproj.Proj(proj="utm", zone=zone, south=lat < 0, ellps="WGS84")(lng, lat)
    for rest in ("@@@@@@@@@", "", "@200@400"):  # as no place on Earth has them
        found = place_in_name(f"images/@{east:.2f}@{north:.2f}@{zone:02d}@{band}{rest}@.jpg")
        assert found == pytest.approx(place, abs=2e-7)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "beach.jpg",
        "me@home.jpg",
        "@448251.80@5411943.79@.jpg",  # no zone
        "@448251.80@5411943.79@@@@@@.jpg",
        "@448251.80@5411943.79@31@@@@@@.jpg",  # which half of the Earth?
        "@448251.80@5411943.79@31@I@@@.jpg",
        "@448251.80@5411943.79@61@U@@@.jpg",
        "@448251.80@5411943.79@31.5@U@@@.jpg",
        "@nan@5411943.79@31@U@@@.jpg",
        "@448251.80@inf@31@U@@@.jpg",
        "@448251.80@5411943.79@31@U@nan@nan@.jpg/photo.jpg",
        "a@448251.80@5411943.79@31@U@48.8584@2.2945@.jpg",
    ],
)
def test_other_names_say_no_place(name: str) -> None:
    assert is_nowhere(name)
