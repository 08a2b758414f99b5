"""Where an answer may lie: regions that are given or ruled out.

In: countries, a box or a GeoJSON file. Out: the leaves that are allowed. A search compares these alone with the same
vectors, in every mode, so that it is exact where the mode is, and no allowed leaf is missed because the lists around it
are full of others. Probabilities are then those of a photo that was taken in the region.

A leaf is allowed if some place in it is: it overlaps what is given, and does not lie wholly in what is ruled out.
Photos of known places count where their own place is allowed. Countries have no borders here: a place lies in that of
the city nearest to it, and a cell in that of its point.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from indexer.disk.manifest import file_digest
from indexer.earth.places import countries, nearest_cities
from indexer.errors import InputError
from search.answers.precision_cap import NamedCells

if TYPE_CHECKING:
    import shapely

JSON_SUFFIXES = (".geojson", ".json")
_BOX = re.compile(r"\s*[-+.\d]+\s*(,\s*[-+.\d]+\s*){3}")


@dataclass(frozen=True, slots=True, eq=False)
class _Area:
    """Countries, or a shape with borders."""

    text: str
    option: str
    countries: tuple[str, ...] = ()
    shape: "shapely.Geometry | None" = None

    @classmethod
    def of(cls, text: str, option: str) -> "_Area":
        if is_geojson(text) or names_file(text) or _BOX.fullmatch(text):
            import indexer.earth.polygons  # noqa: F401 (it says what to install where shapely is missing)
            from search.answers.region_shapes import box, file_polygons, polygons  # the extra is for those who use it

            if is_geojson(text):
                return cls("GeoJSON", option, shape=polygons(text, f"{option} GeoJSON"))
            shape = file_polygons(Path(text), option) if names_file(text) else box(text, option)
            return cls(text, option, shape=shape)
        codes = [code.strip().upper() for code in text.split(",")]
        unknown = sorted(set(codes) - set(countries()))
        if unknown:
            raise InputError(
                f"{option} {text}: {unknown[0]!r} is no ISO 3166 country code. Give codes such as FR,DE, a box as "
                "south,west,north,east, or a .geojson file."
            )
        return cls(text, option, countries=tuple(codes))

    def cells(self, cells: NamedCells, *, wholly: bool) -> np.ndarray:
        """Which cells lie in it, wholly or with some part: (C,) bool."""
        if self.shape is None:
            return np.isin(cells.country, self.countries)
        from search.answers.region_shapes import in_shape

        return in_shape(cells, self.shape, self.option, wholly=wholly)

    def holds(self, lat_deg: np.ndarray, lng_deg: np.ndarray) -> np.ndarray:
        """Which places lie in it: (N,) bool."""
        if self.shape is None:
            return np.isin(nearest_cities(lat_deg, lng_deg)[1], self.countries)
        import shapely

        return np.asarray(shapely.intersects_xy(self.shape, lng_deg, lat_deg))


class Region:
    """Where answers may lie.

    Args:
        region: ISO 3166 country codes with commas between; a box as south,west,north,east in degrees, which passes the
            180th meridian where west is above east; the name of a GeoJSON file of polygons; or GeoJSON itself. None:
            anywhere.
        not_region: the same of what is ruled out.

    Raises:
        InputError: a region that says nothing.
        MissingBackend: borders need the extra `export`.
    """

    def __init__(self, region: str | None, not_region: str | None) -> None:
        self._given = None if region is None else _Area.of(region, "`region`")
        self._ruled_out = None if not_region is None else _Area.of(not_region, "`not_region`")

    def cells(self, cells: NamedCells) -> np.ndarray:
        """The cells in which a place may lie, leaves or those of a precision cap: (R,) int64, ascending.

        Raises:
            InputError: there is none, or there are borders where cells are labels.
        """
        allowed = np.ones(len(cells.keys), bool)
        if self._given is not None:
            allowed &= self._given.cells(cells, wholly=False)
            if not allowed.any():
                raise InputError(
                    f"`region` {self._given.text}: no cell of this bundle overlaps it. Ask for a larger one."
                )
        if self._ruled_out is not None:
            allowed &= ~self._ruled_out.cells(cells, wholly=True)
            if not allowed.any():
                raise InputError(
                    f"`not_region` {self._ruled_out.text}: it leaves no cell of this bundle. Rule out less."
                )
        return np.flatnonzero(allowed)

    def holds(self, lat_deg: np.ndarray, lng_deg: np.ndarray) -> np.ndarray:
        """Which places (N,) in degrees are allowed: (N,) bool."""
        allowed = np.ones(len(lat_deg), bool)
        if self._given is not None:
            allowed &= self._given.holds(lat_deg, lng_deg)
        if self._ruled_out is not None:
            allowed &= ~self._ruled_out.holds(lat_deg, lng_deg)
        return allowed

    def moved_inside(
        self, lat_deg: np.ndarray, lng_deg: np.ndarray, cells: NamedCells, cell: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Places, those not allowed moved to the nearest allowed place of their cell, (N,) int64: degrees (N,) each."""
        lat, lng = lat_deg.copy(), lng_deg.copy()
        shapes = [None if area is None else area.shape for area in (self._given, self._ruled_out)]
        if cells.s2_ids is None or shapes == [None, None]:  # of countries: a cell's point lies where the cell does
            return lat, lng
        from search.answers.region_shapes import nearest_inside

        for number in np.flatnonzero(~self.holds(lat, lng)).tolist():
            lat[number], lng[number] = nearest_inside(
                (lat[number], lng[number]), cells.s2_ids[cell[number]], given=shapes[0], ruled_out=shapes[1]
            )
        return lat, lng


def region_digests(region: str | None, not_region: str | None) -> dict[str, str]:
    """Digests of the files among these."""
    named = {"region": region, "not_region": not_region}
    return {name: file_digest(Path(text)) for name, text in named.items() if text is not None and names_file(text)}


def names_file(text: str) -> bool:
    """Whether a region is the name of a file."""
    return not is_geojson(text) and Path(text).suffix.lower() in JSON_SUFFIXES


def is_geojson(text: str) -> bool:
    """Whether a region is GeoJSON itself."""
    return text.lstrip().startswith("{")
