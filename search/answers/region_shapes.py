"""Borders of regions that answers are held to: boxes and GeoJSON, and which cells they hold.

Shapes are drawn on longitude and latitude, where lines of GeoJSON are straight.
"""

import json
from pathlib import Path

import numpy as np
import shapely

from indexer.earth.polygons import cell_polygons
from indexer.errors import InputError
from search.answers.precision_cap import NamedCells

_INSIDE = 1e-7  # of the way from a border to a place well inside


def in_shape(cells: NamedCells, shape: shapely.Geometry, option: str, *, wholly: bool) -> np.ndarray:
    """Which cells lie in a shape, wholly or with some part: (C,) bool. InputError where cells are labels."""
    if cells.s2_ids is None:
        raise InputError(f"{option}: the cells are labels, which have no borders. Name countries.")
    shapely.prepare(shape)
    borders = cell_polygons(cells.s2_ids)
    return np.asarray(shapely.contains(shape, borders) if wholly else shapely.intersects(shape, borders))


def box(text: str, option: str) -> shapely.Geometry:
    """The box south,west,north,east in degrees; where west is above east, it passes the 180th meridian."""
    try:
        south, west, north, east = (float(number) for number in text.split(","))
    except ValueError:
        raise InputError(f"{option} {text}: a box is four numbers, south,west,north,east in degrees.") from None
    if not (-90 <= south < north <= 90 and abs(west) <= 180 and abs(east) <= 180 and west != east):
        raise InputError(
            f"{option} {text}: a box is south,west,north,east in degrees; south lies below north, from -90 to 90, and "
            "west and east from -180 to 180."
        )
    if west < east:
        return shapely.box(west, south, east, north)
    return shapely.union(shapely.box(west, south, 180, north), shapely.box(-180, south, east, north))


def file_polygons(file: Path, option: str) -> shapely.Geometry:
    """All polygons of a GeoJSON file. Raises InputError where it cannot be read, and as `polygons`."""
    if not file.is_file():
        raise InputError(f"{option} {file}: no such file.")
    try:
        text = file.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise InputError(f"{option} {file}: not GeoJSON ({error}).") from None
    return polygons(text, f"{option} {file}")


def polygons(text: str, where: str) -> shapely.Geometry:
    """All polygons of GeoJSON. InputError where it is none, or holds other things than polygons on the Earth.

    where: it stands, for errors.
    """
    try:
        shapes = shapely.get_parts(shapely.from_geojson(_with_geometries(text)))
        shapes = shapely.get_parts(shapes)  # of collections in a collection
    except (shapely.errors.GEOSException, ValueError, RecursionError) as error:
        raise InputError(f"{where}: not GeoJSON ({error}).") from None
    kinds = {shape.geom_type for shape in shapes.tolist()}
    if not kinds or kinds - {"Polygon"}:
        raise InputError(f"{where}: it must hold polygons, not {', '.join(sorted(kinds)) or 'nothing'}.")
    shapes = shapes[~shapely.is_empty(shapes)]
    if not shapes.size:
        raise InputError(f"{where}: its polygons are empty.")
    west, south, east, north = shapely.total_bounds(shapes)
    if not (-180 <= west and east <= 180 and -90 <= south and north <= 90):
        raise InputError(
            f"{where}: its coordinates are not longitude and latitude in degrees. Transform it to OGC:CRS84."
        )
    invalid = np.flatnonzero(~shapely.is_valid(shapes))
    if invalid.size:
        raise InputError(
            f"{where}: {shapely.is_valid_reason(shapes[invalid[0]])} in its polygon {invalid[0]}. Mend it."
        )
    return shapely.union_all(shapes)


def _with_geometries(text: str) -> str:
    """GeoJSON without features that have no place, which RFC 7946 allows and GEOS does not."""
    content = json.loads(text)
    if isinstance(content, dict) and isinstance(content.get("features"), list):
        features = content["features"]
        content["features"] = [each for each in features if not isinstance(each, dict) or each.get("geometry", 0)]
    return json.dumps(content)


def nearest_inside(
    place: tuple[float, float],
    s2_id: np.uint64,
    *,
    given: shapely.Geometry | None,
    ruled_out: shapely.Geometry | None,
) -> tuple[float, float]:
    """The place of an S2 cell that is nearest to another, inside what is given and outside of what is ruled out.

    place: latitude and longitude in degrees; the result likewise, and the same where the cell has no such place.
    """
    area = cell_polygons(np.array([s2_id], np.uint64))[0]
    area = area if given is None else shapely.intersection(area, given)
    area = area if ruled_out is None else shapely.difference(area, ruled_out)
    if shapely.is_empty(area):
        return place
    point = shapely.Point(place[1], place[0])
    border = shapely.get_coordinates(shapely.shortest_line(point, area))[-1]
    within = shapely.get_coordinates(shapely.point_on_surface(area))[0]
    lng, lat = border + _INSIDE * (within - border)  # on the border rounding would decide
    return float(lat), float(lng)
