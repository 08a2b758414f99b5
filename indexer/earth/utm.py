"""UTM coordinates to latitude and longitude, on WGS 84.

Krueger's series to the fourth order in the third flattening; C. F. F. Karney has them in "Transverse Mercator with an
accuracy of a few nanometers" (J. Geod. 85, 2011). Within a zone they are right to less than a millimetre.
"""

import math

_RADIUS_M, _FLATTENING = 6378137.0, 1 / 298.257223563
_SCALE = 0.9996  # on the meridian in the middle of a zone
_FALSE_EAST_M, _FALSE_NORTH_M = 500_000.0, 10_000_000.0  # the second in the south

_N = _FLATTENING / (2 - _FLATTENING)
_MERIDIAN_M = _RADIUS_M / (1 + _N) * (1 + _N**2 / 4 + _N**4 / 64)  # a quarter of a meridian, over pi / 2
_TO_SPHERE = (
    _N / 2 - 2 * _N**2 / 3 + 37 * _N**3 / 96 - _N**4 / 360,
    _N**2 / 48 + _N**3 / 15 - 437 * _N**4 / 1440,
    17 * _N**3 / 480 - 37 * _N**4 / 840,
    4397 * _N**4 / 161280,
)
_TO_ELLIPSOID = (
    2 * _N - 2 * _N**2 / 3 - 2 * _N**3 + 116 * _N**4 / 45,
    7 * _N**2 / 3 - 8 * _N**3 / 5 - 227 * _N**4 / 45,
    56 * _N**3 / 15 - 136 * _N**4 / 35,
    4279 * _N**4 / 630,
)


def place_of_utm(east_m: float, north_m: float, *, zone: int, south: bool) -> tuple[float, float]:
    """Latitude and longitude in degrees of a point of a zone, 1 to 60, of one half of the Earth."""
    y = (north_m - (_FALSE_NORTH_M if south else 0)) / (_SCALE * _MERIDIAN_M)
    x = (east_m - _FALSE_EAST_M) / (_SCALE * _MERIDIAN_M)
    rows = list(enumerate(_TO_SPHERE, start=1))
    y, x = (
        y - sum(part * math.sin(2 * j * y) * math.cosh(2 * j * x) for j, part in rows),
        x - sum(part * math.cos(2 * j * y) * math.sinh(2 * j * x) for j, part in rows),
    )
    conformal = math.asin(math.sin(y) / math.cosh(x))
    lat = conformal + sum(part * math.sin(2 * j * conformal) for j, part in enumerate(_TO_ELLIPSOID, start=1))
    lng_deg = 6 * zone - 183 + math.degrees(math.atan2(math.sinh(x), math.cos(y)))
    return math.degrees(lat), (lng_deg + 180) % 360 - 180
