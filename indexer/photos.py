"""Photo tables in: Parquet, CSV or a folder of images; which photos there are and, where known, where they were taken.

Columns are `photo` (a path, relative to the table's own folder unless absolute), `lat` and `lng` in degrees, and
optionally `split`. The names MP-16 and its neighbours use (IMG_ID, LAT, LON, latitude, longitude) are understood.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.parquet

from indexer.errors import InputError
from indexer.geo import check_coordinates

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")
# Lower-case names under which each column is found.
_ALIASES = {
    "photo": ("photo", "img_id", "image", "path"),
    "lat": ("lat", "latitude"),
    "lng": ("lng", "lon", "long", "longitude"),
    "split": ("split",),
}


@dataclass(frozen=True, slots=True, eq=False)
class PhotoTable:
    """Photos in the order of their table."""

    photo: Sequence[str]  # names as the table writes them, empty where it has none; they may repeat
    root: Path  # what relative names are relative to
    lat_deg: np.ndarray  # (N,) float64, NaN where unknown
    lng_deg: np.ndarray  # (N,) float64, NaN where unknown

    def __len__(self) -> int:
        return len(self.photo)

    def path(self, row: int) -> Path:
        """Where the photo of a row lies."""
        return self.root / self.photo[row]


def read_photos(source: Path, *, split: str | None = None, coordinates: bool = False) -> PhotoTable:
    """Read a photo table, or list the images below a folder (sorted by path).

    Args:
        source: a .parquet or .csv file, or a folder of images.
        split: keep only rows whose `split` column is this; None keeps all.
        coordinates: True when every row must have valid `lat` and `lng`; otherwise they are read if present.

    Raises:
        InputError: no such file, a missing column, no row, or a coordinate that is not on Earth.
    """
    if source.is_dir():
        if coordinates:
            raise InputError(f"{source}: a folder has no coordinates. Give a table with photo, lat and lng.")
        names = sorted(
            p.relative_to(source).as_posix() for p in source.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES
        )
        if not names:
            raise InputError(f"{source}: no image below this folder ({', '.join(IMAGE_SUFFIXES)}).")
        unknown = np.full(len(names), np.nan)
        return PhotoTable(names, source, unknown, unknown)
    wanted = ["photo", "lat", "lng"] if coordinates else ["photo"]
    table = read_columns(source, wanted, optional=("lat", "lng"), split=split)
    lat, lng = coordinates_of(table, source)
    if coordinates:
        check_coordinates(lat, lng, source=str(source))
    return PhotoTable(names_of(table, source), source.parent, lat, lng)


def listed_photos(paths: Sequence[str]) -> PhotoTable:
    """A table of single files, as a command line names them; whether they are photos is seen when they are read."""
    unknown = np.full(len(paths), np.nan)
    return PhotoTable(list(paths), Path(), unknown, unknown)


def coordinate_batches(source: Path, *, split: str | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Latitudes and longitudes of a table, checked, a batch at a time; nothing else of it is read or held.

    Raises:
        InputError: no such file, a missing column, no row, or a coordinate that is not on Earth.
    """
    count = 0
    for table in _scan(source, ["lat", "lng"], (), split):
        lat, lng = coordinates_of(table, source)
        check_coordinates(lat, lng, source=str(source), first_row=count)
        count += len(lat)
        yield lat, lng
    _refuse_empty(source, count, split)


def names_of(table: pa.Table, source: Path) -> list[str]:
    """The `photo` column as text, empty where a row has no name."""
    try:
        names: list[str] = table["photo"].cast(pa.string()).fill_null("").to_pylist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"{source}: photo must hold names or paths ({error}).") from None
    return names


def read_coordinates(source: Path, *, split: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """All of `coordinate_batches` at once: two (N,) float64."""
    lat, lng = zip(*coordinate_batches(source, split=split), strict=True)
    return np.concatenate(lat), np.concatenate(lng)


def coordinates_of(table: pa.Table, source: Path) -> tuple[np.ndarray, np.ndarray]:
    """The `lat` and `lng` columns (N,) as float64; NaN where a value or the column is absent."""
    unknown = pa.nulls(table.num_rows, pa.float64())
    columns = (table[name] if name in table.column_names else unknown for name in ("lat", "lng"))
    try:
        lat, lng = (np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False)) for column in columns)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise InputError(f"{source}: lat and lng must be numbers in degrees ({error}).") from None
    return lat, lng


def read_columns(
    source: Path, required: Sequence[str], *, optional: Sequence[str] = (), split: str | None = None
) -> pa.Table:
    """Columns of a Parquet or CSV table under their standard names, rows of one split.

    Raises:
        InputError: no such file, not a table, a missing column (the ones present are named), or no row.
    """
    parts = list(_scan(source, required, optional, split))
    _refuse_empty(source, sum(part.num_rows for part in parts), split)
    return pa.concat_tables(parts)


def _scan(source: Path, required: Sequence[str], optional: Sequence[str], split: str | None) -> Iterator[pa.Table]:
    data = _open(source)
    present = {name.lower(): name for name in reversed(data.schema.names)}
    found = {
        column: present[alias.lower()]
        for column in (*required, *optional, *(["split"] if split else []))
        for alias in reversed(_ALIASES.get(column, (column,)))
        if alias.lower() in present
    }
    missing = [column for column in (*required, *(["split"] if split else [])) if column not in found]
    if missing:
        standard = all(column in _ALIASES for column in missing)
        advice = (
            f"Add one that says {split!r} in the rows to use."
            if missing == ["split"]
            else "Rename the columns to photo, lat, lng."
            if standard
            else "Name the columns as they are in the table."
        )
        names = " or ".join(map(repr, missing))
        raise InputError(f"{source}: no column {names}; it has {', '.join(data.schema.names)}. {advice}")
    try:
        keep = pa.dataset.field(found["split"]) == split if split else None
        columns = {name: pa.dataset.field(column) for name, column in found.items()}
        for batch in data.to_batches(columns=columns, filter=keep, batch_readahead=2):
            yield pa.Table.from_batches([batch])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise InputError(f"{source}: cannot be read as a table ({error}).") from None


def _refuse_empty(source: Path, n_rows: int, split: str | None) -> None:
    if not n_rows:
        raise InputError(f"{source}: no row{f' of split {split!r}' if split else ''}.")


def _open(source: Path) -> pa.dataset.Dataset:
    if not source.exists():
        raise InputError(f"{source}: no such file.")
    # Buffering ahead, which is for networks, would hold all of a large file.
    parquet = pa.dataset.ParquetFileFormat(pre_buffer=False, use_buffered_stream=True)
    kinds = {".parquet": parquet, ".pq": parquet, ".csv": pa.dataset.CsvFileFormat()}
    kind = kinds.get(source.suffix.lower())
    if kind is None:
        raise InputError(f"{source}: a table must be a .parquet or .csv file.")
    try:
        return pa.dataset.dataset(source, format=kind)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{source}: cannot be read as {kind.default_extname} ({error}).") from None
