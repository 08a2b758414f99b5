"""A toy world that can be learnt in seconds: six places, each with its own colour."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
import yaml
from PIL import Image

from benchmarks.world.location_encoder import LocationEncoder, LocationHead
from encoder.models.checkpoint import load_encoder
from indexer.cells.hierarchy import Hierarchy
from indexer.cells.partition import PartitionRule
from indexer.vectors.geocells import load_geocells
from tests.conftest import save_s2_hierarchy
from training.cells.heads import ClassifierHead, GeocellHead, Head
from training.config import (
    Augmentation,
    DataConfig,
    FitConfig,
    ModelConfig,
    OptimizerConfig,
    SchedulerConfig,
    TrainerConfig,
)
from training.fitting import FitSummary, fit
from training.photos.run_photos import PhotoSet
from training.runs.folder import RunFolder

# Models this small lose more to handing work between threads than they gain, above all beside other processes.
torch.set_num_threads(1)

PLACES = np.array([(48.9, 2.4), (52.5, 13.4), (-33.9, 151.2), (40.7, -74.0), (35.7, 139.7), (-1.3, 36.8)])
COLOURS = np.array([(220, 40, 40), (40, 220, 40), (40, 40, 220), (220, 220, 40), (40, 220, 220), (220, 40, 220)])
SIZE = 16  # pixels


def write_toy(folder: Path, n_train: int = 90, n_validation: int = 30) -> Path:
    """Tiles and their table; every tile is its place's colour with noise."""
    rng = np.random.default_rng(0)
    n = n_train + n_validation
    place = np.arange(n) % len(PLACES)
    tiles = COLOURS[place][:, None, None] + rng.normal(0, 15, (n, SIZE, SIZE, 3))
    names = [f"{row:04d}.png" for row in range(n)]
    for name, tile in zip(names, np.clip(tiles, 0, 255).astype(np.uint8), strict=True):
        Image.fromarray(tile).save(folder / name)
    lat, lng = (PLACES[place] + rng.normal(0, 0.02, (n, 2))).T
    split = ["train"] * n_train + ["validation"] * n_validation
    pyarrow.parquet.write_table(
        pa.table({"photo": names, "lat": lat, "lng": lng, "split": split}), folder / "photos.parquet"
    )
    return folder / "photos.parquet"


def with_maps(toy: Path, folder: Path) -> Path:
    """The toy world with a class map for each photo, all of one class: its row's number, modulo seven."""
    shutil.copytree(toy, folder)
    table = pyarrow.parquet.read_table(folder / "photos.parquet")
    names = [f"map{row}.png" for row in range(table.num_rows)]
    for row, name in enumerate(names):
        Image.new("L", (SIZE, SIZE), row % 7).save(folder / name)
    pyarrow.parquet.write_table(table.append_column("map", pa.array(names)), folder / "photos.parquet")
    return folder


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with photos.parquet and the hierarchy H of its training photos (two levels)."""
    folder = tmp_path_factory.mktemp("toy")
    table = pyarrow.parquet.read_table(write_toy(folder))
    train = table.filter(pa.compute.equal(table["split"], "train"))
    rule = PartitionRule(tau_max=(31, 16), tau_min=3)
    save_s2_hierarchy(train["lat"].to_numpy(), train["lng"].to_numpy(), rule=rule, out=folder / "H")
    return folder


def head_of(kind: str, hierarchy: Hierarchy, photos: PhotoSet, *, width: int) -> Head:
    """A head of each kind: classes, places, or geocells with the negatives that are named."""
    if kind == "classes":
        return ClassifierHead(hierarchy, width, seed=0)
    if kind == "places":
        encoder = LocationEncoder(width, scales=(1.0, 4.0), frequencies=8, hidden=16)
        return LocationHead(encoder, photos.lat_deg, photos.lng_deg, queue=20)
    return GeocellHead(hierarchy, width, negatives=kind, seed=0)  # type: ignore[arg-type]


MODEL = ModelConfig(image_size=SIZE, patch_size=8, hidden_size=32, layers=2, heads=2, mlp_size=64, width=16)
LEARN = FitConfig(
    data=DataConfig("photos.parquet", workers=0, batch_size=15, augmentation=Augmentation(brightness=0.05)),
    model=MODEL,
    optimizer=OptimizerConfig(lr=3e-3, geocell_lr=3e-2),
    lr_scheduler=SchedulerConfig("one_cycle"),
    trainer=TrainerConfig(max_epochs=6, accelerator="cpu"),
)


def changed(config: FitConfig = LEARN, **sections: dict[str, object]) -> FitConfig:
    """A configuration with other values in some sections: `changed(trainer={"max_epochs": 1})`."""
    return replace(config, **{name: replace(getattr(config, name), **values) for name, values in sections.items()})


EVERY_STEP = changed(trainer={"max_epochs": 2, "log_every_n_steps": 1, "checkpoint_every_n_steps": 2})


def train(toy: Path, out: Path, config: FitConfig = LEARN) -> FitSummary:
    data = replace(config.data, photos=str(toy / "photos.parquet"))
    summary = fit(str(toy / "H"), str(out), config=replace(config, data=data))
    assert summary is not None
    return summary


def interrupted(toy: Path, folder: Path, config: FitConfig) -> Path:
    """A run that has learnt everything, and ended before it wrote its result."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.fitting.save_checkpoint", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(toy, folder, config)
    return folder


def written(toy: Path, config: FitConfig, file: Path) -> Path:
    """A configuration as a file, for the command."""
    file.write_text(yaml.safe_dump(RunFolder(file.parent / "C").facts(toy / "H", config, {})["options"]))
    return file


def losses(run: Path) -> dict[int, str]:
    """The logged loss of each step, over all starts of a run; what two starts both logged is equal."""
    found: dict[int, str] = {}
    for file in sorted((run / "logs").glob("*/metrics.csv")):
        for row in csv.DictReader(file.read_text().splitlines()):
            if row["train_loss"]:
                assert found.setdefault(int(row["step"]), row["train_loss"]) == row["train_loss"]
    return found


def check_alike(run: Path, other: Path) -> None:
    """The same weights but for rounding."""
    ours, theirs = (load_encoder(folder / "checkpoint").model.state_dict() for folder in (run, other))
    for name, weight in ours.items():
        if not name.endswith("k_proj.bias"):  # nothing pulls at it, so it follows rounding alone
            torch.testing.assert_close(weight, theirs[name], atol=1e-4, rtol=1e-3)
    for a, b in zip(*(load_geocells(folder / "checkpoint").vectors for folder in (run, other)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.fixture(scope="session")
def undisturbed(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "C"
    train(toy, run, EVERY_STEP)
    return run
