"""Answers as rows: what `run` writes to Parquet, one row per photo, failures included.

`_COLUMNS`, `_TOP` and `_GALLERY` are where columns get their names; the fields of an `Answer` say what they hold.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from indexer.earth import s2
from indexer.vectors.features import FeatureBatch
from search.answers.answer_maker import Answers
from search.answers.engine import Engine
from search.answers.owners import QueryOwners
from search.answers.recall import RecallCheck

UNLIKE = "unlike the photos it was calibrated with: its best cell scores below that of 99 % of them"

_Column = tuple[str, pa.DataType, Callable[[Answers], Any]]  # one value for each query; None: nulls for all


def _abstain(answers: Answers) -> list[str | None] | None:
    return None if answers.abstain is None else [UNLIKE if abstain else None for abstain in answers.abstain]


# Beside `row` (number of the photo in the input; what a row is known by, since names may repeat), `photo`, `status`
# ('ok' or a short reason code), `reason` and, the last ones, `class_map` (whether its class map was seen; null where
# nobody said) and, of photos that were asked in albums, `album`. All but `album` are null where a photo has no answer.
_COLUMNS: tuple[_Column, ...] = (
    ("lat", pa.float64(), lambda each: each.at.lat_deg),
    ("lng", pa.float64(), lambda each: each.at.lng_deg),
    ("key", pa.string(), lambda each: each.cells.keys[each.best]),
    ("point_key", pa.string(), lambda each: _point_keys(each)),  # of the finest cell that the place lies in
    ("s2_id", pa.uint64(), lambda each: each.s2_ids),  # null where cells are labels
    ("token", pa.string(), lambda each: None if each.s2_ids is None else s2.tokens(each.s2_ids)),
    ("city", pa.string(), lambda each: each.at.city),
    ("country", pa.string(), lambda each: each.at.country),
    ("score", pa.float64(), lambda each: each.hits.score[:, 0]),
    ("probability", pa.float64(), lambda each: each.hits.probability[:, 0]),
    ("calibrated", pa.bool_(), lambda each: [each.calibrated] * len(each)),
    ("radius_50_km", pa.float64(), lambda each: each.radius_50_km),
    ("radius_90_km", pa.float64(), lambda each: each.radius_90_km),
    ("entropy", pa.float64(), lambda each: each.entropy),
    ("abstain", pa.string(), _abstain),
    ("mode", pa.string(), lambda each: each.hits.mode),
    ("evidence", pa.string(), lambda each: each.evidence),
    ("probability_over", pa.string(), lambda each: [each.probability_over] * len(each)),
    ("n_photos", pa.int64(), lambda each: each.n_photos),
)
# With k above 1: the k best leaves of each photo, the best first.
_TOP: tuple[_Column, ...] = (
    ("top_key", pa.list_(pa.string()), lambda each: _top(each, each.cells.keys)),
    ("top_s2_id", pa.list_(pa.uint64()), lambda each: _top(each, each.cells.s2_ids)),  # null where cells are labels
    ("top_lat", pa.list_(pa.float64()), lambda each: _listed(each.cell_lat_deg, each.hits.leaf >= 0)),
    ("top_lng", pa.list_(pa.float64()), lambda each: _listed(each.cell_lng_deg, each.hits.leaf >= 0)),
    ("top_score", pa.list_(pa.float64()), lambda each: _listed(each.hits.score, each.hits.leaf >= 0)),
    ("top_probability", pa.list_(pa.float64()), lambda each: _listed(each.hits.probability, each.hits.leaf >= 0)),
)
# With a gallery: the photos that decided, the heaviest first.
_GALLERY: tuple[_Column, ...] = (
    ("gallery_photo", pa.list_(pa.string()), lambda each: _photos(each, "photo")),
    ("gallery_lat", pa.list_(pa.float64()), lambda each: _photos(each, "lat_deg")),
    ("gallery_lng", pa.list_(pa.float64()), lambda each: _photos(each, "lng_deg")),
    ("gallery_cosine", pa.list_(pa.float64()), lambda each: _photos(each, "cosine")),
    ("gallery_weight", pa.list_(pa.float64()), lambda each: _photos(each, "weight")),
)


def _point_keys(answers: Answers) -> list[str | None] | None:
    if answers.point_leaf is None:
        return None
    keys = answers.cells.keys[answers.point_leaf]
    return [key if there else None for key, there in zip(keys.tolist(), answers.point_leaf >= 0, strict=True)]


def _top(answers: Answers, of_cell: np.ndarray | None) -> list[np.ndarray] | None:
    leaf = answers.hits.leaf
    return None if of_cell is None else _listed(of_cell[leaf], leaf >= 0)


def _photos(answers: Answers, name: str) -> list[np.ndarray]:
    assert answers.photos is not None, "these columns are there where they are"
    return _listed(getattr(answers.photos, name), ~np.isnan(answers.photos.cosine))


def _listed(values: np.ndarray, there: np.ndarray) -> list[np.ndarray]:
    """What each row (Q, K) holds where it holds something."""
    return [row[present] for row, present in zip(values, there, strict=True)]


def columns_of(answers: Answers) -> pa.Table:
    """Answers to queries, a row each."""
    wanted = _COLUMNS
    if answers.hits.leaf.shape[1] > 1:
        wanted += _TOP
    if answers.photos is not None:
        wanted += _GALLERY
    columns = {name: (values(answers), kind) for name, kind, values in wanted}
    return pa.table(
        {
            name: pa.nulls(len(answers), kind) if values is None else pa.array(values, kind)
            for name, (values, kind) in columns.items()
        }
    )


def answer_columns(
    engine: Engine, queries: np.ndarray, *, k: int, n_photos: np.ndarray, owners: np.ndarray | None = None
) -> pa.Table:
    """Answer queries, a row each. queries, n_photos, owners: as for `Engine.answers`."""
    parts = [columns_of(answers) for _, answers in engine.answers(queries, k=k, n_photos=n_photos, owners=owners)]
    return pa.concat_tables(parts).combine_chunks()


def answer_table(
    engine: Engine,
    batch: FeatureBatch,
    *,
    first_row: int,
    k: int,
    recall: RecallCheck | None = None,
    owners: QueryOwners | None = None,
) -> pa.Table:
    """Search a batch of photo vectors and lay out one row per photo, in order; `recall` takes notice of the queries.

    owners: whose the photos of the input are, whose own photos of the gallery are not looked at.
    """
    ok = np.flatnonzero(batch.ok)
    queries, n_photos = engine.prepared(batch.embedding[ok]), np.ones(len(ok), np.int64)
    own = None if owners is None else owners.of_photos(batch.photo, first_row)[ok]
    if recall is not None:
        recall.add(first_row + ok, queries, n_photos, owners=own)
    answers = answer_columns(engine, queries, k=k, n_photos=n_photos, owners=own)
    position = np.full(len(batch), -1)
    position[ok] = np.arange(len(ok))
    return laid_out(batch, answers, position, first_row=first_row)


def laid_out(
    batch: FeatureBatch, answers: pa.Table, position: np.ndarray, *, first_row: int, album: np.ndarray | None = None
) -> pa.Table:
    """One row per photo of a batch, in order, with its answer.

    position: (N,) int64, the row of `answers` that is the photo's; -1 where it has none. album: (N,) int64, the number
    of the album that each was asked with; None: each was asked alone.
    """
    photos = {
        "row": pa.array(np.arange(first_row, first_row + len(batch))),
        "photo": pa.array(batch.photo, pa.string()),
        "status": pa.array(batch.status, pa.string()),
        "reason": pa.array(batch.reason, pa.string()),
    }
    # `take` with a null index yields null: rows without an answer.
    taken = answers.take(pa.array(position, mask=position < 0))
    more = {"class_map": pa.array(batch.class_map or [None] * len(batch), pa.bool_())}
    if album is not None:
        more["album"] = pa.array(album, pa.int64())
    return pa.table(photos | dict(zip(taken.column_names, taken.columns, strict=True)) | more)
