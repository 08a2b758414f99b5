"""Tables as people have them, Parquet or CSV: columns under their standard names, and what is wrong with them.

They may lie at a URI. A Parquet table may hold the photos themselves: a column of bytes, or of Hugging Face's structs
of bytes and path. Names of photos may say their places (`indexer.photos.utm_names`), which are then the coordinates of
a table that has no other.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.fs
import pyarrow.parquet

from indexer.disk.manifest import file_digest
from indexer.earth.geo import check_coordinates
from indexer.errors import InputError
from indexer.photos.folders import folder_places
from indexer.photos.uris import MASKS, file_system, is_uri, local_path, masked, path_of, reading
from indexer.photos.utm_names import place_in_name

ROW = "row of the table"  # a column that is added: the row's number in its file, whatever is left out
IMAGES = "bytes of the photo"  # the column that holds the photos themselves, whatever it is called
# Lower-case names under which each column is found. MP-16's are IMG_ID, LAT and LON.
ALIASES: Mapping[str, Sequence[str]] = {
    "photo": ("photo", "img_id", "image", "path"),
    "lat": ("lat", "latitude"),
    "lng": ("lng", "lon", "long", "longitude"),
    "split": ("split",),
    "map": ("map",),
}
_PLACE = ("lat", "lng")
# Columns that may hold photos as bytes; img2dataset calls them by format.
_IMAGES = ("photo", "image", "bytes", "jpg", "jpeg", "png", "webp")
_ROWS = 1 << 15  # of a batch
_ROWS_OF_BYTES = 64  # of a batch with photos in it: some 30 MB
_BUFFER = 1 << 20  # bytes read at once from a column

_Column = tuple[str, ...]  # a column's name; or that, and the name of a field inside it
_Read = Callable[[Sequence[_Column], int], Iterator[pa.RecordBatch]]  # columns, most rows of a batch -> batches


@dataclass(frozen=True, slots=True)
class OpenTable:
    """A table that is open: its columns are known, its rows are read when they are needed. Made by `open_table`."""

    source: str  # as messages may name it
    schema: pa.Schema
    n_rows: int | None  # None where counting would be reading
    read: _Read
    named_places: bool = False  # coordinates are what the names of photos say

    def has(self, column: str) -> bool:
        """Whether it has a column, under any of its names; IMAGES: whether the photos are in it, as bytes."""
        return column in _columns_of(self.schema, [column])

    def columns(
        self, required: Sequence[str], *, optional: Sequence[str] = (), split: str | None = None
    ) -> dict[str, _Column]:
        """The columns to read, by their standard names; an InputError names those there where one is missing."""
        required = [*required, *(["split"] if split else [])]
        found = _columns_of(self.schema, [*required, *optional])
        made = [*(["photo"] if self.has(IMAGES) else []), *(_PLACE if self.named_places else [])]  # from other columns
        missing = [name for name in required if name not in found and name not in made]
        if not missing:
            return found
        if missing == ["split"]:
            advice = f"Add one that says {split!r} in the rows to use."
        elif all(name in ALIASES for name in missing):
            advice = f"Rename the columns that hold this to {', '.join(missing)}."
        else:
            advice = "Name the columns as they are in the table."
        absent, present = " or ".join(map(repr, missing)), ", ".join(self.schema.names)
        raise InputError(f"{self.source}: no column {absent}; it has {present}. {advice}")

    def scan(
        self, required: Sequence[str], *, optional: Sequence[str] = (), split: str | None = None
    ) -> Iterator[pa.Table]:
        """Columns as `read_columns` gives them, with its errors, a batch at a time; that there is no row, at the end.

        Of photos as bytes only a few are held at once.
        """
        found = self.columns(required, optional=optional, split=split)
        placed_by_name = self.named_places and not {*required, *optional}.isdisjoint(_PLACE)
        kept_names = "photo" in found
        if placed_by_name and not kept_names:
            found |= self.columns(["photo"])
        named_by_row = "photo" in required and self.has(IMAGES)
        whole = [self.schema.names.index(name) for name, *inside in found.values() if not inside]
        heavy = any(_holds_bytes(self.schema.field(index).type) for index in whole)
        count, kept = 0, 0
        with _readable(self.source, "as a table"):
            for batch in self.read(list(found.values()), _ROWS_OF_BYTES if heavy else _ROWS):
                columns = {name: _take(batch, column) for name, column in found.items()}
                part = pa.table(columns | {ROW: pa.array(np.arange(count, count + batch.num_rows))})
                count += batch.num_rows
                if placed_by_name:
                    part = _place_by_name(part, self.source)
                    part = part if kept_names else part.drop_columns("photo")
                if split:
                    part = part.filter(pa.compute.equal(part["split"].cast(pa.string()), split))
                kept += part.num_rows
                yield _name_by_row(part) if named_by_row else part
        if not kept:
            raise InputError(f"{self.source}: no row{f' of split {split!r}' if split else ''}.")


def open_table(source: str | Path) -> OpenTable:
    """Open a Parquet or CSV table; or a folder of photos, as the table photo, lat, lng of what their files say.

    Raises:
        InputError: no such file, or not a table; no photo of the folder has a place.
        MissingBackend: the package that reads its scheme is not installed.
    """
    location, path = str(source), local_path(str(source))
    kind = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv"}.get(Path(path_of(location)).suffix.lower())
    if path is not None and not Path(path).exists():
        raise InputError(f"{masked(source)}: no such file.")
    if path is not None and Path(path).is_dir():
        return _open_folder(path, source)
    if kind is None:
        raise InputError(f"{masked(source)}: a table must be a .parquet or .csv file.")
    with _readable(location, f"as {kind}"):
        if path is None:
            system, place = file_system(location)
            system.info(place)  # Arrow would call a file missing that may not be read
            open_file = partial(system.open, place)
        else:
            system, place = pyarrow.fs.LocalFileSystem(), path
            open_file = partial(Path(path).open, "rb")
        opened = _open_csv(open_file) if kind == "csv" else _open_parquet(system, place)
        table = OpenTable(masked(source), *opened)
        return replace(table, named_places=_says_places(table))


def table_digest(source: Path) -> str:
    """The digest of a table's file; of a folder that of the places its photos have. Raises as `open_table`."""
    return folder_places(str(source)).digest if source.is_dir() else file_digest(source)


def read_columns(
    source: str | Path, required: Sequence[str], *, optional: Sequence[str] = (), split: str | None = None
) -> pa.Table:
    """Columns of a Parquet or CSV table under their standard names and ROW, of the rows of one split.

    InputError where there is no such file or table, a column is missing (those present are named), or there is no row.
    """
    return pa.concat_tables(open_table(source).scan(required, optional=optional, split=split))


def standard_names(table: pa.Table) -> pa.Table:
    """A table whose columns are called as others call them, renamed."""
    found = _columns_of(table.schema, list(ALIASES))
    renamed = {old[0]: new for new, old in found.items() if len(old) == 1}
    return table.rename_columns([renamed.get(name, name) for name in table.column_names])


def names_of(table: pa.Table, source: str | Path) -> list[str]:
    """The `photo` column as text, with credentials masked; empty where a row has no name."""
    text = _text(table, "photo", source)
    if pa.compute.any(pa.compute.match_substring(text, "://")).as_py():
        for pattern, stars in MASKS:
            text = pa.compute.replace_substring_regex(text, pattern, stars)
    return text.to_pylist()


def contents_of(table: pa.Table, column: str, source: str | Path) -> Iterator[bytes | str | None]:
    """A column row by row: bytes, or else the name of a file as it is, to be read from and never shown.

    Of structs of bytes and path, the path where there are no bytes. Empty text or None where a row has neither.
    """
    if not _holds_bytes(table.schema.field(column).type):
        yield from _text(table, column, source).to_pylist()
        return
    for value in table[column]:
        given = value.as_py()
        if isinstance(given, dict):  # bytes of length 0 are a photo, if an empty one
            given = given["bytes"] if given["bytes"] is not None else given.get("path") or None
        yield given


def coordinates_of(table: pa.Table, source: str | Path, *, required: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The `lat` and `lng` columns (N,) as float64; NaN where a value or the column is absent.

    InputError names the row of a value that is no number or not on Earth or, where they are required, absent.
    """
    unknown = pa.nulls(table.num_rows, pa.float64())
    columns = (table[name] if name in table.column_names else unknown for name in ("lat", "lng"))
    try:
        lat, lng = (np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False)) for column in columns)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise InputError(f"{masked(source)}: lat and lng must be numbers in degrees ({error}).") from None
    rows = table[ROW].to_numpy() if ROW in table.column_names else np.arange(table.num_rows)
    check_coordinates(lat, lng, rows=rows, source=masked(source), required=required)
    return lat, lng


def _text(table: pa.Table, column: str, source: str | Path) -> pa.ChunkedArray:
    try:
        return table[column].cast(pa.string()).fill_null("")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"{masked(source)}: {column} must hold names or paths ({error}).") from None


def _columns_of(schema: pa.Schema, wanted: Sequence[str]) -> dict[str, _Column]:
    """Which of a table's columns stands for each wanted one, where one does.

    Names of photos are never bytes: where photos are held as bytes, their names are another column, the paths inside
    Hugging Face's structs, or nowhere.
    """
    present = {field.name.lower(): field for field in reversed(list(schema))}
    images = next((present[name] for name in _IMAGES if name in present and _holds_bytes(present[name].type)), None)
    found: dict[str, _Column] = {}
    for column in wanted:
        aliases = [*ALIASES.get(column, (column,)), *(("key",) if column == "photo" and images is not None else ())]
        fields = (present[alias.lower()] for alias in aliases if alias.lower() in present)
        if column == "photo":
            fields = (field for field in fields if not _holds_bytes(field.type))
        field = next(fields, None)
        if field is not None:
            found[column] = (field.name,)
    if images is not None:
        if "photo" in wanted and "photo" not in found and _has_field(images.type, "path"):
            found["photo"] = (images.name, "path")
        if IMAGES in wanted:
            found[IMAGES] = (images.name,)
    return found


def _holds_bytes(kind: pa.DataType) -> bool:
    if _has_field(kind, "bytes"):
        kind = kind.field("bytes").type
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _has_field(kind: pa.DataType, name: str) -> bool:
    return pa.types.is_struct(kind) and kind.get_field_index(name) >= 0


def _take(batch: pa.RecordBatch, column: _Column) -> pa.Array:
    values = batch.column(batch.schema.names.index(column[0]))
    return values if len(column) == 1 else pa.compute.struct_field(values, column[1])


def _says_places(table: OpenTable) -> bool:
    """Whether a table without coordinates has names of photos that say them; the first name tells."""
    if any(table.has(column) for column in _PLACE) or not table.has("photo"):
        return False
    column = table.columns(["photo"])["photo"]
    first = next(iter(table.read([column], 1)), None)
    return first is not None and any(
        not math.isnan(place_in_name(str(name))[0]) for name in _take(first, column)[:1].to_pylist()
    )


def _place_by_name(table: pa.Table, source: str) -> pa.Table:
    """A table with the coordinates that the names of its photos say; null where one says none."""
    places = np.array([place_in_name(name) for name in _text(table, "photo", source).to_pylist()]).reshape(-1, 2)
    for column, values in zip(_PLACE, places.T, strict=True):
        table = table.append_column(column, pa.array(values, from_pandas=True))
    return table


def _name_by_row(table: pa.Table) -> pa.Table:
    """A table of photos as bytes, in which the rows without a name are called by their number."""
    numbers = table[ROW].cast(pa.string())
    if "photo" not in table.column_names:
        return table.append_column("photo", numbers)
    names = table["photo"].cast(pa.string())
    names = pa.compute.if_else(pa.compute.equal(names, "").fill_null(True), numbers, names)
    return table.set_column(table.column_names.index("photo"), "photo", names)


def _open_folder(folder: str, source: str | Path) -> OpenTable:
    places = folder_places(folder)
    table = pa.table({"photo": pa.array(places.photo, pa.string()), "lat": places.lat_deg, "lng": places.lng_deg})

    def read(columns: Sequence[_Column], rows: int) -> Iterator[pa.RecordBatch]:
        yield from table.select([column[0] for column in columns]).to_batches(max_chunksize=rows)

    return OpenTable(masked(source), table.schema, table.num_rows, read)


def _open_parquet(system: Any, place: str) -> tuple[pa.Schema, int | None, _Read]:
    def read(columns: Sequence[_Column], rows: int) -> Iterator[pa.RecordBatch]:
        # Page by page: Arrow's dataset reads row groups whole, and one of photos can be larger than the memory. Nor is
        # anything buffered ahead, which would hold all of a large file.
        with pyarrow.parquet.ParquetFile(
            place, filesystem=system, pre_buffer=False, buffer_size=_BUFFER, memory_map=False
        ) as file:
            yield from file.iter_batches(batch_size=rows, columns=[".".join(column) for column in columns])

    with pyarrow.parquet.ParquetFile(place, filesystem=system) as file:
        return file.schema_arrow, file.metadata.num_rows, read


def _open_csv(open_file: Callable[[], IO[bytes]]) -> tuple[pa.Schema, int | None, _Read]:
    with open_file() as stream, pa.csv.open_csv(stream) as file:
        names = file.schema.names
    # Every column as text: guessing types would make 1 of a photo named 0001, by what the first rows look like.
    text = dict.fromkeys(names, pa.string())

    def read(columns: Sequence[_Column], rows: int) -> Iterator[pa.RecordBatch]:
        # Block by block: Arrow's dataset reads ahead of a slow reader, 400 MB when it was tried.
        wanted = [column[0] for column in columns]
        options = pa.csv.ConvertOptions(
            column_types=text, strings_can_be_null=True, null_values=[""], include_columns=wanted or names[:1]
        )
        with open_file() as stream, pa.csv.open_csv(stream, convert_options=options) as file:
            yield from file

    return pa.schema(text.items()), None, read


@contextlib.contextmanager
def _readable(source: str | Path, kind: str) -> Iterator[None]:
    remote = is_uri(str(source))
    with reading(str(source)) if remote else contextlib.nullcontext():
        try:
            yield
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            if remote and not isinstance(error, pa.ArrowException):
                raise  # the network's fault, not the table's
            raise InputError(
                f"{masked(source)}: cannot be read {kind} ({masked(error)}). Mend it, or write it again."
            ) from None
