"""Tables as people have them, Parquet or CSV: columns under their standard names, and what is wrong with them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.dataset

from indexer.errors import InputError
from indexer.geo import check_coordinates

ROW = "row of the table"  # a column that is added: the row's number in its file, whatever is left out
# Lower-case names under which each column is found. MP-16's are IMG_ID, LAT and LON.
_ALIASES = {
    "photo": ("photo", "img_id", "image", "path"),
    "lat": ("lat", "latitude"),
    "lng": ("lng", "lon", "long", "longitude"),
    "split": ("split",),
}


def read_columns(
    source: Path, required: Sequence[str], *, optional: Sequence[str] = (), split: str | None = None
) -> pa.Table:
    """Columns of a Parquet or CSV table under their standard names and ROW, of the rows of one split.

    Raises:
        InputError: no such file, not a table, a missing column (the ones present are named), or no row.
    """
    return pa.concat_tables(scan_columns(source, required, optional=optional, split=split))


def scan_columns(
    source: Path, required: Sequence[str], *, optional: Sequence[str] = (), split: str | None = None
) -> Iterator[pa.Table]:
    """The same, a batch at a time; the table is never held as a whole.

    Raises:
        InputError: as `read_columns`; that there is no row is said at the end.
    """
    data = _open(source)
    wanted = [*required, *(["split"] if split else [])]
    found = _found(data.schema.names, [*wanted, *optional])
    _refuse_missing([column for column in wanted if column not in found], data.schema.names, source, split)
    columns = {name: pa.dataset.field(column) for name, column in found.items()}
    count, kept = 0, 0
    try:
        for batch in data.to_batches(columns=columns, batch_readahead=2):
            table = pa.table(batch).append_column(ROW, pa.array(np.arange(count, count + batch.num_rows)))
            count += batch.num_rows
            if split:
                table = table.filter(pa.compute.equal(table["split"].cast(pa.string()), split))
            kept += table.num_rows
            yield table
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise InputError(f"{source}: cannot be read as a table ({error}). Mend it, or write it again.") from None
    if not kept:
        raise InputError(f"{source}: no row{f' of split {split!r}' if split else ''}.")


def standard_names(table: pa.Table) -> pa.Table:
    """A table whose columns are called as others call them, renamed."""
    found = _found(table.column_names, list(_ALIASES))
    renamed = {old: new for new, old in found.items()}
    return table.rename_columns([renamed.get(name, name) for name in table.column_names])


def names_of(table: pa.Table, source: Path) -> list[str]:
    """The `photo` column as text, empty where a row has no name."""
    try:
        names: list[str] = table["photo"].cast(pa.string()).fill_null("").to_pylist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"{source}: photo must hold names or paths ({error}).") from None
    return names


def coordinates_of(table: pa.Table, source: Path, *, required: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The `lat` and `lng` columns (N,) as float64; NaN where a value or the column is absent.

    Raises:
        InputError: a value that is no number or not on Earth or, where they are required, absent; the row is named.
    """
    unknown = pa.nulls(table.num_rows, pa.float64())
    columns = (table[name] if name in table.column_names else unknown for name in ("lat", "lng"))
    try:
        lat, lng = (np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False)) for column in columns)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise InputError(f"{source}: lat and lng must be numbers in degrees ({error}).") from None
    rows = table[ROW].to_numpy() if ROW in table.column_names else np.arange(table.num_rows)
    check_coordinates(lat, lng, rows=rows, source=str(source), required=required)
    return lat, lng


def _found(names: Sequence[str], wanted: Sequence[str]) -> dict[str, str]:
    """Which of a table's names stands for each wanted column, where one does."""
    present = {name.lower(): name for name in reversed(names)}
    return {
        column: present[alias.lower()]
        for column in wanted
        for alias in reversed(_ALIASES.get(column, (column,)))
        if alias.lower() in present
    }


def _refuse_missing(missing: Sequence[str], names: Sequence[str], source: Path, split: str | None) -> None:
    if not missing:
        return
    if missing == ["split"]:
        advice = f"Add one that says {split!r} in the rows to use."
    elif all(column in _ALIASES for column in missing):
        advice = "Rename the columns to photo, lat, lng."
    else:
        advice = "Name the columns as they are in the table."
    raise InputError(f"{source}: no column {' or '.join(map(repr, missing))}; it has {', '.join(names)}. {advice}")


def _open(source: Path) -> pa.dataset.Dataset:
    if not source.exists():
        raise InputError(f"{source}: no such file.")
    kind = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv"}.get(source.suffix.lower())
    if kind is None:
        raise InputError(f"{source}: a table must be a .parquet or .csv file.")
    try:
        if kind == "csv":
            return pa.dataset.dataset(source, format=_csv_as_text(source))
        # Buffering ahead, which is for networks, would hold all of a large file.
        return pa.dataset.dataset(
            source, format=pa.dataset.ParquetFileFormat(pre_buffer=False, use_buffered_stream=True)
        )
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{source}: cannot be read as {kind} ({error}). Mend it, or write it again.") from None


def _csv_as_text(source: Path) -> pa.dataset.CsvFileFormat:
    """Every column as text: guessing types would make 1 of a photo named 0001, by what the first rows look like."""
    names = pa.dataset.dataset(source, format="csv").schema.names
    options = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]
    )
    return pa.dataset.CsvFileFormat(convert_options=options)
