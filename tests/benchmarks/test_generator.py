import hashlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from benchmarks.world import generator
from benchmarks.world.generator import (
    CLASSES,
    WorldConfig,
    classify_relief,
    generate,
    most_frequent,
    sample_bilinear,
    sample_nearest,
    tile_coordinates,
)
from indexer.earth.geo import EARTH_RADIUS_KM, haversine_km
from indexer.errors import InputError

SMALL = WorldConfig(n_train=100, n_validation=10, n_test=15, seed=5)
DEGREE_KM = EARTH_RADIUS_KM * math.pi / 180


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(SMALL, tmp_path_factory.mktemp("world") / "world")


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def open_array(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_same_config_same_bytes_whatever_the_block_size(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "_BLOCK", 7)
    assert digests(generate(SMALL, tmp_path / "again")) == digests(world)


def test_size_of_one_split_leaves_the_others_alone(world: Path, tmp_path: Path) -> None:
    other = digests(generate(replace(SMALL, n_train=2), tmp_path / "other"))
    held_out = {name: digest for name, digest in digests(world).items() if "/test/" in name or "/validation/" in name}
    assert held_out.items() <= other.items()


def test_table_names_every_file(world: Path) -> None:
    table = pq.read_table(world / "photos.parquet")
    assert table.column_names == ["photo", "lat", "lng", "split", "map"]
    rows = table.to_pydict()
    assert [rows["split"].count(split) for split in generator.SPLITS] == [100, 10, 15]
    named = {*rows["photo"], *rows["map"], "photos.parquet", "world.json"}
    assert named == set(digests(world))
    assert rows["photo"][0] == "tiles/train/00000.jpg"
    assert rows["map"][-1] == "maps/test/00014.png"


def test_places_are_on_earth_and_splits_differ(world: Path) -> None:
    rows = pq.read_table(world / "photos.parquet").to_pydict()
    lat, lng = np.array(rows["lat"]), np.array(rows["lng"])
    assert np.all(np.abs(lat) <= 90)
    assert np.all((lng >= -180) & (lng < 180))
    assert len(np.unique(lat)) == len(lat)


def test_tiles_are_colour_and_maps_are_class_ids(world: Path) -> None:
    rows = pq.read_table(world / "photos.parquet").to_pydict()
    for photo, class_map in zip(rows["photo"], rows["map"], strict=True):
        assert open_array(world / photo).shape == (48, 48, 3)
        ids = open_array(world / class_map)
        assert ids.shape == (48, 48)
        assert ids.max() < len(CLASSES)


def test_maps_and_tiles_show_the_same_coast(tmp_path: Path) -> None:
    # Blue outweighs red at sea and hardly ever on land, in a picture that knows nothing of the relief picture.
    folder = generate(replace(SMALL, brightness=0.0, colour_shift=0.0), tmp_path / "world")
    rows = pq.read_table(folder / "photos.parquet").to_pydict()
    tiles = np.stack([open_array(folder / photo) for photo in rows["photo"]]).astype(int)
    sea = np.stack([open_array(folder / path) for path in rows["map"]]) <= CLASSES.index("shelf")
    assert ((tiles[..., 2] > tiles[..., 0]) == sea).mean() > 0.93


def test_finished_world_is_kept(world: Path, tmp_path: Path) -> None:
    out = generate(replace(SMALL, n_train=3), tmp_path / "world")
    before = (out / "photos.parquet").stat()
    assert generate(replace(SMALL, n_train=3), out) == out
    assert (out / "photos.parquet").stat() == before


def test_other_config_is_refused(world: Path) -> None:
    with pytest.raises(InputError, match="another config"):
        generate(replace(SMALL, seed=6), world)


def test_foreign_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a world"):
        generate(SMALL, tmp_path)


def test_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "_BLOCK", 64)

    def stop(done: int, total: int) -> None:
        raise RuntimeError(f"{done} of {total}")

    with pytest.raises(RuntimeError, match="64 of 125"):
        generate(SMALL, tmp_path / "world", progress=stop)
    assert not list(tmp_path.iterdir())


def test_progress_reaches_the_total(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "_BLOCK", 64)
    calls: list[tuple[int, int]] = []
    generate(SMALL, tmp_path / "world", progress=lambda done, total: calls.append((done, total)))
    assert calls == [(64, 125), (100, 125), (110, 125), (125, 125)]


@pytest.mark.parametrize(("lat", "lng"), [(0.0, 0.0), (52.0, 13.4), (-17.0, 179.9), (89.9, 20.0), (-90.0, -60.0)])
def test_tile_spans_its_width_everywhere(lat: float, lng: float) -> None:
    half_width = 3.2
    centre = np.array([lat]), np.array([lng])
    lats, lngs = tile_coordinates(
        *centre,
        rotation_rad=np.array([0.4]),
        half_width_rad=np.radians([half_width]),
        tile_px=49,  # odd, so that there is a middle pixel
    )
    np.testing.assert_allclose(haversine_km(lats[:, 24, 24], lngs[:, 24, 24], *centre), 0, atol=1e-6)
    middles = 0, [0, 24, 24, 48], [24, 0, 48, 24]  # of the four edges
    edges = haversine_km(lats[middles], lngs[middles], *centre)
    # The outermost pixel's centre is half a pixel inside the edge; tan is nearly straight at 3 degrees.
    np.testing.assert_allclose(edges, half_width * DEGREE_KM * 48 / 49, rtol=1e-3)


def test_rotation_turns_up_from_north_to_east() -> None:
    place = np.zeros(2)
    lats, lngs = tile_coordinates(
        place, place, rotation_rad=np.radians([0.0, 90.0]), half_width_rad=np.radians([2.0, 2.0]), tile_px=3
    )
    top_lat, top_lng = lats[:, 0, 1], lngs[:, 0, 1]
    assert top_lat[0] > 1
    assert abs(top_lng[0]) < 1e-9
    assert top_lng[1] > 1
    assert abs(top_lat[1]) < 1e-9


def test_bilinear_wraps_at_the_dateline_and_stops_at_the_poles() -> None:
    picture = np.zeros((2, 4, 1), np.uint8)
    picture[:, 0], picture[:, 3] = 100, 200
    lng = np.array([-180.0, 180.0, -135.0])  # between the outer columns, twice, and the middle of the first one
    for lat in (90.0, 45.0, 0.0, -90.0):
        np.testing.assert_allclose(sample_bilinear(picture, np.full(3, lat), lng)[:, 0], [150, 150, 100])


@settings(max_examples=50, deadline=None)
@given(row=st.integers(0, 5), column=st.integers(0, 11))
def test_samplers_return_the_pixel_at_its_centre(row: int, column: int) -> None:
    picture = np.arange(72, dtype=np.uint8).reshape(6, 12)
    lat, lng = np.array([90 - (row + 0.5) * 30]), np.array([-180 + (column + 0.5) * 30])
    assert sample_nearest(picture, lat, lng) == picture[row, column]
    np.testing.assert_allclose(sample_bilinear(picture[..., None], lat, lng)[0], picture[row, column], rtol=1e-6)


def test_known_places_have_their_relief() -> None:
    classes = generator._load_pictures().classes
    known = {
        "ice": (72.0, -40.0),  # Greenland
        "high plateau": (33.0, 88.0),  # Tibet
        "mountains": (39.0, -106.5),  # Colorado
        "shelf": (54.0, 5.0),  # North Sea
        "abyss": (25.0, -55.0),  # western Atlantic
        "rolling land": (23.0, 0.0),  # Sahara
        "plain": (47.0, 50.0),  # north of the Caspian, below the sea
    }
    lat, lng = np.array(list(known.values())).T
    assert [CLASSES[i] for i in sample_nearest(classes, lat, lng)] == list(known)


@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (50, 2), (64, 30), (65, 30), (200, 70)])
def test_the_most_frequent_of_nine_is_that_of_pillow(shape: tuple[int, int]) -> None:
    for values in (2, 4, 11):
        classes = np.random.default_rng(values).integers(0, values, shape, np.uint8)
        expected = np.asarray(Image.fromarray(classes).filter(ImageFilter.ModeFilter(3)))
        np.testing.assert_array_equal(most_frequent(classes), expected)


def test_legend_colours_keep_their_class_in_the_shade() -> None:
    shaded = [(name, np.multiply(colour, f)) for name, colour in generator._LEGEND for f in generator._shades(name)]
    picture = np.repeat([colour for _, colour in shaded], 3, axis=0).astype(np.uint8)
    found = classify_relief(np.stack([picture] * 3))[1, 1::3]
    # Neighbours on the legend may run into each other in the shade; land, sea and ice must not.
    assert np.all(np.abs(found.astype(int) - [CLASSES.index(name) for name, _ in shaded]) <= 1)
