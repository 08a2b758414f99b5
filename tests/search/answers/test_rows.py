"""Rows of answers: the same columns whatever is answered, and nulls where there is nothing to say."""

import numpy as np
import pyarrow as pa

from indexer.bundles.bundle import Bundle
from indexer.jobs.job_folder import OK
from indexer.vectors.features import FeatureBatch
from search.answers.engine import Engine
from search.answers.options import SearchOptions
from search.answers.rows import answer_table
from tests.conftest import unit_rows
from tests.search.conftest import WIDTH

PHOTO = {"row": pa.int64(), "photo": pa.string(), "status": pa.string(), "reason": pa.string()}
ANSWER = {
    **{
        "lat": pa.float64(),
        "lng": pa.float64(),
        "key": pa.string(),
        "point_key": pa.string(),
        "s2_id": pa.uint64(),
        "token": pa.string(),
    },
    **{"city": pa.string(), "country": pa.string(), "score": pa.float64(), "probability": pa.float64()},
    **{"calibrated": pa.bool_(), "radius_50_km": pa.float64(), "radius_90_km": pa.float64(), "entropy": pa.float64()},
    **{"abstain": pa.string(), "mode": pa.string(), "evidence": pa.string(), "probability_over": pa.string()},
    **{"n_photos": pa.int64(), "class_map": pa.bool_()},
}
TOP = {
    **{"top_key": pa.list_(pa.string()), "top_s2_id": pa.list_(pa.uint64()), "top_lat": pa.list_(pa.float64())},
    **{f"top_{name}": pa.list_(pa.float64()) for name in ("lng", "score", "probability")},
}
GALLERY = {
    "gallery_photo": pa.list_(pa.string()),
    **{f"gallery_{name}": pa.list_(pa.float64()) for name in ("lat", "lng", "cosine", "weight")},
}


def photos(n: int, *, ok: bool) -> FeatureBatch:
    vectors, nowhere = unit_rows(n, WIDTH, seed=0) if n else np.empty((0, WIDTH), np.float32), np.full(n, np.nan)
    status, reason = (OK, "") if ok else ("damaged", "it ends too early")
    return FeatureBatch([f"{row}.jpg" for row in range(n)], vectors, [status] * n, [reason] * n, nowhere, nowhere)


def test_columns_do_not_depend_on_what_was_answered(bundle: Bundle) -> None:
    for options in (SearchOptions(), SearchOptions(point="mass"), SearchOptions(precision_cap=800.0)):
        engine = Engine(bundle, options=options)
        for batch in (photos(3, ok=True), photos(3, ok=False), photos(0, ok=True)):
            for k, columns in ((1, PHOTO | ANSWER), (2, PHOTO | ANSWER | TOP)):
                table = answer_table(engine, batch, first_row=7, k=k)
                assert dict(zip(table.column_names, table.schema.types, strict=True)) == columns
                assert table["row"].to_pylist() == list(range(7, 7 + len(batch)))


def test_with_a_gallery_the_photos_that_decided_have_columns(photo_bundle: Bundle) -> None:
    for options, more in (
        (SearchOptions(), GALLERY),
        (SearchOptions(gallery="all", gallery_photos=0), GALLERY),
        (SearchOptions(gallery="off"), {}),
        (SearchOptions(precision_cap=800.0), {}),
    ):
        engine = Engine(photo_bundle, options=options)
        for batch in (photos(3, ok=True), photos(3, ok=False), photos(0, ok=True)):
            for k, columns in ((1, PHOTO | ANSWER | more), (2, PHOTO | ANSWER | TOP | more)):
                table = answer_table(engine, batch, first_row=7, k=k)
                assert dict(zip(table.column_names, table.schema.types, strict=True)) == columns
        for row in answer_table(engine, photos(2, ok=False), first_row=0, k=2).to_pylist():
            assert {row[name] for name in ANSWER | TOP | more} == {None}


def test_a_photo_without_a_vector_has_nulls_alone(bundle: Bundle) -> None:
    for row in answer_table(Engine(bundle), photos(2, ok=False), first_row=0, k=2).to_pylist():
        assert {row[name] for name in ANSWER | TOP} == {None}
        assert (row["status"], row["reason"]) == ("damaged", "it ends too early")
