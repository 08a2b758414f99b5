"""Training end to end on a toy that can be learnt: it is learnt, repeatable, and refuses what cannot work."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from encoder.checkpoint import load_encoder
from encoder.embed import EmbedConfig, embed_photos
from indexer.cells import load_hierarchy, save_hierarchy
from indexer.errors import InputError, WorkError
from indexer.geo import haversine_km
from indexer.geocells import load_geocells
from indexer.hierarchy import build_hierarchy
from indexer.photos import read_photos
from indexer.rule import PartitionRule
from indexer.scoring import ScoringModel, log_product
from tests.training.conftest import SIZE
from training.config import Augmentation, DataConfig, ModelConfig, OptimisationConfig
from training.fit import FitSummary, fit

MODEL = ModelConfig(image_size=SIZE, patch_size=8, hidden_size=32, layers=2, heads=2, mlp_size=64, width=16)
LEARN = OptimisationConfig(
    epochs=6, learning_rate=3e-3, geocell_learning_rate=3e-2, schedule="one_cycle", negatives="all"
)


def train(
    toy: Path, out: Path, *, optimisation: OptimisationConfig = LEARN, seed: int = 0, **data: object
) -> FitSummary:
    options = {"batch_size": 15, "augmentation": Augmentation(brightness=0.05)} | data
    return fit(
        hierarchy=toy / "H",
        out=out,
        data=DataConfig(photos=toy / "photos.parquet", **options),
        model=MODEL,
        optimisation=optimisation,
        seed=seed,
        device="cpu",
    )


@pytest.fixture(scope="module")
def trained(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> FitSummary:
    return train(toy, tmp_path_factory.mktemp("fit") / "C")


def test_what_can_be_learnt_is_learnt(trained: FitSummary) -> None:
    assert trained.epochs[-1].loss < trained.epochs[0].loss / 2
    assert trained.epochs[-1].validation.within["25"] > 90


@pytest.mark.parametrize("negatives", ["batch", "batch_distinct"])
def test_in_batch_negatives_learn_it_too(toy: Path, tmp_path: Path, negatives: str) -> None:
    summary = train(toy, tmp_path / "C", optimisation=replace(LEARN, negatives=negatives))
    assert summary.epochs[-1].validation.within["25"] > 90


def test_the_checkpoint_answers_as_training_said(trained: FitSummary, toy: Path) -> None:
    """Saved, loaded, embedded and multiplied out in float64: the same errors as the last validation."""
    encoder, geocells = load_encoder(str(trained.checkpoint)), load_geocells(trained.checkpoint)
    assert geocells.encoder == encoder.digest
    tree = load_hierarchy(toy / "H")
    photos = read_photos(toy / "photos.parquet", split="validation")
    (batch,) = embed_photos(encoder, photos, config=EmbedConfig())
    best = log_product(ScoringModel(geocells, tree.ancestors), batch.embedding).argmax(axis=1)
    leaves = tree.leaves
    distance = haversine_km(photos.lat_deg, photos.lng_deg, leaves.lat_deg[best], leaves.lng_deg[best])
    assert np.median(distance) == pytest.approx(trained.epochs[-1].validation.median_km, rel=1e-6)


def test_temperatures_are_learnt_and_bounded(trained: FitSummary, toy: Path, tmp_path: Path) -> None:
    assert all(0.01 <= tau != pytest.approx(0.07, abs=1e-6) for tau in trained.temperatures)
    still = train(toy, tmp_path / "C", optimisation=replace(LEARN, epochs=1, geocell_learning_rate=0.0))
    assert still.temperatures == pytest.approx([0.07, 0.07])


def test_the_same_seed_gives_the_same_weights(trained: FitSummary, toy: Path, tmp_path: Path) -> None:
    short = replace(LEARN, epochs=1)
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        torch.rand(5)  # whatever happened before must not matter
        train(toy, tmp_path / name, optimisation=short, seed=seed)
    first, second, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert first == second
    assert first != other


def test_every_epoch_is_in_the_log(trained: FitSummary) -> None:
    lines = (trained.checkpoint / "training_log.csv").read_text().splitlines()
    assert len(lines) == 1 + len(trained.epochs) == 7
    assert lines[0].startswith("epoch,loss,seconds,validation_median_km")


def test_nothing_strays_into_the_working_folder(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    train(toy, tmp_path / "C", optimisation=replace(LEARN, epochs=1, schedule="halving"))
    assert list((tmp_path / "cwd").iterdir()) == []


def test_an_existing_out_is_refused_before_anything_is_read(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "C").mkdir()
    (tmp_path / "C" / "x").write_text("")
    with pytest.raises(InputError, match="exists already"):
        train(tmp_path / "no such toy", tmp_path / "C")


def test_a_level_with_one_cell_is_refused(toy: Path, tmp_path: Path) -> None:
    tree = build_hierarchy(np.full(40, 10.0), np.full(40, 10.0), rule=PartitionRule((100,), 5))
    save_hierarchy(tree, tmp_path / "H", config={}, inputs={})
    (tmp_path / "photos.parquet").write_bytes((toy / "photos.parquet").read_bytes())
    with pytest.raises(InputError, match="single cell"):
        train(tmp_path, tmp_path / "C")


def test_a_loss_that_is_no_number_stops_with_the_batch_named(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(WorkError, match=r"epoch \d+, batch \d+"):
        train(toy, tmp_path / "C", optimisation=replace(LEARN, learning_rate=1e30))
    assert not (tmp_path / "C").exists()


def test_photos_elsewhere_than_the_hierarchy_are_refused(toy: Path, tmp_path: Path) -> None:
    tree = build_hierarchy(np.repeat([70.0, -70.0], 30), np.repeat([100.0, 100.0], 30), rule=PartitionRule((40,), 5))
    save_hierarchy(tree, tmp_path / "H", config={}, inputs={})
    table = pyarrow.parquet.read_table(toy / "photos.parquet")
    names = pa.array([str(toy / name) for name in table["photo"].to_pylist()])
    pyarrow.parquet.write_table(table.set_column(0, "photo", names), tmp_path / "photos.parquet")
    with pytest.raises(InputError, match="no training photo lies in a cell"):
        train(tmp_path, tmp_path / "C")


def test_photos_that_do_not_fit_in_memory_are_refused(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="memory_limit_gb"):
        train(toy, tmp_path / "C", memory_limit_gb=1e-6)
