"""The search benchmark runs through on a tiny world, refuses to time wrong answers, and its worlds are fixed."""

import numpy as np
import pytest
import torch

from benchmarks import search, search_ways
from benchmarks.harness import Report
from benchmarks.place_vectors import PlaceVectors
from benchmarks.search import break_even, compare, crossed, k_means, many_queries, ten_times
from benchmarks.search_ways import World, check_radii, city_places, exact_search, make_world, mp16_world, same
from indexer.bundles.leaf_index import best_of_all
from indexer.vectors.scoring import log_product
from search.answers.radii import radii_km


@pytest.fixture(scope="module")
def world() -> World:
    return mp16_world(queries=80, seed=0, width=48, places=2000)


def test_every_way_is_compared_and_timed(world: World) -> None:
    report = Report("search")
    compare(report, world, runs=1)
    k_means(report, world, runs=1)
    ten_times(report, make_world(city_places(300, seed=0), queries=50, width=48, seed=0), world, runs=1)
    break_even(report, [world, world], runs=1)
    many_queries(report, world, queries=100, device=torch.device("cpu"), runs=1)
    names = [row["what"] for row in report.rows]
    for way in ("(a) plain", "(b) all levels", "(c) FAISS", "(d) exact", "(e) beam", "(e) adaptive"):
        (row,) = (row for row in report.rows if row["what"].startswith(way))
        assert row["ids"]["median_s"] > 0
        assert (row["rows"] is None) == way.startswith("(c)")
    assert any(name.startswith("break-even") for name in names)
    (judged,) = (row for row in report.rows if row["what"].startswith("(e), "))
    assert judged["recall"] >= 0.95


def test_wrong_answers_are_never_timed(world: World) -> None:
    best = best_of_all(world.model, world.rows, world.queries)[:, 0]
    np.testing.assert_array_equal(best, log_product(world.model, world.queries).argmax(axis=1))
    same(best, best, world, "itself")
    with pytest.raises(SystemExit, match="answers of something differ for 1 queries; nothing was timed"):
        same(np.append(best[:-1], (best[-1] + 7) % world.model.n_leaves), best, world, "something")


def test_wrong_radii_are_never_timed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = exact_search(world)
    check_radii(exact, world)
    monkeypatch.setattr(search_ways, "radii_km", lambda *arguments: 1.1 * radii_km(*arguments))
    with pytest.raises(SystemExit, match="Radii of exact search do not hold 50%; nothing was timed"):
        check_radii(exact, world)


def test_worlds_are_the_same_every_time_and_photos_look_like_where_they_were_taken() -> None:
    one, two = (mp16_world(queries=20, seed=3, width=24, places=500) for _ in range(2))
    np.testing.assert_array_equal(one.rows, two.rows)
    np.testing.assert_array_equal(one.queries, two.queries)
    vectors = PlaceVectors(600, seed=0)
    lat, lng = np.array([48.0, 48.01, -30.0]), np.array([2.0, 2.01, 140.0])
    near, nearby, far = vectors.places(lat, lng, np.zeros(3))
    assert near @ nearby > 0.8 > 0.4 > abs(near @ far)
    np.testing.assert_allclose(np.linalg.norm(vectors.photos(lat, lng), axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("ratios", "where"),
    [([0.5, 2.0], 10**1.5), ([2.0, 3.0], None), ([0.5, 0.9], None), ([0.5, 2.0, 0.5, 2.0], 10**3.5)],
)
def test_break_even_is_where_the_ratio_passes_one_for_good(ratios: list[float], where: float | None) -> None:
    sizes = [10 ** (number + 1) for number in range(len(ratios))]
    assert crossed(sizes, ratios) == (None if where is None else pytest.approx(where))


def test_floors_are_judged_only_where_processors_multiply_bfloat16(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for quick in (False, True):
        monkeypatch.setattr(search, "QUICK", quick)
        report = Report("search")
        compare(report, world, runs=1)
        judged = [row["holds"] for row in report.rows if "floor" in row["what"] or " against " in row["what"]]
        assert len(judged) == 3
        assert all((held is not None) == quick for held in judged)
