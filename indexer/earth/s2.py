"""S2 cell arithmetic over arrays; bit for bit what `s2sphere` computes one point at a time.

A cell id is a uint64: three bits of cube face, the position along that face's Hilbert curve, a 1 bit, zeros. In id
order all descendants of a cell are one contiguous range. Geometry that is not hot is left to `s2sphere`.
http://s2geometry.io/devguide/s2cell_hierarchy describes the encoding.
"""

import math

import numpy as np

from indexer.earth.geo import EARTH_RADIUS_KM, lat_lng
from indexer.errors import InputError

MAX_LEVEL = 30
_SWAP, _INVERT = 1, 2  # the two bits of a Hilbert curve's orientation
_ONE = np.uint64(1)


def _hilbert_tables() -> tuple[np.ndarray, np.ndarray]:
    """Four Hilbert levels at once: ((i, j), orientation) -> (position, orientation), and its inverse; (1024,) each."""
    position_to_ij = np.array([[0, 1, 3, 2], [0, 2, 3, 1], [3, 2, 0, 1], [3, 1, 0, 2]])
    orientation_change = np.array([_SWAP, 0, 0, _INVERT | _SWAP])
    start, position = np.meshgrid(np.arange(4), np.arange(256), indexing="ij")
    orientation, i, j = start, np.zeros_like(start), np.zeros_like(start)
    for shift in (6, 4, 2, 0):
        digit = (position >> shift) & 3
        ij = position_to_ij[orientation, digit]
        i, j = i << 1 | ij >> 1, j << 1 | ij & 1
        orientation = orientation ^ orientation_change[digit]
    from_ij = np.empty(1024, np.uint64)
    to_ij = np.empty(1024, np.uint64)
    from_ij[(i << 6 | j << 2 | start).ravel()] = (position << 2 | orientation).ravel()
    to_ij[(position << 2 | start).ravel()] = (i << 6 | j << 2 | orientation).ravel()
    return from_ij, to_ij


_FROM_IJ, _TO_IJ = _hilbert_tables()


def point_ids(lat_deg: np.ndarray, lng_deg: np.ndarray) -> np.ndarray:
    """Ids (N,) uint64 of the level-30 cells of points (N,) in degrees; the caller has checked their ranges."""
    face, u, v = _face_uv(np.asarray(lat_deg, np.float64), np.asarray(lng_deg, np.float64))
    return _from_face_ij(face, _grid(u), _grid(v))


def levels(ids: np.ndarray) -> np.ndarray:
    """S2 level, 0 to 30, of each id: (N,) int64."""
    # frexp is exact for a power of two: the lowest set bit of a level-l id is 4 ** (30 - l).
    return MAX_LEVEL - (np.frexp(_lowest_bit(ids).astype(np.float64))[1] - 1) // 2


def parents(ids: np.ndarray, s2_level: int) -> np.ndarray:
    """Ancestors at `s2_level`, which must not be finer than any of the ids: (N,) uint64."""
    bit = np.uint64(1) << np.uint64(2 * (MAX_LEVEL - s2_level))
    return (ids & (~bit + _ONE)) | bit


def children(ids: np.ndarray) -> np.ndarray:
    """The four children of each id, in id order: (N, 4) uint64. Ids must be coarser than level 30."""
    quarter = _lowest_bit(ids) >> np.uint64(2)
    steps = np.array([-3, -1, 1, 3], np.int64).view(np.uint64)
    return ids[:, None] + steps * quarter[:, None]  # wraps like any unsigned arithmetic, which is what is wanted


def range_min(ids: np.ndarray) -> np.ndarray:
    """Smallest point id inside each cell: (N,) uint64."""
    return ids - (_lowest_bit(ids) - _ONE)


def range_max(ids: np.ndarray) -> np.ndarray:
    """Largest point id inside each cell: (N,) uint64."""
    return ids + (_lowest_bit(ids) - _ONE)


def cells_of_level(s2_level: int) -> np.ndarray:
    """Every cell of one level in id order: (6 * 4 ** level,) uint64. Meant for the first few levels."""
    ids = (np.arange(6, dtype=np.uint64) << np.uint64(61)) | np.uint64(1 << 60)
    for _ in range(s2_level):
        ids = children(ids).ravel()
    return ids


def locate(cells: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Index of the cell that contains each id, or -1.

    cells: (C,) uint64 strictly increasing and disjoint. ids: (N,) uint64 of any level, where a coarser id counts
    as inside a cell when its centre is. Returns (N,) int64.
    """
    if not cells.size:
        return np.full(ids.shape, -1, np.int64)
    index = np.searchsorted(range_min(cells), ids, side="right") - 1
    inside = (index >= 0) & (ids <= range_max(cells)[np.maximum(index, 0)])
    return np.where(inside, index, -1)


def centres(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Latitude and longitude (N,) in degrees of each cell's centre."""
    return lat_lng(directions(ids).T)


def directions(ids: np.ndarray) -> np.ndarray:
    """Unit vectors (3, N) float64 to each cell's centre."""
    face, s, t, width = _squares(ids)
    s, t = s + width / 2, t + width / 2
    points = np.stack(_face_uv_to_xyz(face, _st_to_uv(s), _st_to_uv(t)))
    points /= np.sqrt(np.einsum("an,an->n", points, points))
    return points


def outlines(ids: np.ndarray, parts: int) -> np.ndarray:
    """Unit vectors (N, 4 * parts, 3) float64 around each cell, counterclockwise, each edge in `parts` pieces.

    With a power of two the points are corners of descendants, so that neighbours of several levels share them.
    """
    face, s, t, width = (values[:, None] for values in _squares(ids))
    along, one = np.arange(parts) / parts, np.ones(parts)
    s = s + width * np.concatenate([along, one, 1 - along, 0 * one])
    t = t + width * np.concatenate([0 * one, along, one, 1 - along])
    # A line of equal u or v on a face of the cube is a great circle on the sphere, as an edge is.
    points = np.stack(_face_uv_to_xyz(np.broadcast_to(face, s.shape), _st_to_uv(s), _st_to_uv(t)), axis=-1)
    return points / np.linalg.norm(points, axis=-1, keepdims=True)


def areas_km2(ids: np.ndarray) -> np.ndarray:
    """Area of each cell on the sphere: (N,) float64. A cell's edges are great circles, so two triangles make it up."""
    a, b, c, d = np.moveaxis(outlines(ids, 1), 1, 0)
    return EARTH_RADIUS_KM**2 * (_triangles(a, b, c) + _triangles(a, c, d))


def level_of_width(km: float) -> int:
    """The finest S2 level whose cells are on average at least so wide: the edge of a square of their mean area.

    An InputError where no cell can be as wide.
    """
    widths = [math.sqrt(4 * math.pi / (6 * 4**level)) * EARTH_RADIUS_KM for level in range(MAX_LEVEL + 1)]
    if not 0 < km <= widths[0]:
        raise InputError(f"A precision cap must be above 0 and at most {widths[0]:,.0f} km, not {km:g}.")
    return max(level for level, width in enumerate(widths) if width >= km)


def tokens(ids: np.ndarray) -> list[str]:
    """Hex tokens as S2 writes them: sixteen digits without trailing zeros."""
    return [f"{cell:016x}".rstrip("0") or "X" for cell in np.asarray(ids, np.uint64).tolist()]


def valid(ids: np.ndarray) -> np.ndarray:
    """Which ids name a cell: face below six, lowest set bit at an even place. (N,) bool."""
    even = np.uint64(0x1555555555555555)
    return (ids >> np.uint64(61) < np.uint64(6)) & ((_lowest_bit(ids) & even) != np.uint64(0))


def _triangles(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Solid angles (N,) of spherical triangles with corners (N, 3) float64 (Van Oosterom and Strackee 1983, eq. 8)."""
    # The triple product of the corners themselves would be the difference of numbers near 1; of small cells nothing
    # would be left of it.
    volume = np.einsum("na,na->n", a, np.cross(b - a, c - a))
    return 2 * np.arctan2(volume, 1 + np.einsum("na,na->n", a, b + c) + np.einsum("na,na->n", b, c))


def _lowest_bit(ids: np.ndarray) -> np.ndarray:
    return ids & (~ids + _ONE)


def _face_uv(lat_deg: np.ndarray, lng_deg: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # The order of operations is s2sphere's: another one differs in the last bit, and so in the cell at an edge.
    phi, theta = np.radians(lat_deg), np.radians(lng_deg)
    cos_phi = np.cos(phi)
    xyz = np.stack([np.cos(theta) * cos_phi, np.sin(theta) * cos_phi, np.sin(phi)])
    size = np.abs(xyz)
    axis = np.where(size[0] > size[1], np.where(size[0] > size[2], 0, 2), np.where(size[1] > size[2], 1, 2))
    negative = np.take_along_axis(xyz, axis[None], axis=0)[0] < 0
    face = axis + 3 * negative
    x, y, z = xyz
    with np.errstate(all="ignore"):  # every face is computed; only the right one is taken
        u = np.choose(face, [y / x, -x / y, -x / z, z / x, z / y, -y / z])
        v = np.choose(face, [z / x, z / y, -y / z, y / x, -x / y, -x / z])
    return face, u, v


def _grid(uv: np.ndarray) -> np.ndarray:
    root = np.sqrt(1 + 3 * np.abs(uv))
    st = np.where(uv >= 0, 0.5 * root, 1 - 0.5 * root)
    return np.clip(np.floor(st * 2**MAX_LEVEL), 0, 2**MAX_LEVEL - 1).astype(np.uint64)


def _st_to_uv(st: np.ndarray) -> np.ndarray:
    return np.where(st >= 0.5, (4 * st * st - 1) / 3, (1 - 4 * (1 - st) * (1 - st)) / 3)


def _face_uv_to_xyz(face: np.ndarray, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    one = np.ones_like(u)
    x = np.choose(face, [one, -u, -u, -one, v, v])
    y = np.choose(face, [u, one, -v, -v, -one, u])
    z = np.choose(face, [v, v, one, -u, -u, -one])
    return x, y, z


def _from_face_ij(face: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    ids = face.astype(np.uint64) << np.uint64(60)
    bits = face.astype(np.uint64) & np.uint64(_SWAP)
    for step in range(7, -1, -1):
        digits = ((i >> np.uint64(4 * step)) & np.uint64(15)) << np.uint64(6)
        digits |= ((j >> np.uint64(4 * step)) & np.uint64(15)) << np.uint64(2)
        bits = _FROM_IJ[digits | bits]
        ids |= (bits >> np.uint64(2)) << np.uint64(8 * step)
        bits &= np.uint64(3)
    return ids * np.uint64(2) + _ONE


def _squares(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Face of each cell, and its lower corner (s, t) and width on that face, in [0, 1]; all exact."""
    face, i, j = _to_face_ij(ids)
    # The walk ends in the level-30 cell next to the centre; snapping to the cell's own grid finds the cell.
    width = np.uint64(1) << (np.uint64(MAX_LEVEL) - levels(ids).astype(np.uint64))
    s, t = ((k & ~(width - _ONE)).astype(np.float64) / 2**MAX_LEVEL for k in (i, j))
    return face, s, t, width.astype(np.float64) / 2**MAX_LEVEL


def _to_face_ij(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    face = (ids >> np.uint64(61)).astype(np.int64)
    bits = face.astype(np.uint64) & np.uint64(_SWAP)
    i = np.zeros(ids.shape, np.uint64)
    j = np.zeros(ids.shape, np.uint64)
    for step in range(7, -1, -1):
        digits = np.uint64(0xF if step == 7 else 0xFF)  # 30 bits are seven groups of four and one of two
        bits = _TO_IJ[((ids >> np.uint64(8 * step + 1)) & digits) << np.uint64(2) | bits]
        i |= (bits >> np.uint64(6)) << np.uint64(4 * step)
        j |= ((bits >> np.uint64(2)) & np.uint64(15)) << np.uint64(4 * step)
        bits &= np.uint64(3)
    return face, i, j
