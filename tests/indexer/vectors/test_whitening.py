"""Whitening: against brute force per cell, its invariances, its figure on anisotropic vectors, and bad input."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from indexer.errors import ArtifactError, InputError
from indexer.vectors.whitening import CANDIDATES, Moments, Transform, choose_shrinkage, whiten
from tests.indexer.anisotropic import World, anisotropic_world

WIDTH = 12
N_CELLS = 9


def photos(n: int, seed: int, *, n_cells: int = N_CELLS, width: int = WIDTH) -> tuple[np.ndarray, np.ndarray]:
    """Stretched and shifted vectors about a random place of each cell; one photo in ten has no cell."""
    rng = np.random.default_rng(seed)
    cells = np.where(rng.random(n) < 0.1, -1, rng.integers(0, n_cells, n))
    stretch = rng.normal(size=(width, width)) * np.geomspace(0.05, 2, width)
    vectors = rng.normal(size=(n_cells + 1, width))[cells] + rng.normal(size=(n, width)) @ stretch + 3.0
    return vectors.astype(np.float32), cells


def moments_of(vectors: np.ndarray, cells: np.ndarray, *, n_cells: int = N_CELLS) -> Moments:
    moments = Moments.zeros(n_cells, vectors.shape[1])
    moments.add(vectors, cells)
    return moments


def brute_within(vectors: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """S_w as the definition has it: deviations from the mean of the cell, one cell after the other."""
    wide, scatter, freedom = vectors.astype(np.float64), np.zeros((vectors.shape[1],) * 2), 0
    for cell in np.unique(cells[cells >= 0]):
        deviations = wide[cells == cell] - wide[cells == cell].mean(axis=0)
        scatter += deviations.T @ deviations
        freedom += len(deviations) - 1
    return scatter / freedom


@given(st.integers(30, 300), st.integers(0, 10))
def test_moments_equal_brute_force_over_cells(n: int, seed: int) -> None:
    vectors, cells = photos(n, seed)
    moments = moments_of(vectors, cells)
    np.testing.assert_allclose(moments.within_cells(), brute_within(vectors, cells), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(moments.mean, vectors.astype(np.float64).mean(axis=0), rtol=1e-12)


@given(st.lists(st.integers(0, 400), max_size=5), st.permutations(range(6)))
def test_any_batches_in_any_order_equal_all_at_once(cuts: list[int], order: list[int]) -> None:
    vectors, cells = photos(400, seed=1)
    batches = [slice(*pair) for pair in itertools.pairwise([0, *sorted(cuts), 400])]
    streamed = Moments.zeros(N_CELLS, WIDTH)
    for batch in (batches[number] for number in order if number < len(batches)):
        streamed.add(vectors[batch], cells[batch])
    at_once = whiten(moments_of(vectors, cells), 0.1)
    np.testing.assert_allclose(whiten(streamed, 0.1).matrix, at_once.matrix, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(whiten(streamed, 0.1).mean, at_once.mean, rtol=1e-6)


def test_whitened_vectors_scatter_alike_in_all_directions() -> None:
    vectors, cells = photos(2000, seed=2)
    transform = whiten(moments_of(vectors, cells), 0.0)
    whitened = (vectors - transform.mean).astype(np.float64) @ transform.matrix
    np.testing.assert_allclose(brute_within(whitened, cells), np.eye(WIDTH), atol=1e-3)


def test_shrinkage_is_towards_a_multiple_of_the_identity() -> None:
    vectors, cells = photos(500, seed=3)
    moments = moments_of(vectors, cells)
    within = brute_within(vectors, cells)
    for shrinkage in (0.3, 1.0):
        matrix = whiten(moments, shrinkage).matrix.astype(np.float64)
        shrunk = (1 - shrinkage) * within + shrinkage * np.trace(within) / WIDTH * np.eye(WIDTH)
        np.testing.assert_allclose(matrix @ shrunk @ matrix, np.eye(WIDTH), atol=1e-4)


@given(st.sampled_from([1e-12, 1e-3, 100.0, 1e12]), st.floats(0, 1))
def test_scale_of_the_vectors_changes_nothing(scale: float, shrinkage: float) -> None:
    vectors, cells = photos(400, seed=4)
    scaled = vectors * np.float32(scale)
    before = whiten(moments_of(vectors, cells), shrinkage).apply(vectors)
    after = whiten(moments_of(scaled, cells), shrinkage).apply(scaled)
    np.testing.assert_allclose(after, before, atol=1e-4)


@given(st.integers(0, 20), st.floats(0, 1))
def test_turning_the_vectors_turns_the_result(seed: int, shrinkage: float) -> None:
    vectors, cells = photos(400, seed=5)
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(WIDTH, WIDTH)))[0].astype(np.float32)
    before = whiten(moments_of(vectors, cells), shrinkage).apply(vectors)
    after = whiten(moments_of(vectors @ turn, cells), shrinkage).apply(vectors @ turn)
    np.testing.assert_allclose(after, before @ turn, atol=1e-3)


def test_apply_is_the_formula_over_many_blocks_and_leaves_its_input_alone() -> None:
    vectors, cells = photos(20_000, seed=6)
    transform = whiten(moments_of(vectors, cells), 0.2)
    given_vectors = vectors.copy()
    got = transform.apply(vectors)
    expected = (vectors.astype(np.float64) - transform.mean) @ transform.matrix.astype(np.float64)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_array_equal(vectors, given_vectors)
    assert transform.apply(vectors[:0]).shape == (0, WIDTH)


def test_a_vector_equal_to_the_mean_stays_zero() -> None:
    transform = whiten(moments_of(*photos(400, seed=7)), 0.2)
    np.testing.assert_array_equal(transform.apply(transform.mean[None]), np.zeros((1, WIDTH), np.float32))


@pytest.fixture(scope="module")
def world() -> World:
    return anisotropic_world(n_known=6000, n_unseen=0, width=64, seed=0)


def test_the_shrinkage_chosen_is_small_where_photos_are_many(world: World) -> None:
    leaves = world.hierarchy.leaves
    coordinates = {
        "lat_deg": world.lat_deg,
        "lng_deg": world.lng_deg,
        "cell_lat_deg": leaves.lat_deg,
        "cell_lng_deg": leaves.lng_deg,
    }
    choice = choose_shrinkage(world.vectors, world.cells[:, -1], **coordinates, seed=0)
    # Measured: 48 km at 0.001, 49 at 0.01, 55 at 0.05, 221 at 0.2, 8,816 at 1 (centring alone).
    assert choice.shrinkage <= 0.01
    assert list(choice.scores) == sorted(CANDIDATES)
    assert all(score.n == 6000 for score in choice.scores.values())
    assert choice.scores[choice.shrinkage].median_km < 75
    assert choice.scores[1.0].median_km > 1000
    assert choice == choose_shrinkage(world.vectors, world.cells[:, -1], **coordinates, seed=0)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_shrinkage_chosen_is_large_where_noise_is_isotropic_and_photos_few(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cells = np.repeat(np.arange(30), 5)
    vectors = (rng.normal(size=(30, 100))[cells] + 2.0 * rng.normal(size=(150, 100))).astype(np.float32)
    lat, lng = rng.uniform(-80, 80, 30), rng.uniform(-180, 180, 30)
    choice = choose_shrinkage(
        vectors, cells, lat_deg=lat[cells], lng_deg=lng[cells], cell_lat_deg=lat, cell_lng_deg=lng, seed=0
    )
    # Measured over six seeds: 1.0 is chosen, mean errors of 1,021 to 2,361 km against 6,362 to 7,700 km at 0.01.
    assert choice.shrinkage >= 0.5
    assert choice.scores[choice.shrinkage].mean_km < choice.scores[0.01].mean_km / 2


def small_sample(seed: int = 0) -> dict[str, np.ndarray]:
    vectors, cells = photos(200, seed)
    cells[np.flatnonzero(cells == 0)[1:]] = 1  # cell 0 has one photo: when that is held out, nothing is known of it
    rng = np.random.default_rng(seed)
    cell_lat, cell_lng = rng.uniform(-80, 80, N_CELLS), rng.uniform(-180, 180, N_CELLS)
    return {
        "vectors": vectors,
        "cells": cells,
        "lat_deg": cell_lat[cells],
        "lng_deg": cell_lng[cells],
        "cell_lat_deg": cell_lat,
        "cell_lng_deg": cell_lng,
    }


def test_cross_validation_is_what_fitting_each_fold_by_hand_gives() -> None:
    sample = small_sample()
    fold = np.random.default_rng(3).permutation(200) % 4
    km = np.empty(200)
    for number in range(4):
        held = fold == number
        known, cells = sample["vectors"][~held], sample["cells"][~held]
        transform = whiten(moments_of(known, cells), 0.3)
        filled = [cell for cell in range(N_CELLS) if (cells == cell).any()]
        directions = np.stack([transform.apply(known[cells == cell]).sum(axis=0) for cell in filled])
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        best = np.array(filled)[(transform.apply(sample["vectors"][held]) @ directions.T).argmax(axis=1)]
        points = [sample[name] for name in ("cell_lat_deg", "cell_lng_deg")]
        km[held] = arc_km(sample["lat_deg"][held], sample["lng_deg"][held], points[0][best], points[1][best])
    got = choose_shrinkage(**sample, candidates=[0.3], folds=4, seed=3).scores[0.3]
    assert got.median_km == pytest.approx(np.median(km), abs=1e-3)  # of an arccosine
    assert got.mean_km == pytest.approx(km.mean(), abs=1e-3)


def arc_km(lat_a: np.ndarray, lng_a: np.ndarray, lat_b: np.ndarray, lng_b: np.ndarray) -> np.ndarray:
    a, b, c, d = (np.radians(value) for value in (lat_a, lng_a, lat_b, lng_b))
    cosine = np.sin(a) * np.sin(c) + np.cos(a) * np.cos(c) * np.cos(b - d)
    return 6371.0 * np.arccos(np.clip(cosine, -1, 1))


def test_of_equally_good_shrinkages_the_largest_is_chosen() -> None:
    sample = small_sample()
    # Cells far apart in every direction: every candidate is right about every photo.
    sample["vectors"] = np.eye(WIDTH, dtype=np.float32)[sample["cells"]] * 100 + sample["vectors"] * 0.01
    choice = choose_shrinkage(**sample, candidates=[0.5, 0.9, 0.1], seed=0)
    assert len({score.median_km for score in choice.scores.values()}) == 1
    assert choice.shrinkage == 0.9


def test_cells_outside_the_sample_change_nothing() -> None:
    sample = small_sample()
    wide = sample | {
        "cells": np.where(sample["cells"] >= 0, sample["cells"] + 1000, -1),
        "cell_lat_deg": np.concatenate([np.zeros(1000), sample["cell_lat_deg"], np.zeros(5)]),
        "cell_lng_deg": np.concatenate([np.zeros(1000), sample["cell_lng_deg"], np.zeros(5)]),
    }
    assert choose_shrinkage(**wide, seed=0).scores == choose_shrinkage(**sample, seed=0).scores


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vectors": np.zeros((200, WIDTH), np.float32)}, "zero or not finite"),
        ({"vectors": np.ones((200, WIDTH), np.float32)}, "No two photos of a cell have different vectors"),
        ({"vectors": np.ones(200, np.float32)}, "is needed here"),
        ({"cells": np.full(200, -1)}, "lie in 0 cell"),
        ({"cells": np.zeros(200, int)}, "lie in 1 cell"),
        ({"cells": np.full(200, N_CELLS)}, "Cell numbers"),
        ({"lat_deg": np.full(200, np.nan)}, "lat is nan"),
        ({"cell_lng_deg": np.full(N_CELLS, 200.0)}, "lng is 200"),
        ({"lat_deg": np.zeros(3)}, "one of each"),
        ({"folds": 1}, "1 folds"),
        ({"candidates": []}, "0 candidates"),
        ({"candidates": [0.1, 1.5]}, "from 0 to 1"),
    ],
)
def test_samples_that_cannot_be_used_are_refused(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose_shrinkage(**(small_sample() | {"seed": 0} | change))


def test_fewer_photos_than_dimensions_need_shrinkage() -> None:
    vectors, cells = photos(60, seed=8, width=80)
    moments = moments_of(vectors, cells)
    with pytest.raises(InputError, match=r"At shrinkage 0 .* singular .* Give a shrinkage above 0"):
        whiten(moments, 0.0)
    assert np.isfinite(whiten(moments, 0.01).apply(vectors)).all()


@pytest.mark.parametrize("copies", [np.ones(50), np.arange(50) // 10 + 1.0])
def test_photos_that_are_copies_are_refused(copies: np.ndarray) -> None:
    vectors = (np.arange(1, WIDTH + 1) * 0.1 * copies[:, None]).astype(np.float32)
    with pytest.raises(InputError, match="No two photos of a cell have different vectors"):
        whiten(moments_of(vectors, np.arange(50) // 10), 0.5)


def test_one_photo_in_each_cell_is_refused() -> None:
    vectors, _ = photos(N_CELLS, seed=9)
    with pytest.raises(InputError, match="No cell holds two of the 9 photos"):
        whiten(moments_of(vectors, np.arange(N_CELLS)), 0.5)


def test_one_cell_alone_is_whitened_about_its_mean() -> None:
    vectors, _ = photos(500, seed=10)
    moments = moments_of(vectors, np.zeros(500, int))
    np.testing.assert_allclose(moments.within_cells(), np.cov(vectors.astype(np.float64).T), rtol=1e-8)
    assert np.isfinite(whiten(moments, 0.0).apply(vectors)).all()


def test_no_photo_has_no_mean() -> None:
    with pytest.raises(InputError, match="No photo has a vector"):
        _ = Moments.zeros(3, WIDTH).mean


@pytest.mark.parametrize("shrinkage", [-0.1, 1.1, np.nan])
def test_a_shrinkage_out_of_range_is_refused(shrinkage: float) -> None:
    with pytest.raises(InputError, match="from 0 to 1"):
        whiten(moments_of(*photos(100, seed=11)), shrinkage)


@pytest.mark.parametrize("fault", ["nan", "zero", "width", "cells"])
def test_a_refused_batch_leaves_the_moments_as_they_were(fault: str) -> None:
    vectors, cells = photos(100, seed=12)
    moments = moments_of(vectors, cells)
    before = whiten(moments, 0.1).matrix
    bad, bad_cells = vectors.copy(), cells.copy()
    bad[50] = {"nan": np.nan, "zero": 0.0}.get(fault, 1.0)
    bad_cells[50] = N_CELLS if fault == "cells" else 0
    with pytest.raises(InputError):
        moments.add(bad[:, :5] if fault == "width" else bad, bad_cells)
    np.testing.assert_array_equal(whiten(moments, 0.1).matrix, before)


@pytest.mark.parametrize("value", [0.0, np.nan, -np.inf])
def test_apply_refuses_vectors_that_stand_for_no_photo(value: float) -> None:
    vectors, cells = photos(100, seed=13)
    transform = whiten(moments_of(vectors, cells), 0.1)
    with pytest.raises(InputError, match="row 0"):
        transform.apply(np.full((1, WIDTH), value, np.float32))
    with pytest.raises(InputError, match="is needed here"):
        transform.apply(np.ones((2, WIDTH + 1), np.float32))


def test_save_and_load_are_inverse(tmp_path: Path) -> None:
    written = whiten(moments_of(*photos(100, seed=14)), 0.35)
    written.save(tmp_path / "t.safetensors")
    read = Transform.load(tmp_path / "t.safetensors")
    np.testing.assert_array_equal(read.mean, written.mean)
    np.testing.assert_array_equal(read.matrix, written.matrix)
    assert read.shrinkage == 0.35


GOOD = {"mean": np.ones(3, np.float32), "matrix": np.eye(3, dtype=np.float32), "shrinkage": np.array([0.1])}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": np.ones(2, np.float32)}, r"mean \(2,\) and matrix \(3, 3\)"),
        ({"mean": np.ones((3, 3), np.float32)}, r"mean \(3, 3\)"),
        ({"mean": np.ones(3)}, "float32 is needed"),
        ({"mean": np.full(3, np.nan, np.float32)}, "not finite"),
        ({"matrix": np.full((3, 3), np.inf, np.float32)}, "not finite"),
        ({"matrix": np.triu(np.ones((3, 3), np.float32))}, "not symmetric"),
        ({"shrinkage": np.array([2.0])}, "shrinkage"),
        ({"shrinkage": np.array([np.nan])}, "shrinkage"),
        ({"shrinkage": np.ones(2)}, "cannot be read"),
        ({"shrinkage": None}, "cannot be read"),
    ],
)
def test_a_file_that_is_no_transform_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "t.safetensors"
    save_file({name: array for name, array in (GOOD | change).items() if array is not None}, path)
    with pytest.raises(ArtifactError, match=message) as error:
        Transform.load(path)
    assert str(path) in str(error.value)


def test_a_damaged_or_missing_file_is_a_clean_error(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    with pytest.raises(ArtifactError, match="cannot be read as a transform"):
        Transform.load(path)
    whiten(moments_of(*photos(100, seed=15)), 0.1).save(path)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ArtifactError, match="cannot be read as a transform"):
        Transform.load(path)
