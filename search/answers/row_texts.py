"""A column of texts beside the photos of an input: which album each is of, or whose it is.

In: a photo table, or the files of photo vectors. Out: the texts row by row, with the photos' names, by which those of
the photos that are answered are found.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from indexer.disk.manifest import file_digest
from indexer.errors import InputError
from indexer.photos.tables import IMAGES, names_of, open_table, read_columns
from indexer.photos.uris import masked
from indexer.vectors.features import FeatureSource

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)  # no slots: cached_property needs a __dict__
class RowTexts:
    """The texts of a column, a row for each photo of a table."""

    text: pa.StringArray  # (rows,); null or empty where a row has none
    photo: Sequence[str]  # (rows,), the photos' names
    source: str
    column: str
    digest: str | None  # of the table; None at a URI, with photos in it, or where the column is one of the vectors' own

    def __len__(self) -> int:
        return len(self.text)

    @cached_property
    def _names(self) -> "pandas.Index":
        """The names of the rows, to look many of them up again and again: its table of hashes is made once."""
        import pandas  # which few runs need

        return pandas.Index(self.photo, dtype=object)

    def places(self, photos: Sequence[str], first_row: int) -> np.ndarray:
        """The rows of photos, (N,) int64: by their names, or where names repeat by their order.

        photos: that stand in the input from `first_row` on.

        Raises:
            InputError: a photo that is not there, or photos in another order.
        """
        if self._names.is_unique:
            place = self._names.get_indexer(np.array(photos, object)).astype(np.int64)
            missing = np.flatnonzero(place < 0)
            if missing.size:
                raise InputError(
                    f"{self.source}: has no row for {photos[missing[0]]}, which is answered. Take the column "
                    f"{self.column} from the table that these vectors were made from."
                )
            return np.asarray(place)
        here = np.arange(first_row, first_row + len(photos))
        if list(photos) != list(self.photo[first_row : first_row + len(photos)]):
            raise InputError(
                f"{self.source}: names repeat, and its photos are not those that are answered, from row {first_row} "
                f"on. Take the column {self.column} from the table that these vectors were made from."
            )
        return here


def texts_of_table(table: str | Path, column: str, *, split: str | None = None) -> RowTexts:
    """The texts of a photo table's rows, of one split where one is named. Raises as `read_columns`."""
    rows = read_columns(table, ["photo", column], split=split)
    # Names are compared with those of the photos whether there is a digest or not.
    is_small = Path(table).is_file() and not open_table(table).has(IMAGES)
    digest = file_digest(Path(table)) if is_small else None
    return RowTexts(_texts([rows[column]]), names_of(rows, table), masked(table), column, digest)


def texts_of_features(features: FeatureSource, column: str) -> RowTexts:
    """Those of photo vectors, by a column of their files or of the CSV beside a .npy. Raises as `read_columns`."""
    tables = [shard.with_suffix(".csv") if shard.suffix == ".npy" else shard for shard in features.shards]
    parts = [read_columns(table, ["photo", column]) for table in tables]
    names = [name for rows, table in zip(parts, tables, strict=True) for name in names_of(rows, table)]
    return RowTexts(_texts([rows[column] for rows in parts]), names, str(features.location), column, None)


def _texts(columns: Sequence[pa.ChunkedArray]) -> pa.StringArray:
    chunks = [chunk for column in columns for chunk in column.cast(pa.string()).chunks]
    return pa.chunked_array(chunks, pa.string()).combine_chunks()
