"""Held-out queries: read from features and a table, refused where these do not go together, divided by name."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.earth.geo import lat_lng, unit_vectors
from indexer.errors import InputError
from indexer.vectors.features import open_features
from search.answers.engine import Engine
from search.calibration.held_out import HeldOutQueries, held_out, named


def test_photos_and_truth_that_do_not_belong_together_are_refused(home: Path) -> None:
    bundle = Engine.open(home / "R").bundle
    features = open_features(home / "F")
    (home / "others.csv").write_text("photo,lat,lng\nx.jpg,1,2\n")
    with pytest.raises(InputError, match=r"0 photos of .*others\.csv have a vector"):
        held_out(bundle, features, home / "others.csv")
    (home / "twice.csv").write_text("photo,lat,lng\n1.jpg,1,2\n1.jpg,1,2\n")
    with pytest.raises(InputError, match="names of photos repeat"):
        held_out(bundle, features, home / "twice.csv")


def test_an_album_lies_in_the_middle_of_its_photos(home: Path) -> None:
    bundle = Engine.open(home / "R").bundle
    rows = pa.parquet.read_table(home / "truth.parquet")
    pairs = rows.append_column("pair", pa.array([row // 2 for row in range(400)]))
    pa.parquet.write_table(pairs, home / "pairs.parquet")
    album = held_out(bundle, open_features(home / "F"), home / "pairs.parquet", album="pair")
    assert (len(album), set(album.n_photos.tolist())) == (200, {2})
    points = unit_vectors(rows["lat"].to_numpy(), rows["lng"].to_numpy()).reshape(200, 2, 3).sum(axis=1)
    lat, lng = lat_lng(points)
    np.testing.assert_allclose(album.lat_deg, lat)
    np.testing.assert_allclose(album.lng_deg, lng)
    np.testing.assert_array_equal(album.leaf, bundle.hierarchy.locate(lat, lng)[:, -1])


def some(n: int, *, prefix: str = "") -> HeldOutQueries:
    rng = np.random.default_rng(n)
    return HeldOutQueries(
        named((f"{prefix}{row}.jpg",) for row in range(n)),
        rng.normal(size=(n, 3)).astype(np.float32),
        np.ones(n, np.int64),
        *rng.uniform(-9, 9, (2, n)),
        np.arange(n) % 5 - 1,
    )


@pytest.mark.parametrize("n", [400, 401, 1000])
def test_many_queries_are_fitted_to_by_one_half_and_promise_by_the_other(n: int) -> None:
    division = some(n).divided()
    assert not division.approximate
    ((fitted, promised),) = division.parts
    assert abs(len(fitted) - len(promised)) <= 1
    np.testing.assert_array_equal(np.sort(np.concatenate([fitted, promised])), np.arange(n))


@pytest.mark.parametrize("n", [100, 399])
def test_of_few_queries_each_fifth_promises_what_the_others_are_fitted_to(n: int) -> None:
    division = some(n).divided()
    assert division.approximate
    assert len(division.parts) == 5
    for fitted, promised in division.parts:
        assert abs(len(promised) - n / 5) <= 1
        np.testing.assert_array_equal(np.sort(np.concatenate([fitted, promised])), np.arange(n))
    np.testing.assert_array_equal(np.sort(np.concatenate([promised for _, promised in division.parts])), np.arange(n))


@settings(max_examples=20)
@given(st.integers(0, 1000), st.sampled_from([150, 500]))
def test_queries_are_divided_by_their_names_alone(seed: int, n: int) -> None:
    sample, order = some(n), np.random.default_rng(seed).permutation(n)
    for one, other in zip(sample.divided().parts, sample.take(order).divided().parts, strict=True):
        for rows, shuffled in zip(one, other, strict=True):
            assert set(sample.name[rows]) == set(sample.name[order][shuffled])


def test_halves_are_not_the_first_and_the_last() -> None:
    ((fitted, _),) = some(1000).divided().parts
    assert 200 < (fitted < 500).sum() < 300


def test_some_can_be_taken_and_the_share_inside_is_counted() -> None:
    sample = some(10)
    assert sample.inside == 0.8
    taken = sample.take(np.array([5, 1]))
    assert (len(taken), taken.name.tolist(), taken.leaf.tolist(), taken.inside) == (2, ["5.jpg", "1.jpg"], [-1, 0], 0.5)
    np.testing.assert_array_equal(taken.queries, sample.queries[[5, 1]])


def test_queries_have_the_names_of_their_photos(home: Path) -> None:
    bundle, features = Engine.open(home / "R").bundle, open_features(home / "F")
    singles = held_out(bundle, features, home / "truth.parquet")
    assert singles.name.tolist() == [f"{row}.jpg" for row in range(400)]
    rows = pa.parquet.read_table(home / "truth.parquet")
    pairs = rows.append_column("pair", pa.array([row % 200 for row in range(400)]))
    pa.parquet.write_table(pairs, home / "pairs.parquet")
    album = held_out(bundle, features, home / "pairs.parquet", album="pair")
    assert album.name.tolist() == [f"{row}.jpg" for row in range(200)]
    assert album.names.tolist() == [(f"{row}.jpg", f"{row + 200}.jpg") for row in range(200)]
    fewer = rows.take([row for row in range(400) if row != 7]).append_column(
        "pair", pa.array([row % 200 for row in range(400) if row != 7])
    )
    pa.parquet.write_table(fewer, home / "fewer.parquet")  # album 7 comes last, and of one photo
    album = held_out(bundle, features, home / "fewer.parquet", album="pair")
    one = album.names.tolist().index(("207.jpg",))
    assert album.n_photos.tolist() == [len(names) for names in album.names]
    assert album.lat_deg[one] == pytest.approx(singles.lat_deg[207])
