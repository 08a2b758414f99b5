"""A column of texts beside the photos of an input: which album each is of, or whose it is.

In: a photo table, or the files of photo vectors. Out: the texts row by row, with the photos' names, by which it is
noticed when they are not those of the photos that are answered.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from indexer.disk.manifest import file_digest
from indexer.errors import InputError
from indexer.photos.tables import IMAGES, names_of, open_table, read_columns
from indexer.photos.uris import masked
from indexer.vectors.features import FeatureSource


@dataclass(frozen=True, slots=True, eq=False)
class RowTexts:
    """The texts of a column, a row for each photo of an input."""

    text: pa.StringArray  # (rows,); null or empty where a row has none
    photo: Sequence[str]  # (rows,), the photos' names
    source: str
    column: str
    digest: str | None  # of the table; None at a URI, with photos in it, or where the column is one of the vectors' own

    def __len__(self) -> int:
        return len(self.text)

    def check(self, photos: Sequence[str], first_row: int) -> None:
        """Raise InputError where the photos of an input from one row on are not those of the column."""
        here = self.photo[first_row : first_row + len(photos)]
        if list(photos) != list(here):
            raise InputError(
                f"{self.source}: its photos are not those that are answered, from row {first_row} on. Take the column "
                f"{self.column} from the table that their vectors were made from."
            )


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
