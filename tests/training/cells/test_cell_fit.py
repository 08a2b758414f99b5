"""Fitting cells to fixed vectors: temperatures against scipy, gains that are real, levels that stop by themselves."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from indexer.errors import InputError, WorkError
from indexer.vectors.geocells import Geocells
from indexer.vectors.prototypes import Placed
from indexer.vectors.whitening import Transform
from tests.conftest import unit_rows
from training.cells import cell_fit
from training.cells.cell_fit import Fold, VectorFile, fit_again, fit_cells, fitted_temperature, steps_per_epoch
from training.config import RefitConfig
from training.photos.holding_out import name_keys

WIDTH, CELLS = 16, (4, 12)
WIDE = 24
CPU = torch.device("cpu")

Toy = tuple[Geocells, VectorFile, Placed, np.ndarray]


@given(seed=st.integers(0, 1000), noise=st.floats(0.05, 3))
@settings(max_examples=30, deadline=None)
def test_the_temperature_is_the_likeliest(seed: int, noise: float) -> None:
    cells = unit_rows(9, WIDTH, seed)
    targets = np.random.default_rng(seed).integers(0, 9, 120)
    rows = cells[targets] + noise * unit_rows(120, WIDTH, seed + 1)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)

    def loss(log_scale: float) -> float:
        scores = np.exp(log_scale) * (rows.astype(float) @ cells.T.astype(float))
        return float((np.logaddexp.reduce(scores, axis=1) - scores[np.arange(120), targets]).mean())

    best = minimize_scalar(loss, bounds=(np.log(1.0), np.log(200.0)), method="bounded", options={"xatol": 1e-6})
    tau, at_tau = fitted_temperature([(torch.from_numpy(rows), torch.from_numpy(targets), torch.from_numpy(cells))])
    assert at_tau == pytest.approx(best.fun, abs=2e-4)
    assert 0.005 <= tau <= 1.0


@given(seed=st.integers(0, 50), begin=st.floats(0.006, 0.9))
@settings(max_examples=20, deadline=None)
def test_where_the_search_for_it_begins_does_not_matter(seed: int, begin: float) -> None:
    cells, targets = unit_rows(9, WIDTH, seed), np.random.default_rng(seed).integers(0, 9, 120)
    rows = cells[targets] + unit_rows(120, WIDTH, seed + 1)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    known = [(torch.from_numpy(rows), torch.from_numpy(targets), torch.from_numpy(cells))]
    tau, loss = fitted_temperature(known, begin=begin)
    expected = fitted_temperature(known)
    assert tau == pytest.approx(expected[0], rel=1e-3)
    assert loss == pytest.approx(expected[1], abs=1e-6)


@given(n=st.integers(1, 40), size=st.integers(1, 60), seed=st.integers(0, 5))
def test_epochs_are_all_photos_or_parts_that_make_up_all(n: int, size: int, seed: int) -> None:
    orders = cell_fit._orders(n, RefitConfig(epoch_photos=size, seed=seed))
    together = np.concatenate([next(orders) for _ in range(2 * n)])
    assert len(together) == 2 * n * min(n, size)
    for first in range(0, len(together) - n + 1, n):
        np.testing.assert_array_equal(np.sort(together[first : first + n]), np.arange(n))


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    """Photos around true directions, and geocells that start somewhere near these."""
    n, seed = 600, 0
    rng = np.random.default_rng(seed)
    fine = rng.integers(0, CELLS[1], 2 * n)
    cells = np.stack([fine % CELLS[0], fine], axis=1)
    cells[::40, 1] = -1  # photos without a finest cell
    truth = unit_rows(CELLS[1], WIDTH, seed + 1)
    vectors = truth[fine] + 0.5 * unit_rows(2 * n, WIDTH, seed + 2)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = np.array([f"{row}" for row in range(2 * n)], object)
    photos = Placed(vectors.astype(np.float32), cells, rng.random(2 * n), rng.random(2 * n), names, np.full(2 * n, -1))
    seen = photos.take(np.arange(n, 2 * n))
    start = [unit_rows(count, WIDTH, seed + 3 + level) for level, count in enumerate(CELLS)]
    geocells = Geocells(start, np.full(2, 0.07), np.ones(2), "h", None)
    with VectorFile([photos.take(np.arange(n))], geocells, beside=tmp_path / "C") as file:
        yield geocells, file, seen, truth


def test_cells_come_to_point_where_their_photos_are(toy: Toy) -> None:
    start, file, held_out, truth = toy
    config = RefitConfig(epochs=60, patience=60, batch_size=100, learning_rate=0.05, decay=0.97)
    steps: list[int] = []
    [fitted], levels = fit_cells([Fold(start, file, held_out)], config=config, device=CPU, advance=steps.append)
    assert sum(steps) == 60 * steps_per_epoch(file, config) == 60 * 6
    cosine = (fitted.vectors[1] * truth).sum(axis=1)
    assert cosine.min() > 0.6
    for level in levels:
        assert level.loss < level.start_loss - 0.5
        assert level.epoch > 0
    # The loss that is told is the one of what is kept, on the photos that were held out.
    here = held_out.cells[:, 1] >= 0
    logits = held_out.vectors[here] @ fitted.vectors[1].T / fitted.temperatures[1]
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(held_out.cells[here, 1]))
    assert levels[1].loss == pytest.approx(float(expected), abs=1e-4)


def test_of_many_photos_an_epoch_takes_a_part(toy: Toy) -> None:
    start, file, held_out, _ = toy
    config = RefitConfig(epochs=3, epoch_photos=250, batch_size=100)
    steps: list[int] = []
    _, levels = fit_cells([Fold(start, file, held_out)], config=config, device=CPU, advance=steps.append)
    assert sum(steps) == 3 * steps_per_epoch(file, config) == 3 * 3
    assert all(level.loss < level.start_loss for level in levels)


def _mean_rows(photos: Placed, level: int) -> np.ndarray:
    rows = np.stack([photos.vectors[photos.cells[:, level] == cell].sum(axis=0) for cell in range(CELLS[level])])
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_a_level_that_gains_nothing_keeps_its_start_and_stops(toy: Toy) -> None:
    start, file, held_out, _ = toy
    good = replace(start, vectors=[_mean_rows(held_out, level) for level in range(2)])
    steps: list[int] = []
    config = RefitConfig(epochs=50, patience=2, batch_size=100, learning_rate=10.0)  # steps that lead anywhere
    [fitted], levels = fit_cells([Fold(good, file, held_out)], config=config, device=CPU, advance=steps.append)
    assert [level.epoch for level in levels] == [0, 0]
    for before, after in zip(good.vectors, fitted.vectors, strict=True):
        np.testing.assert_allclose(after, before, atol=1e-6)
    assert sum(steps) == 50 * 6  # the bar ends full
    assert len(steps) < 4 * 6  # though few were made


def test_a_fit_that_leaves_nobody_out_is_the_one_that_was_chosen(toy: Toy) -> None:
    start, file, held_out, _ = toy
    config = RefitConfig(epochs=12, patience=2, batch_size=100, learning_rate=0.3, decay=1.0)
    [fitted], levels = fit_cells([Fold(start, file, held_out)], config=config, device=CPU)
    assert 0 < min(level.epoch for level in levels) < 12
    steps: list[int] = []
    again = fit_again(start, file, levels, config=config, device=CPU, advance=steps.append)
    for before, after in zip(fitted.vectors, again.vectors, strict=True):
        np.testing.assert_allclose(after, before, atol=1e-6)
    np.testing.assert_array_equal(again.temperatures, fitted.temperatures)
    assert sum(steps) == max(level.epoch for level in levels) * steps_per_epoch(file, config)


def test_folds_have_vectors_of_their_own_and_temperatures_together(toy: Toy) -> None:
    start, file, held_out, _ = toy
    other = replace(start, vectors=[unit_rows(count, WIDTH, 77 + count) for count in CELLS])
    halves = held_out.take(np.arange(0, 600, 2)), held_out.take(np.arange(1, 600, 2))
    config = RefitConfig(epochs=3, batch_size=100)
    folds = [Fold(of, file, half) for of, half in zip((start, other), halves, strict=True)]
    steps: list[int] = []
    fitted, levels = fit_cells(folds, config=config, device=CPU, advance=steps.append)
    assert sum(steps) == 3 * 2 * steps_per_epoch(file, config)
    np.testing.assert_array_equal(fitted[0].temperatures, fitted[1].temperatures)
    losses = []
    for geocells, half in zip(fitted, halves, strict=True):
        here = half.cells[:, 1] >= 0
        logits = torch.from_numpy(half.vectors[here] @ geocells.vectors[1].T / geocells.temperatures[1])
        losses.append(
            torch.nn.functional.cross_entropy(logits, torch.from_numpy(half.cells[here, 1]), reduction="none")
        )
    assert levels[1].loss == pytest.approx(float(torch.cat(losses).mean()), abs=1e-4)
    # A fold of which nobody lies in any cell of a level is fitted with the others' temperatures.
    nobody = replace(halves[1], cells=np.full_like(halves[1].cells, -1))
    alone, _ = fit_cells([folds[0], replace(folds[1], held_out=nobody)], config=config, device=CPU)
    assert np.isfinite(alone[1].vectors[1]).all()


def test_no_epochs_fit_temperatures_alone(toy: Toy) -> None:
    start, file, held_out, _ = toy
    [fitted], _ = fit_cells([Fold(start, file, held_out)], config=RefitConfig(epochs=0), device=CPU)
    np.testing.assert_allclose(fitted.vectors[1], start.vectors[1], atol=1e-6)
    assert (fitted.temperatures != 0.07).all()


def test_a_level_nobody_was_held_out_from_is_named(toy: Toy) -> None:
    start, file, held_out, _ = toy
    held_out.cells[:, 1] = -1
    with pytest.raises(InputError, match="in a cell of level 1"):
        fit_cells([Fold(start, file, held_out)], config=RefitConfig(), device=CPU)


def test_a_loss_that_is_no_number_stops_the_fit(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    start, file, held_out, _ = toy
    monkeypatch.setattr("training.cells.cell_fit.level_loss", lambda *_, **__: torch.tensor(float("nan")))
    with pytest.raises(WorkError, match=r"loss of level 0 is nan in epoch 1, step 1\. Lower `learning_rate`"):
        fit_cells([Fold(start, file, held_out)], config=RefitConfig(), device=CPU)


def placed(n: int, seed: int = 0) -> Placed:
    rng = np.random.default_rng(seed)
    names = np.array([f"é/{row}.jpg" for row in range(n)], object)
    vectors = unit_rows(n, WIDE, seed)
    return Placed(vectors, rng.integers(-1, 50, (n, 3)), rng.random(n), rng.random(n), names, np.full(n, -1))


@contextmanager
def filled(
    photos: Placed, shards: list[np.ndarray], folder: Path, transform: Transform | None = None
) -> Iterator[VectorFile]:
    geocells = Geocells([unit_rows(5, WIDE, 1)] * 3, np.ones(3), np.ones(3), "h", None, transform)
    with VectorFile(map(photos.take, shards), geocells, beside=folder / "C") as file:
        yield file


def test_rows_come_back_with_their_cells_whatever_the_shards(tmp_path: Path) -> None:
    photos = placed(200)
    order = np.argsort(name_keys(photos.photo.tolist()))
    rng = np.random.default_rng(1)
    for shards in ([np.arange(200)], np.array_split(rng.permutation(200), 7)):
        with filled(photos, list(shards), tmp_path) as file:
            assert len(file) == 200
            np.testing.assert_array_equal(file.cells, photos.cells[order])
            numbers = rng.integers(0, 200, 50)
            np.testing.assert_allclose(file.rows(numbers), photos.vectors[order][numbers], atol=5e-4)


def test_vectors_are_kept_as_they_are_compared(tmp_path: Path) -> None:
    photos = placed(50)
    matrix = np.diag(np.linspace(0.5, 2, WIDE)).astype(np.float32)
    transform = Transform(np.full(WIDE, 0.1, np.float32), matrix, 0.5)
    order = np.argsort(name_keys(photos.photo.tolist()))
    with filled(photos, [np.arange(50)], tmp_path, transform) as file:
        np.testing.assert_allclose(file.rows(np.arange(50)), transform.apply(photos.vectors)[order], atol=5e-4)


def test_nothing_is_left_on_disk(tmp_path: Path) -> None:
    with filled(placed(10), [np.arange(10)], tmp_path) as file:
        assert list(tmp_path.iterdir()) == []
        assert file.rows(np.arange(3)).shape == (3, WIDE)
