"""Photo tables in: Parquet, CSV or a folder of images; which photos there are and, where known, where they were taken.

Columns are `photo` (a path, relative to the table's own folder unless absolute), `lat` and `lng` in degrees, and
optionally `split`. The names MP-16 and its neighbours use (IMG_ID, LAT, LON, latitude, longitude) are understood.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from indexer.errors import InputError
from indexer.tables import coordinates_of, names_of, read_columns, scan_columns

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")


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

    def text(self, row: int) -> str:
        """The name of a row's photo as a table can hold it: bytes that are not UTF-8 are written as escapes."""
        return os.fsencode(self.photo[row]).decode("utf-8", "backslashreplace")


def read_photos(source: Path, *, split: str | None = None, coordinates: bool = False) -> PhotoTable:
    """Read a photo table, or list the images below a folder (sorted by path).

    Args:
        source: a .parquet or .csv file, or a folder of images.
        split: keep only rows whose `split` column is this; None keeps all.
        coordinates: True when every row must have `lat` and `lng`; otherwise they are read if present.

    Raises:
        InputError: no such file, a missing column, no row, or a coordinate that is not on Earth.
    """
    if source.is_dir():
        if coordinates or split:
            what = "coordinates" if coordinates else "splits"
            raise InputError(f"{source}: a folder has no {what}. Give a table with photo, lat, lng and split.")
        names = sorted(
            p.relative_to(source).as_posix() for p in source.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES
        )
        if not names:
            raise InputError(f"{source}: no image below this folder ({', '.join(IMAGE_SUFFIXES)}).")
        unknown = np.full(len(names), np.nan)
        return PhotoTable(names, source, unknown, unknown)
    wanted = ["photo", "lat", "lng"] if coordinates else ["photo"]
    table = read_columns(source, wanted, optional=("lat", "lng"), split=split)
    lat, lng = coordinates_of(table, source, required=coordinates)
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
    for table in scan_columns(source, ["lat", "lng"], split=split):
        yield coordinates_of(table, source, required=True)


def read_coordinates(source: Path, *, split: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """All of `coordinate_batches` at once: two (N,) float64."""
    lat, lng = zip(*coordinate_batches(source, split=split), strict=True)
    return np.concatenate(lat), np.concatenate(lng)
