"""Posteriors as frames for maps: shares that add up to 1, polygons on the map, photos where they were taken."""

import json
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely

from indexer.bundles.bundle import Bundle
from indexer.cells.export import write_frame
from indexer.vectors.features import FeatureBatch
from search.answers.answer import Answer, answers_of
from search.answers.engine import Engine
from search.answers.posterior_map import posterior_frame
from search.retrieval.posterior import Posterior
from tests.conftest import unit_rows
from tests.search.answers.test_photo_evidence import queries_of
from tests.search.conftest import WIDTH
from tests.search.gallery_oracle import FIT, engine_with


@pytest.mark.parametrize("level", [0, 1, 2])
def test_shares_of_a_level_are_sums_of_their_leaves_and_add_up_to_1(engine: Engine, level: int) -> None:
    hierarchy = engine.bundle.hierarchy
    posterior = engine.find(unit_rows(3, WIDTH, seed=0), left_out=0.0).posterior
    assert posterior is not None
    frame = posterior_frame(hierarchy, ["a", "b", "a"], posterior, level=level)
    np.testing.assert_allclose(frame.groupby("photo")["share"].sum()[["a", "b"]], [2, 1], atol=1e-6)
    dense = np.zeros((3, len(hierarchy.leaves)))
    dense[posterior.query, posterior.leaf] = posterior.probability
    second = frame[frame["photo"] == "b"]
    assert second["share"].is_monotonic_decreasing
    for key, share in zip(second["key"], second["share"], strict=True):
        cell = int(np.flatnonzero(hierarchy.levels[level].keys == key)[0])
        below = slice(hierarchy.levels[level].leaf_begin[cell], hierarchy.levels[level].leaf_end[cell])
        assert share == pytest.approx(dense[1, below].sum())
    minx, miny, maxx, maxy = frame.total_bounds
    assert -180 <= minx <= maxx <= 180
    assert -90 <= miny <= maxy <= 90
    assert shapely.is_valid(frame.geometry.to_numpy()).all()
    assert set(frame["kind"]) == {"cell"}
    assert frame[["gallery_photo", "cosine", "weight"]].isna().to_numpy().all()


def answered(engine: Engine, queries: np.ndarray) -> tuple[list[Answer], Posterior]:
    n, nowhere = len(queries), np.full(len(queries), np.nan)
    batch = FeatureBatch([f"q{row}" for row in range(n)], queries, ["ok"] * n, [""] * n, nowhere, nowhere)
    posterior = engine.find(queries, left_out=0.0).posterior
    assert posterior is not None
    return answers_of(engine, batch, k=1), posterior


@pytest.mark.parametrize("suffix", [".geojson", ".parquet"])
def test_photos_that_decided_are_points_with_their_weights(photo_bundle: Bundle, tmp_path: Path, suffix: str) -> None:
    engine = engine_with(photo_bundle, FIT, mode="exact", gallery_photos=7)
    answers, posterior = answered(engine, queries_of(photo_bundle, 4))
    names, gallery = [each.photo for each in answers], [each.gallery for each in answers]
    hierarchy, out = photo_bundle.hierarchy, tmp_path / f"map{suffix}"
    frame = posterior_frame(hierarchy, names, posterior, level=1, gallery=gallery)
    write_frame(frame, out)
    if suffix == ".geojson":
        features = json.loads(out.read_text())["features"]
        rows = [{**each["properties"], "at": tuple(each["geometry"]["coordinates"])} for each in features]
        assert all(each["geometry"]["type"] == "Point" for each in features if each["properties"]["kind"] == "photo")
    else:
        read = geopandas.read_parquet(out)
        points = [(place.x, place.y) if place.geom_type == "Point" else None for place in read.geometry]
        rows = [
            {**row, "at": at} for row, at in zip(read.drop(columns="geometry").to_dict("records"), points, strict=True)
        ]
    for answer in answers:
        own = [row for row in rows if row["photo"] == answer.photo]
        cells, photos = ([row for row in own if row["kind"] == kind] for kind in ("cell", "photo"))
        assert sum(row["share"] for row in cells) == pytest.approx(1, abs=1e-5)
        assert len(photos) == len(answer.gallery) == 7
        for row, photo in zip(photos, answer.gallery, strict=True):
            assert row["gallery_photo"] == photo.photo
            assert (row["cosine"], row["weight"]) == pytest.approx((photo.cosine, photo.weight))
            assert row["at"] == pytest.approx((photo.lng_deg, photo.lat_deg), abs=1e-8)
            assert row["city"]
    assert not {"owner", "whose"} & set(frame.columns)


def test_under_a_precision_cap_no_photo_is_drawn(photo_bundle: Bundle) -> None:
    engine = engine_with(photo_bundle, FIT, mode="exact", precision_cap=600.0)
    answers, posterior = answered(engine, queries_of(photo_bundle, 4))
    frame = posterior_frame(
        photo_bundle.hierarchy,
        [each.photo for each in answers],
        posterior,
        level=2,
        coarse=engine.coarse,
        gallery=[each.gallery for each in answers],
    )
    assert set(frame["kind"]) == {"cell"}
    assert engine.coarse is not None
    assert set(frame["key"]) <= set(engine.coarse.keys)


def test_some_answers_may_have_been_decided_by_cells_alone(photo_bundle: Bundle) -> None:
    engine = engine_with(photo_bundle, FIT, mode="exact", gallery_photos=3)
    answers, posterior = answered(engine, queries_of(photo_bundle, 2))
    gallery = [answers[0].gallery, ()] + [()] * (len(answers) - 2)
    frame = posterior_frame(
        photo_bundle.hierarchy, [each.photo for each in answers], posterior, level=0, gallery=gallery
    )
    assert (frame["kind"] == "photo").sum() == 3
    assert set(frame[frame["kind"] == "photo"]["photo"]) == {"q0"}
