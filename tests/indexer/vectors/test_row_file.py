"""Rows on disk come back as they were, in any order, and nothing is left behind."""

from pathlib import Path

import numpy as np
import pytest

from indexer.errors import InputError
from indexer.vectors.row_file import RowFile
from tests.conftest import unit_rows


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_rows_come_back_in_any_order(tmp_path: Path, dtype: type) -> None:
    rows = unit_rows(50, 7, 0)
    with RowFile(7, dtype, beside=tmp_path / "new" / "x") as file:
        for part in np.array_split(rows, 6):
            file.add(part)
        assert list((tmp_path / "new").iterdir()) == []
        assert len(file) == 50
        order = np.random.default_rng(0).permutation(50)[:20]
        np.testing.assert_array_equal(file.rows(order), rows.astype(dtype)[order].astype(np.float32))
        assert file.rows(order[:0]).shape == (0, 7)


def test_a_place_that_cannot_be_written_is_a_clean_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file, not a folder"):
        RowFile(3, np.float16, beside=tmp_path / "file" / "x" / "y")
