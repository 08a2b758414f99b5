"""Names of photos that say where they were taken, as the datasets of visual place recognition write them.

    @UTM_east@UTM_north@UTM_zone_number@UTM_zone_letter@latitude@longitude@pano_id@tile_num@heading@...@.jpg

So are the datasets named that come with the scripts of Berton et al., "Deep Visual Geo-localization Benchmark" (CVPR
2022), and others since. Fields after the zone may be empty. Names without a zone, `@east@north@.jpg`, say no place on
Earth.
"""

import math

from indexer.earth.utm import place_of_utm

_BANDS = "CDEFGHJKLMNPQRSTUVWX"  # of latitude, from the south; the second half is in the north
_NOWHERE = math.nan, math.nan


def place_in_name(name: str) -> tuple[float, float]:
    """Latitude and longitude in degrees that a name says, folders left aside; NaN where it says none.

    Where a name has both, latitude and longitude count, and not what was computed from them.
    """
    if "@" not in name:
        return _NOWHERE
    before, *fields = name.rpartition("/")[2].split("@")
    if before or len(fields) < 5:  # the last one is the suffix
        return _NOWHERE
    lat, lng = (_number(field) for field in (*fields[4:6], "", "")[:2])
    if abs(lat) <= 90 and abs(lng) <= 180:
        return lat, lng
    east, north, zone = (_number(field) for field in fields[:3])
    band = _BANDS.find(fields[3].strip().upper() or " ")
    if not (0 < east < 1e6 and 0 <= north <= 1e7 and zone in range(1, 61) and band >= 0):
        return _NOWHERE
    return place_of_utm(east, north, zone=int(zone), south=band < len(_BANDS) // 2)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
