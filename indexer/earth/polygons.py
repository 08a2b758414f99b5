"""Areas of S2 cells as polygons on longitude and latitude, for maps.

In: cell ids. Out: shapely polygons, exterior rings counterclockwise, longitudes from -180 to 180. An edge of a cell is
a piece of a great circle, which is no straight line on such a map; it is divided until it nearly is. No polygon crosses
the 180th meridian (RFC 7946, section 3.1.9); one that holds a pole, inside or as a corner, has a side along it.
"""

import numpy as np

from indexer.earth import s2
from indexer.earth.geo import EARTH_RADIUS_KM, lat_lng, unit_vectors
from indexer.errors import MissingBackend

try:
    import antimeridian
    import shapely
except ImportError as error:
    raise MissingBackend(
        f"{error.name} is not installed; exports need it. In the checkout: pip install '.[export]'"
    ) from error

# How far a drawn edge may lie from the true one: at most this, and at most this share of the cell's shortest edge.
DEVIATION_KM = 0.1
DEVIATION_SHARE = 0.001


def cell_polygons(ids: np.ndarray) -> np.ndarray:
    """The area of each cell: (N,) array of shapely polygons; the faces of the cube on the 180th meridian are in two.

    Each edge is divided by itself, so cells of one size share the points of the edge between them.

    ids: (N,) uint64 of any levels.
    """
    polygons = np.empty(len(ids), object)
    needed = np.zeros((len(ids), 4), np.int64)  # pieces of each edge, 0 while too few
    undrawn, parts = np.arange(len(ids)), 1
    while undrawn.size:
        outlines = s2.outlines(ids[undrawn], parts)
        needed[undrawn] = np.where((needed[undrawn] == 0) & _are_straight(outlines, parts), parts, needed[undrawn])
        done = needed[undrawn].all(axis=1)
        step = np.repeat(parts // np.maximum(needed[undrawn], 1), parts, axis=1)
        kept = np.tile(np.arange(parts), 4) % step == 0
        polygons[undrawn[done]] = _draw(ids[undrawn[done]], outlines[done], kept[done])
        undrawn, parts = undrawn[~done], 2 * parts
    return polygons


def _are_straight(outlines: np.ndarray, parts: int) -> np.ndarray:
    """Whether the lines drawn from point to point stay as near to each edge as promised: (N, 4) bool."""
    ends = np.roll(outlines, -1, axis=1)
    (lat, lng), (end_lat, end_lng) = lat_lng(outlines), lat_lng(ends)
    # A pole has no longitude: the line to it keeps the one it comes from.
    lng, end_lng = np.where(_at_pole(outlines), end_lng, lng), np.where(_at_pole(ends), lng, end_lng)
    turn = (end_lng - lng + 180) % 360 - 180
    drawn = unit_vectors((lat + end_lat) / 2, lng + turn / 2)
    true = outlines + ends
    true /= np.linalg.norm(true, axis=-1, keepdims=True)
    # Off the equator, latitude along a great circle bends one way only, so a line strays at most twice as far as here.
    stray_km = 2 * EARTH_RADIUS_KM * np.linalg.norm(drawn - true, axis=-1)
    corners = outlines[:, ::parts]
    edge_km = EARTH_RADIUS_KM * np.linalg.norm(corners - np.roll(corners, -1, axis=1), axis=-1)
    return stray_km.reshape(-1, 4, parts).max(axis=2) <= np.minimum(DEVIATION_KM, DEVIATION_SHARE * edge_km)


def _at_pole(points: np.ndarray) -> np.ndarray:
    return (points[..., 0] == 0) & (points[..., 1] == 0)


def _draw(ids: np.ndarray, outlines: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Polygons (N,) of the kept points (N, P) bool of outlines (N, P, 3)."""
    lat, lng = lat_lng(outlines)
    # A point on the 180th meridian takes the sign of the side its cell is on.
    lng = np.where(np.abs(lng) == 180, np.copysign(180, s2.centres(ids)[1])[:, None], lng)
    points = np.stack([lng, lat], axis=-1)
    polygons = shapely.polygons(shapely.linearrings(points[kept], indices=np.nonzero(kept)[0]))
    pole = _at_pole(outlines)
    for cell in np.flatnonzero(pole.any(axis=1)):
        polygons[cell] = _with_pole_corner(points[cell][kept[cell]], int(np.argmax(pole[cell][kept[cell]])))
    # The 180th meridian divides faces of the cube; to all smaller cells it is an edge or nothing.
    for cell in np.flatnonzero((s2.levels(ids) == 0) & (np.ptp(lng, axis=1) > 180)):
        cut = antimeridian.fix_polygon(polygons[cell], fix_winding=False)
        polygons[cell] = shapely.remove_repeated_points(cut, 1e-6)  # points on the cut come out twice, but for rounding
    return polygons


def _with_pole_corner(ring: np.ndarray, corner: int) -> shapely.Polygon:
    """The corner at the pole becomes a side: the pole is a line on this map. ring: (P, 2), not closed."""
    ring = np.insert(ring, corner, ring[corner], axis=0)
    ring[corner, 0] = ring[corner - 1, 0]
    ring[corner + 1, 0] = ring[(corner + 2) % len(ring), 0]
    return shapely.Polygon(ring)
