"""The photos that a run measures with, as a table of their own: nothing is fitted to them, so calibration may be.

    photo, lat, lng     name and place, as the source of the photos has them
    image               where the photo lies (`path`); or its `bytes`, of a photo in a tar or in a table, and where the
                        way to it holds a password
    map                 the same of the class map that comes with it, where such may come; null where none does

`python -m encoder embed --photos` reads it as any table, and `search calibrate --truth` finds the photos by name.
"""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from encoder.photos.reading import read_bytes
from indexer.disk.artifact import explain_full, explain_unwritable, place_file
from indexer.errors import BadImage
from indexer.photos.photo import FileRange, Photo
from indexer.photos.sources import PhotoSource
from indexer.photos.uris import masked
from training.photos.holding_out import NameFilter

_ROWS = 1024  # looked at at once; of photos in tars some 100 MB
_FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write_held_out(file: Path, source: PhotoSource, chosen: NameFilter | None) -> int:
    """Write those photos of a source whose names are chosen (None: all), whole or not at all; how many they are.

    A photo that cannot be read now has neither bytes nor path, and is missing for who reads the table.

    Raises:
        InputError: the file cannot be written, or the source cannot be read.
        WorkError: the disk is full.
    """
    columns = [("photo", pa.string()), ("lat", pa.float64()), ("lng", pa.float64()), ("image", _FILE)]
    schema = pa.schema([*columns, ("map", _FILE)] if source.may_have_maps else columns)
    n_written = 0
    with explain_full(file), explain_unwritable(file), place_file(file) as aside:
        with pa.parquet.ParquetWriter(aside, schema) as writer:
            photos = iter(source)
            while block := list(itertools.islice(photos, _ROWS)):
                wanted = np.ones(len(block), bool) if chosen is None else chosen([photo.name for photo in block])
                rows = [_row(block[row]) for row in np.flatnonzero(wanted)]
                n_written += len(rows)
                writer.write_table(pa.Table.from_pylist(rows, schema))
    return n_written


def _row(photo: Photo) -> dict[str, Any]:
    return {
        "photo": photo.name,
        "lat": photo.lat_deg,
        "lng": photo.lng_deg,
        "image": _content(photo.data),
        "map": _content(photo.class_map),
    }


def _content(data: Any) -> dict[str, Any] | None:
    if isinstance(data, FileRange) and not data.offset and data.size is None and masked(data.uri) == data.uri:
        return {"bytes": None, "path": data.uri}
    try:
        return None if data is None else {"bytes": read_bytes(data), "path": None}
    except BadImage:
        return None
