"""Answers as rows: what `run` writes to Parquet and `query` prints, one row per photo, failures included."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer.earth import s2
from indexer.vectors.features import FeatureBatch
from search.answers.engine import Areas, Engine
from search.answers.precision_cap import NamedCells
from search.answers.recall import RecallCheck
from search.retrieval.found import Hits

SCHEMA = pa.schema(
    [
        ("row", pa.int64()),  # number of the photo in the input; what a row is known by, since names may repeat
        ("photo", pa.string()),
        ("status", pa.string()),  # 'ok' or a short reason code
        ("reason", pa.string()),
        ("lat", pa.float64()),  # where the answer points (`point`); null where there is no answer
        ("lng", pa.float64()),
        ("key", pa.string()),  # the finest cell: its token, or its label path
        ("s2_id", pa.uint64()),  # null where cells are labels
        ("token", pa.string()),
        ("city", pa.string()),  # the city nearest to the point, with at least 15,000 inhabitants
        ("country", pa.string()),
        ("score", pa.float64()),
        ("probability", pa.float64()),
        ("calibrated", pa.bool_()),
        ("radius_50_km", pa.float64()),  # within it half of such photos were taken; null where this is not told
        ("radius_90_km", pa.float64()),  # and nine in ten
        ("entropy", pa.float64()),  # of the posterior over the finest cells, in nats
        ("abstain", pa.string()),  # why the answer had better not be used; null where there is no such reason
        ("mode", pa.string()),  # how the answer was found
        ("probability_over", pa.string()),  # the leaves that the probability counts: all, or those that were visited
        ("n_photos", pa.int64()),  # the answer was made from: 1, or those of an album that could be read
    ]
)
UNLIKE = "unlike the photos it was calibrated with: its best cell scores below that of 99 % of them"
_PHOTO_COLUMNS = ("row", "photo", "status", "reason")  # what is known without an answer
# With top-k > 1: the k best leaves of each photo, the best first, beside the answer's own columns.
TOP_SCHEMA = pa.schema(
    [
        ("top_key", pa.list_(pa.string())),
        ("top_s2_id", pa.list_(pa.uint64())),  # null where cells are labels
        ("top_lat", pa.list_(pa.float64())),
        ("top_lng", pa.list_(pa.float64())),
        ("top_score", pa.list_(pa.float64())),
        ("top_probability", pa.list_(pa.float64())),
    ]
)


# With references: the photos of the best cell that are most like each photo, the most similar first.
REFERENCE_SCHEMA = pa.schema(
    [
        ("reference_photo", pa.list_(pa.string())),
        ("reference_lat", pa.list_(pa.float64())),
        ("reference_lng", pa.list_(pa.float64())),
        ("reference_cosine", pa.list_(pa.float64())),
    ]
)


def answer_table(
    engine: Engine, batch: FeatureBatch, *, first_row: int, k: int, recall: RecallCheck | None = None
) -> pa.Table:
    """Search a batch of photo vectors and lay out one row per photo, in order; `recall` takes notice of the queries."""
    ok = np.flatnonzero(batch.ok)
    queries = engine.prepared(batch.embedding[ok])
    if recall is not None:
        recall.add(first_row + ok, queries)
    answers = answers_of(engine, queries, k=k, n_photos=np.ones(len(ok), np.int64))
    position = np.full(len(batch), -1)
    position[ok] = np.arange(len(ok))
    return laid_out(batch, answers, position, first_row=first_row)


def answers_of(engine: Engine, queries: np.ndarray, *, k: int, n_photos: np.ndarray) -> pa.Table:
    """What queries are told, a row each.

    queries: as `Engine.search_prepared` takes them. n_photos: (Q,) int64, how many photos each is made of.
    """
    parts = [
        _some_answers(engine, queries[start : start + engine.at_once], k, n_photos[start : start + engine.at_once])
        for start in range(0, max(len(queries), 1), engine.at_once)  # of no queries, a table with no rows
    ]
    return pa.concat_tables(parts).combine_chunks()


def _some_answers(engine: Engine, queries: np.ndarray, k: int, n_photos: np.ndarray) -> pa.Table:
    answers = engine.answer(queries, k=k, n_photos=n_photos)
    cells, hits, best = answers.cells, answers.hits, answers.hits.leaf[:, 0]
    ids = None if cells.s2_ids is None else cells.s2_ids[best]
    columns = {
        "lat": answers.at.lat_deg,
        "lng": answers.at.lng_deg,
        "key": cells.keys[best].tolist(),
        "s2_id": [None] * len(best) if ids is None else ids,
        "token": [None] * len(best) if ids is None else s2.tokens(ids),
        "city": answers.at.city.tolist(),
        "country": answers.at.country.tolist(),
        "score": hits.score[:, 0],
        "probability": hits.probability[:, 0],
        "calibrated": [engine.calibrated] * len(best),
        "mode": hits.mode,
        "probability_over": [engine.counts] * len(best),
        "n_photos": n_photos,
        **_area_columns(answers.areas, len(best)),
    }
    schema = SCHEMA
    if hits.leaf.shape[1] > 1:
        schema = pa.unify_schemas([SCHEMA, TOP_SCHEMA])
        columns |= _top_columns(cells, hits)
    if answers.references is not None and engine.reference_photos is not None:
        schema = pa.unify_schemas([schema, REFERENCE_SCHEMA])
        columns |= engine.reference_photos.columns(answers.references)
    fields = [field for field in schema if field.name not in _PHOTO_COLUMNS]
    return pa.table([pa.array(columns[field.name], field.type) for field in fields], schema=pa.schema(fields))


def _area_columns(areas: Areas | None, n: int) -> dict[str, Any]:
    if areas is None:
        return dict.fromkeys(("radius_50_km", "radius_90_km", "entropy", "abstain"), [None] * n)
    return {
        "radius_50_km": [None] * n if areas.radius_50_km is None else areas.radius_50_km,
        "radius_90_km": [None] * n if areas.radius_90_km is None else areas.radius_90_km,
        "entropy": areas.entropy,
        "abstain": [UNLIKE if abstain else None for abstain in areas.abstain],
    }


def laid_out(batch: FeatureBatch, answers: pa.Table, position: np.ndarray, *, first_row: int) -> pa.Table:
    """One row per photo of a batch, in order, with its answer.

    position: (N,) int64, the row of `answers` that is the photo's; -1 where it has none.
    """
    photos = pa.table(
        {
            "row": np.arange(first_row, first_row + len(batch)),
            "photo": pa.array(batch.photo, pa.string()),
            "status": pa.array(batch.status, pa.string()),
            "reason": pa.array(batch.reason, pa.string()),
        }
    )
    # `take` with a null index yields null: rows without an answer.
    taken = answers.take(pa.array(position, mask=position < 0))
    return pa.Table.from_arrays(
        [*photos.columns, *taken.columns], schema=pa.unify_schemas([photos.schema, taken.schema])
    )


def explain(engine: Engine, batch: FeatureBatch, table: pa.Table) -> list[dict[str, Any]]:
    """The rows of `answer_table` with the path of cells above each answer and its probability at every level.

    Every row has the same fields; a photo without an answer has nulls, no path and no `top`.
    """
    rows: list[dict[str, Any]] = table.to_pylist()
    ok = np.flatnonzero(batch.ok)
    coarse = engine.coarse
    keys = pa.array((engine.bundle.hierarchy.leaves if coarse is None else coarse).keys.tolist())
    cells = pc.index_in(table["key"].take(pa.array(ok)), value_set=keys).to_numpy().astype(np.int64)
    # Under a cap, any leaf of a cell: only the cells above it are told, which are those of all of them.
    paths = engine.paths(batch.embedding[ok], cells if coarse is None else coarse.some_leaf[cells])
    for number, answered in enumerate(ok):
        rows[answered]["path"] = _path(engine, paths.cell[number], paths.probability[number])
    for row in rows:
        del row["s2_id"]  # JSON readers lose bits above 2**53; the token says the same
        row["top"] = _top_rows(row)
        row["references"] = _listed(row, "reference", ("photo", "lat", "lng", "cosine"))
        row.setdefault("path", [])
    return rows


def _path(engine: Engine, cells: Sequence[int], probabilities: np.ndarray) -> list[dict[str, Any]]:
    result = []
    for number, (cell, probability) in enumerate(zip(cells, probabilities.tolist(), strict=True)):
        level = engine.bundle.hierarchy.levels[number]
        if engine.coarse is not None and engine.coarse.is_finer(level, cell):
            break
        result.append(
            {
                "level": number,
                "key": str(level.keys[cell]),
                "city": str(level.city[cell]),
                "country": str(level.country[cell]),
                "radius_km": float(level.radius_km[cell]),
                "probability": probability,
            }
        )
    return result


def _top_columns(cells: NamedCells, hits: Hits) -> dict[str, list[Any]]:
    ranked = [row[row >= 0] for row in hits.leaf]
    ids = cells.s2_ids
    return {
        "top_key": [cells.keys[row].tolist() for row in ranked],
        "top_s2_id": [None] * len(ranked) if ids is None else [ids[row] for row in ranked],
        "top_lat": [cells.lat_deg[row] for row in ranked],
        "top_lng": [cells.lng_deg[row] for row in ranked],
        "top_score": [score[: len(row)] for score, row in zip(hits.score, ranked, strict=True)],
        "top_probability": [share[: len(row)] for share, row in zip(hits.probability, ranked, strict=True)],
    }


def _top_rows(row: dict[str, Any]) -> list[dict[str, Any]]:
    row.pop("top_s2_id", None)
    return _listed(row, "top", ("key", "lat", "lng", "score", "probability"))


def _listed(row: dict[str, Any], prefix: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """List columns of a row, taken out of it, as a list of what stands at each place of them."""
    columns = {name: row.pop(f"{prefix}_{name}", None) or () for name in names}
    return [dict(zip(columns, place, strict=True)) for place in zip(*columns.values(), strict=True)]
