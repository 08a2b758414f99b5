"""Checks of vectors, unit rows and sums per cell, against loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.errors import InputError
from indexer.vectors.cell_sums import CellSums, check_cells, check_vectors, unit_rows


@given(st.integers(0, 60), st.integers(1, 9), st.integers(0, 5))
def test_cell_sums_equal_a_loop_over_rows(n: int, n_cells: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, 4)).astype(np.float32)
    cells = rng.integers(-1, n_cells, n)
    sums = CellSums.zeros(n_cells, 4)
    sums.add(vectors[: n // 3], cells[: n // 3])
    sums.add(vectors[n // 3 :], cells[n // 3 :])
    expected = np.zeros((n_cells, 4))
    for vector, cell in zip(vectors, cells, strict=True):
        if cell >= 0:
            expected[cell] += vector
    np.testing.assert_allclose(sums.sums, expected, atol=1e-12)
    np.testing.assert_array_equal(sums.counts, np.bincount(cells[cells >= 0], minlength=n_cells))


def test_sums_keep_what_float32_would_lose() -> None:
    sums = CellSums.zeros(1, 1)
    sums.add(np.array([[1e8], [1.0], [-1e8]], np.float32), np.zeros(3, int))
    assert sums.sums[0, 0] == 1.0


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_unit_rows_at_any_scale(scale: float) -> None:
    rows = np.array([[3, 4], [0, 0], [-1, 0]], np.float32) * np.float32(scale)
    for kind in (np.float32, np.float64):
        unit = unit_rows(rows.astype(kind))
        assert unit.dtype == np.float32
        np.testing.assert_allclose(unit, [[0.6, 0.8], [0, 0], [-1, 0]], rtol=1e-6)


@pytest.mark.parametrize("kind", [np.float16, np.int64])
def test_unit_rows_of_narrow_types_are_as_exact_as_float32(kind: type) -> None:
    np.testing.assert_allclose(unit_rows(np.array([[1, 1]], kind)), [[np.sqrt(0.5)] * 2], rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_the_first_bad_row_is_named(value: float) -> None:
    vectors = np.ones((5, 3), np.float32)
    vectors[3] = value
    with pytest.raises(InputError, match="1 of 5 photo vectors are zero or not finite, the first in row 3"):
        check_vectors(vectors, width=3)


@pytest.mark.parametrize("shape", [(5, 4), (3,), (1, 5, 3)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="is needed here"):
        check_vectors(np.ones(shape, np.float32), width=3)


@pytest.mark.parametrize("cells", [[0, 3], [-2, 0], [0.0, 1.0], [0]])
def test_cells_that_are_none_are_refused(cells: list[float]) -> None:
    with pytest.raises(InputError, match="Cell"):
        check_cells(np.array(cells), rows=2, n_cells=3)
