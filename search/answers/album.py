"""Albums: photos of one event are one query, the sum of their vectors, and all of them get its answer.

Logarithms of probabilities add up over independent photos of one place, and so do their vectors: the sum scores a leaf
as the product of all photos' scores does. Logits grow with the number of photos, so that an album's probability is more
over-confident than a photo's; temperatures are fitted apart (protocol 'album').

In: a column that says which photos belong together, and the photos' vectors shard by shard. Out: tables of rows like
those without albums, one for each shard. A photo with an empty album is one of its own; one that could not be read is a
row with its reason, and its album is answered from the others. Beside the shards, one sum of vectors is held for each
album, 6 kB at 768 dims, and the names of all photos: answers come when all photos have been seen.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from indexer.disk.manifest import file_digest
from indexer.errors import InputError
from indexer.photos.tables import names_of, read_columns
from indexer.photos.uris import masked
from indexer.vectors.cell_sums import CellSums
from indexer.vectors.features import FeatureBatch, FeatureSource
from search.answers.engine import Engine
from search.answers.recall import RecallCheck
from search.answers.rows import answer_columns, laid_out

_ANSWERED = 1 << 13  # albums searched at once
_ADVICE = "Take the column from the table that the vectors were made from."


@dataclass(frozen=True, slots=True, eq=False)
class Albums:
    """Which album each row of an input belongs to."""

    of_row: np.ndarray  # (rows,) int64, from 0 in the order in which albums first appear
    photo: Sequence[str]  # the names of the rows, by which it is noticed when they are not those of the vectors
    source: str
    column: str
    digest: str | None  # of the table; None where the column is one of the vectors' own

    def __len__(self) -> int:
        return int(self.of_row.max(initial=-1)) + 1


def albums_of_table(table: str | Path, column: str, *, split: str | None = None) -> Albums:
    """The albums of a photo table's rows, of one split where one is named. Raises as `read_columns`."""
    rows = read_columns(table, ["photo", column], split=split)
    # Of a table at a URI there is no digest; its names are compared with those of the vectors all the same.
    digest = file_digest(Path(table)) if Path(table).is_file() else None
    return Albums(_numbered(rows[column]), names_of(rows, table), masked(table), column, digest)


def albums_of_features(features: FeatureSource, column: str) -> Albums:
    """The albums of photo vectors, by a column of their files or of the CSV beside a .npy. Raises as `read_columns`."""
    tables = [shard.with_suffix(".csv") if shard.suffix == ".npy" else shard for shard in features.shards]
    parts = [read_columns(table, ["photo", column]) for table in tables]
    names = [name for rows, table in zip(parts, tables, strict=True) for name in names_of(rows, table)]
    albums = [chunk for rows in parts for chunk in rows[column].cast(pa.string()).chunks]
    return Albums(_numbered(pa.chunked_array(albums, pa.string())), names, str(features.location), column, None)


def answer_albums(
    engine: Engine, shards: Iterable[FeatureBatch], albums: Albums, *, k: int, recall: RecallCheck | None = None
) -> Iterator[pa.Table]:
    """The rows of every shard, in order, once all of them were read.

    Raises:
        InputError: vectors that do not fit the bundle, or other rows than the albums were read from.
    """
    sums = CellSums.zeros(len(albums), engine.bundle.model.geocells.width)
    seen: list[FeatureBatch] = []
    row = 0
    for batch in shards:
        ok = np.flatnonzero(batch.ok)
        here = slice(row, row + len(batch))
        if list(batch.photo) != list(albums.photo[here]):
            raise InputError(f"{albums.source}: its photos are not those of the vectors, from row {row} on. {_ADVICE}")
        sums.add(engine.prepared(batch.embedding[ok]), albums.of_row[here][ok])
        seen.append(batch.without_vectors())
        row += len(batch)
    if row != len(albums.of_row):
        rows = len(albums.of_row)
        raise InputError(f"{albums.source}: {rows} rows, where there are vectors of {row} photos. {_ADVICE}")
    answers = _answers(engine, sums, k=k, recall=recall)
    position = np.where(sums.counts > 0, np.cumsum(sums.counts > 0) - 1, -1)
    row = 0
    for batch in seen:
        of_row = albums.of_row[row : row + len(batch)]
        yield laid_out(batch, answers, np.where(batch.ok, position[of_row], -1), first_row=row)
        row += len(batch)


def _answers(engine: Engine, sums: CellSums, *, k: int, recall: RecallCheck | None) -> pa.Table:
    """An answer for each album with a photo that could be read."""
    there = np.flatnonzero(sums.counts)
    parts = []
    for start in range(0, max(1, len(there)), _ANSWERED):
        albums = there[start : start + _ANSWERED]
        queries = sums.sums[albums].astype(np.float32)
        parts.append(answer_columns(engine, queries, k=k, n_photos=sums.counts[albums]))
        if recall is not None:
            recall.add(albums, queries, sums.counts[albums])
    return pa.concat_tables(parts)


def _numbered(column: pa.ChunkedArray) -> np.ndarray:
    """Albums by number (rows,) int64; a row whose album is null or empty is an album of its own."""
    names = column.cast(pa.string()).combine_chunks()
    alone = pc.fill_null(pc.equal(names, ""), True)
    named = pc.binary_join_element_wise("album", names, " ")
    own = pc.binary_join_element_wise("row", pa.array(np.arange(len(names))).cast(pa.string()), " ")
    numbers = pc.if_else(alone, own, named).dictionary_encode().indices
    return numbers.to_numpy(zero_copy_only=False).astype(np.int64)
