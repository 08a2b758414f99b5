"""Pictures: lines that go the short way, and files that can be opened and never change."""

import io

import numpy as np
from PIL import Image

from search.evaluation.metrics import AREAS_KM2
from search.pages.pictures import accuracy_curve, error_map, map_lines, recall_curve


def test_lines_take_the_short_way_over_the_antimeridian() -> None:
    lines = map_lines(np.array([[0.0, 170.0]]), np.array([[10.0, -170.0]]))
    np.testing.assert_allclose(lines, [[[170, 0], [180, 5]], [[-180, 5], [-170, 10]]])
    back = map_lines(np.array([[10.0, -170.0]]), np.array([[0.0, 170.0]]))
    np.testing.assert_allclose(back, [[[-170, 10], [-180, 5]], [[180, 5], [170, 0]]])


def test_lines_that_stay_inside_are_one_piece() -> None:
    lines = map_lines(np.array([[0.0, -80.0], [0.0, -180.0]]), np.array([[5.0, 100.0], [1.0, 180.0]]))
    assert [len(line) for line in lines[:1]] == [2]
    np.testing.assert_allclose(lines[0], [[-80, 0], [100, 5]])
    # -180 and 180 are one meridian: nothing is drawn across the map.
    assert all(abs(line[1, 0] - line[0, 0]) == 0 for line in lines[1:])


def opened(picture: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(picture))
    image.load()
    assert image.format == "PNG"
    return image


def test_pictures_are_pictures_and_the_same_again() -> None:
    errors = {"this $run$": np.array([5.0, 100.0, np.nan]), "_other": np.array([np.nan, np.nan, np.nan])}
    assert b"<svg" in accuracy_curve(errors, kind="svg")[:1000]
    assert accuracy_curve(errors, kind="svg") == accuracy_curve(errors, kind="svg")
    assert opened(accuracy_curve(errors)).size == opened(recall_curve({"a": np.zeros(len(AREAS_KM2))}, AREAS_KM2)).size
    assert accuracy_curve(errors) == accuracy_curve(errors)


def test_maps_hold_many_photos_few_or_none() -> None:
    rng = np.random.default_rng(0)
    for n in (0, 1, 3000):
        places = np.stack([rng.uniform(-90, 90, n), rng.uniform(-180, 180, n)], axis=1)
        opened(error_map(places, places[::-1], rng.uniform(0, 20000, n)))
    opened(error_map(np.zeros((2, 2)), np.full((2, 2), np.nan), np.full(2, np.nan)))
