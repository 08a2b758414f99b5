"""The photos of a run: in memory or as a stream, divided by a split or by name, refused where there are none."""

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from indexer.cells.rule import PartitionRule
from indexer.cells.table import load_hierarchy
from indexer.errors import InputError
from tests.conftest import save_s2_hierarchy
from tests.training.conftest import changed, train
from tests.training.test_photo_set import small_encoder
from training.config import DataConfig
from training.holding_out import by_name
from training.photos import open_half


def test_photos_to_validate_with_can_be_chosen_by_name(toy: Path, tmp_path: Path) -> None:
    """A table without the column `split`."""
    table = pyarrow.parquet.read_table(toy / "photos.parquet").drop_columns(["split"])
    names = pa.array([str(toy / name) for name in table["photo"].to_pylist()])
    pyarrow.parquet.write_table(table.set_column(0, "photo", names), tmp_path / "photos.parquet")
    held_out = int(by_name(0.2)[1](names.to_pylist()).sum())
    for stream in (False, True):
        config = DataConfig(str(tmp_path / "photos.parquet"), workers=0, validation_share=0.2, stream=stream)
        open_ = partial(open_half, config, hierarchy=load_hierarchy(toy / "H"), encoder=small_encoder())
        assert (len(open_("validation")), len(open_("train"))) == (held_out, 120 - held_out)


@pytest.mark.parametrize("stream", [False, True])
def test_photos_elsewhere_than_the_hierarchy_are_refused(toy: Path, tmp_path: Path, stream: bool) -> None:
    rule = PartitionRule((40,), 5)
    save_s2_hierarchy(np.repeat([70.0, -70.0], 30), np.repeat([100.0, 100.0], 30), rule=rule, out=tmp_path / "H")
    table = pyarrow.parquet.read_table(toy / "photos.parquet")
    names = pa.array([str(toy / name) for name in table["photo"].to_pylist()])
    pyarrow.parquet.write_table(table.set_column(0, "photo", names), tmp_path / "photos.parquet")
    with pytest.raises(InputError, match="no training photo lies in a cell"):
        train(tmp_path, tmp_path / "C", changed(data={"stream": stream}))
    assert not (tmp_path / "C").exists()


def test_photos_that_do_not_fit_in_memory_are_refused(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="memory_limit_gb"):
        train(toy, tmp_path / "C", changed(data={"memory_limit_gb": 1e-6}))


@pytest.mark.parametrize("stream", [False, True])
def test_photos_without_any_to_validate_with_are_refused_before_training(
    toy: Path, tmp_path: Path, stream: bool
) -> None:
    few = changed(data={"stream": stream, "validation_share": 0.0001})
    with pytest.raises(InputError, match="there is no photo"):
        train(toy, tmp_path / "C", few)
    assert not (tmp_path / "C").exists()
