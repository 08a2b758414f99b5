"""Where an answer may lie: regions that are given or ruled out.

In: countries, a box or a GeoJSON file. Out: the leaves that are allowed. A search compares these alone with the same
vectors, in every mode, so that it is exact where the mode is, and no allowed leaf is missed because the lists around it
are full of others. Probabilities are then those of a photo that was taken in the region.

A leaf is allowed if some place in it is: it overlaps what is given, and does not lie wholly in what is ruled out.
Countries are those of the cells' names, that of the city nearest to a cell's point, and have no other borders here.
"""

import re
from pathlib import Path

import numpy as np

from indexer.disk.manifest import file_digest
from indexer.earth.places import countries
from indexer.errors import InputError
from search.answers.precision_cap import NamedCells

JSON_SUFFIXES = (".geojson", ".json")
_BOX = re.compile(r"\s*[-+.\d]+\s*(,\s*[-+.\d]+\s*){3}")


def allowed_cells(cells: NamedCells, *, region: str | None, not_region: str | None) -> np.ndarray:
    """The cells in which a place may lie, leaves or those of a precision cap: (R,) int64, ascending.

    region, not_region: ISO 3166 country codes with commas between; a box as south,west,north,east in degrees, which
    passes the 180th meridian where west is above east; or the name of a GeoJSON file of polygons. None: anywhere.

    Raises:
        InputError: a region that says nothing or holds no leaf, or borders where cells are labels.
        MissingBackend: borders need the extra `export`.
    """
    allowed = np.ones(len(cells.keys), bool)
    if region is not None:
        allowed &= _in_region(cells, region, "`region`", wholly=False)
        if not allowed.any():
            raise InputError(f"`region` {region}: no cell of this bundle overlaps it. Ask for a larger one.")
    if not_region is not None:
        allowed &= ~_in_region(cells, not_region, "`not_region`", wholly=True)
        if not allowed.any():
            raise InputError(f"`not_region` {not_region}: it leaves no cell of this bundle. Rule out less.")
    return np.flatnonzero(allowed)


def region_digests(region: str | None, not_region: str | None) -> dict[str, str]:
    """Digests of the files among these."""
    named = {"region": region, "not_region": not_region}
    return {name: file_digest(Path(text)) for name, text in named.items() if text is not None and _is_file_name(text)}


def _is_file_name(text: str) -> bool:
    return Path(text).suffix.lower() in JSON_SUFFIXES


def _in_region(cells: NamedCells, text: str, option: str, *, wholly: bool) -> np.ndarray:
    """Which cells lie in a region, wholly or with some part: (C,) bool."""
    if _is_file_name(text) or _BOX.fullmatch(text):
        import indexer.earth.polygons  # noqa: F401 (it says what to install where shapely is missing)
        from search.answers.region_shapes import box, in_shape, polygons  # the extra is needed by those who use it

        shape = polygons(Path(text), option) if _is_file_name(text) else box(text, option)
        return in_shape(cells, shape, option, wholly=wholly)
    codes = [code.strip().upper() for code in text.split(",")]
    unknown = sorted(set(codes) - set(countries()))
    if unknown:
        raise InputError(
            f"{option} {text}: {unknown[0]!r} is no ISO 3166 country code. Give codes such as FR,DE, a box as "
            "south,west,north,east, or a .geojson file."
        )
    return np.isin(cells.country, codes)
