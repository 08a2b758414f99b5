"""Cells of one level as polygons, and answers as points, in a file for maps: GeoParquet or GeoJSON.

In: a level of a hierarchy and, if wanted, a table of values by cell key; or rows with lat and lng. Out: one file that
QGIS and geopandas open (`docs/data-model.md` describes the fields).
"""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from indexer.cells.hierarchy import Hierarchy, Level, s2_ids_of
from indexer.cells.table import cells_table
from indexer.disk.artifact import check_file, write_file
from indexer.earth.polygons import cell_polygons
from indexer.errors import InputError, MissingBackend

try:
    import geopandas
    import pandas
    import pyogrio
    import shapely
except ImportError as error:
    raise MissingBackend(
        f"{error.name} is not installed; exports need it. In the checkout: pip install '.[export]'"
    ) from error

# WGS 84 with longitude first, as both formats store it; EPSG:4326 is the same but for its order, latitude first.
CRS = "OGC:CRS84"
FORMATS = {".parquet": "GeoParquet", ".geojson": "GeoJSON"}
COLUMNS = (
    *("key", "token", "s2_id", "s2_level", "n_photos", "lat_deg", "lng_deg", "radius_km"),
    *("city", "country", "leaf_begin", "leaf_end"),
)
GEOMETRY = "geometry"
_LARGEST_IN_JSON = 2**53  # readers take JSON's numbers for doubles


def file_format(out: Path) -> str:
    """Name of the format that a file's suffix asks for; an InputError where it asks for none of ours."""
    name = FORMATS.get(out.suffix.lower())
    if name is None:
        raise InputError(f"{out}: the name must end in .parquet (GeoParquet) or .geojson (GeoJSON).")
    return name


def export_cells(
    hierarchy: Hierarchy, out: str | Path, *, level: int, values: str | Path | None = None
) -> geopandas.GeoDataFrame:
    """Write the cells of a level as polygons that QGIS and geopandas open, and return what was written.

    Args:
        hierarchy: S2 cells.
        out: file to write: .parquet for GeoParquet, .geojson for GeoJSON.
        level: its number, 0 the coarsest.
        values: table (.parquet or .csv) with a column `key`, the cells' tokens, and values to write beside the cells.

    Raises:
        InputError: as for `cell_frame` and `write_frame`.
        WorkError: the disk is full.
    """
    out = Path(out)
    file_format(out)
    check_file(out)
    frame = cell_frame(hierarchy, level, values=None if values is None else Path(values))
    write_frame(frame, out)
    return frame


def cell_frame(hierarchy: Hierarchy, level: int, *, values: Path | None = None) -> geopandas.GeoDataFrame:
    """What `export_cells` writes: one row per cell in the hierarchy's order, null where `values` does not name it.

    InputError where there is no such level, cells are labels, or values do not fit.
    """
    cells = check_drawable(hierarchy, level)
    frame = cells_table(level, cells).select(COLUMNS).to_pandas()
    if values is not None:
        frame = frame.join(read_values(values, cells.keys).to_pandas(types_mapper=_nullable))
    return geopandas.GeoDataFrame(frame, geometry=cell_polygons(s2_ids_of(cells)), crs=CRS)


def check_drawable(hierarchy: Hierarchy, level: int) -> Level:
    """The level of that number; an InputError where there is none, or where its cells are labels, without borders."""
    if not 0 <= level < len(hierarchy.levels):
        raise InputError(f"There is no level {level}: levels are 0 (coarsest) to {len(hierarchy.levels) - 1} (finest).")
    cells = hierarchy.levels[level]
    if cells.s2_ids is None:
        raise InputError(
            f"The cells of this hierarchy are labels ({cells.label}): they have no borders, so there is nothing to "
            "draw. Only hierarchies of S2 cells can be exported."
        )
    return cells


def write_points(table: pa.Table, out: Path) -> None:
    """Write rows with `lat` and `lng` as points, null where these are; raises what `write_frame` does."""
    frame = table.to_pandas(types_mapper=_nullable)
    known = frame["lat"].notna().to_numpy()
    places = np.full(len(frame), None, object)
    places[known] = shapely.points(*(frame[name].to_numpy(float, na_value=np.nan)[known] for name in ("lng", "lat")))
    write_frame(geopandas.GeoDataFrame(frame, geometry=places, crs=CRS), out)


def write_frame(frame: geopandas.GeoDataFrame, out: Path) -> None:
    """Write cells or points in the format of the file's suffix, whole or not at all.

    Raises:
        InputError: `out` exists or cannot be written, or holds numbers that the format cannot.
        WorkError: the disk is full.
    """
    # In memory first: not every error of a full disk comes back from GDAL, and all of them do from `write_file`.
    content = BytesIO()
    if file_format(out) == "GeoParquet":
        frame.to_parquet(content, index=False)
    else:
        frame = frame.drop(columns="s2_id")  # does not fit into a JSON number; the token says the same
        for name, column in frame.select_dtypes("number").items():
            if (column.abs() > _LARGEST_IN_JSON).any() and (column.dtype.kind in "iu" or np.isinf(column).any()):
                raise InputError(
                    f"{name} holds numbers that JSON cannot: infinity, or integers beyond 2^53. Export .parquet "
                    "instead."
                )
        pyogrio.write_dataframe(
            frame,
            content,
            driver="GeoJSON",
            layer=out.stem,
            use_arrow=True,  # the other way makes floats of integers with nulls
            RFC7946="YES",
            COORDINATE_PRECISION="9",  # 0.1 mm: the smallest cells are a centimetre wide
        )
    write_file(out, content.getvalue())


def read_values(source: Path, keys: np.ndarray) -> pa.Table:
    """The columns of a table beside `key`, one row for each of `keys` in their order, null where it has none.

    InputError where it is no table, has no column `key`, keys repeat or are no cells, or columns do not fit.
    """
    table = _read_table(source)
    names, wanted = table.column_names, pa.array(keys.tolist())
    if "key" not in names:
        raise InputError(f"{source}: no column 'key' (the cells' tokens); it has {', '.join(names)}.")
    taken = [name for name in names if name != "key" and name in (*COLUMNS, GEOMETRY)]
    if taken:
        raise InputError(f"{source}: the export has its own {', '.join(taken)}. Rename or remove these columns.")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(f"{source}: several columns are called {', '.join(repeated)}. Rename them.")
    table = pa.table({name: _plain(table[name], name, source) for name in names})
    key = table["key"]
    if key.type != pa.string():
        raise InputError(f"{source}: key is {key.type}; it must be text, the cells' tokens such as '89c25'.")
    unknown = key.filter(pc.invert(pc.is_in(key, value_set=wanted)))
    if len(unknown):
        raise InputError(
            f"{source}: {len(unknown)} key(s) are no cells of this level: {_first(unknown.to_pylist())}. "
            "Give the `level` that they belong to, or remove these rows."
        )
    twice = [entry["values"] for entry in pc.value_counts(key).to_pylist() if entry["counts"] > 1]
    if twice:
        raise InputError(f"{source}: {len(twice)} key(s) repeat: {_first(twice)}. Keep one row for each cell.")
    return table.drop_columns("key").take(pc.index_in(wanted, value_set=key))


def _read_table(source: Path) -> pa.Table:
    if not source.is_file():
        raise InputError(f"{source}: no such file.")
    try:
        match source.suffix.lower():
            case ".parquet" | ".pq":
                return pyarrow.parquet.read_table(source)
            case ".csv":
                # Left to itself, a reader takes the token 47e5 for a number.
                convert = pyarrow.csv.ConvertOptions(column_types={"key": pa.string()})
                return pyarrow.csv.read_csv(source, convert_options=convert)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{source}: cannot be read as a table ({error}).") from None
    raise InputError(f"{source}: a table must be a .parquet or .csv file.")


def _first(keys: Sequence[str | None]) -> str:
    return ", ".join("an empty one" if key is None else repr(key) for key in keys[:3]) + ", ..." * (len(keys) > 3)


def _plain(column: pa.ChunkedArray, name: str, source: Path) -> pa.ChunkedArray:
    """A column in a type that both formats have."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_null(kind) or pa.types.is_large_string(kind):
        kind = pa.string()
    if not any(is_kind(kind) for is_kind in _KINDS):
        raise InputError(f"{source}: {name} is {kind}; values must be numbers, text, true or false, or dates.")
    return column.cast(kind)


_KINDS = (
    *(pa.types.is_integer, pa.types.is_float32, pa.types.is_float64, pa.types.is_boolean),
    *(pa.types.is_string, pa.types.is_date, pa.types.is_timestamp),
)


def _nullable(kind: pa.DataType) -> pandas.ArrowDtype | None:
    """For what pandas' own types would make floats or objects of where there are nulls."""
    return pandas.ArrowDtype(kind) if pa.types.is_integer(kind) or pa.types.is_boolean(kind) else None
