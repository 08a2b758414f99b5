"""Albums: photos of one event are one query, the sum of their vectors, and all of them get its answer.

Logarithms of probabilities add up over independent photos of one place, and so do their vectors: the sum scores a leaf
as the product of all photos' scores does. Logits grow with the number of photos, so that an album's probability is more
over-confident than a photo's; temperatures are fitted apart (protocol 'album').

In: a column that says which photos belong together, and the photos' vectors shard by shard. Out: tables of rows like
those without albums, one for each shard, which also say by a number which photos were asked together. A photo with an
empty album is one of its own; one that could not be read is a row with its reason, and its album is answered from the
others. Beside the shards, one sum of vectors is held for each
album, 6 kB at 768 dims, and the names of all photos: answers come when all photos have been seen.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from indexer.errors import InputError
from indexer.vectors.cell_sums import CellSums
from indexer.vectors.features import FeatureBatch, FeatureSource
from search.answers.engine import Engine
from search.answers.owners import QueryOwners, owners_of_albums
from search.answers.recall import RecallCheck
from search.answers.row_texts import RowTexts, texts_of_features, texts_of_table
from search.answers.rows import answer_columns, laid_out

_ANSWERED = 1 << 13  # albums searched at once
_ADVICE = "Take the column from the table that the vectors were made from."


@dataclass(frozen=True, slots=True, eq=False)
class Albums:
    """Which album each row of an input belongs to."""

    of_row: np.ndarray  # (rows,) int64, from 0 in the order in which albums first appear
    rows: RowTexts  # whose names show when they are not those of the vectors

    def __len__(self) -> int:
        return int(self.of_row.max(initial=-1)) + 1


def albums_of_table(table: str | Path, column: str, *, split: str | None = None) -> Albums:
    """The albums of a photo table's rows, of one split where one is named. Raises as `read_columns`."""
    return _albums(texts_of_table(table, column, split=split))


def albums_of_features(features: FeatureSource, column: str) -> Albums:
    """The albums of photo vectors, by a column of their files or of the CSV beside a .npy. Raises as `read_columns`."""
    return _albums(texts_of_features(features, column))


def _albums(rows: RowTexts) -> Albums:
    return Albums(album_numbers(rows.text), rows)


def album_numbers(names: pa.Array) -> np.ndarray:
    """Albums by number (rows,) int64; a row whose album is null or empty is an album of its own."""
    alone = pc.fill_null(pc.equal(names, ""), True)
    named = pc.binary_join_element_wise("album", names, " ")
    own = pc.binary_join_element_wise("row", pa.array(np.arange(len(names))).cast(pa.string()), " ")
    numbers = pc.if_else(alone, own, named).dictionary_encode().indices
    return numbers.to_numpy(zero_copy_only=False).astype(np.int64)


def answer_albums(
    engine: Engine,
    shards: Iterable[FeatureBatch],
    albums: Albums,
    *,
    k: int,
    recall: RecallCheck | None = None,
    owners: QueryOwners | None = None,
) -> Iterator[pa.Table]:
    """The rows of every shard, in order, once all of them were read.

    owners: whose the photos are: an album does not look at gallery photos of any of its owners.

    Raises:
        InputError: vectors that do not fit the bundle, or other rows than the albums were read from.
    """
    sums = CellSums.zeros(len(albums), engine.bundle.model.geocells.width)
    seen: list[FeatureBatch] = []
    of_photo = [np.empty(0, np.int64)]
    row = 0
    for batch in shards:
        ok = np.flatnonzero(batch.ok)
        here = slice(row, row + len(batch))
        if list(batch.photo) != list(albums.rows.photo[here]):
            raise InputError(
                f"{albums.rows.source}: its photos are not those of the vectors, from row {row} on. {_ADVICE}"
            )
        if owners is not None:
            of_photo.append(owners.of_photos(batch.photo, row)[:, 0])
        sums.add(engine.prepared(batch.embedding[ok]), albums.of_row[here][ok])
        seen.append(batch.without_vectors())
        row += len(batch)
    if row != len(albums.of_row):
        source, rows = albums.rows.source, len(albums.of_row)
        raise InputError(f"{source}: {rows} rows, where there are vectors of {row} photos. {_ADVICE}")
    of_albums = None if owners is None else owners_of_albums(np.concatenate(of_photo), albums.of_row, len(albums))
    answers = _answers(engine, sums, k=k, recall=recall, owners=of_albums)
    position = np.where(sums.counts > 0, np.cumsum(sums.counts > 0) - 1, -1)
    row = 0
    for batch in seen:
        of_row = albums.of_row[row : row + len(batch)]
        yield laid_out(batch, answers, np.where(batch.ok, position[of_row], -1), first_row=row, album=of_row)
        row += len(batch)


def _answers(
    engine: Engine, sums: CellSums, *, k: int, recall: RecallCheck | None, owners: np.ndarray | None
) -> pa.Table:
    """An answer for each album with a photo that could be read. owners: (albums, K), of all."""
    there = np.flatnonzero(sums.counts)
    parts = []
    for start in range(0, max(1, len(there)), _ANSWERED):
        albums = there[start : start + _ANSWERED]
        queries = sums.sums[albums].astype(np.float32)
        own = None if owners is None else owners[albums]
        parts.append(answer_columns(engine, queries, k=k, n_photos=sums.counts[albums], owners=own))
        if recall is not None:
            recall.add(albums, queries, sums.counts[albums], owners=own)
    return pa.concat_tables(parts)
