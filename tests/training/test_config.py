"""Values that cannot work are refused by name before anything is read."""

import math
from pathlib import Path

import pytest

from indexer.errors import InputError
from training.config import Augmentation, DataConfig, ModelConfig, OptimisationConfig


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", -1),  # Lightning would train for ever
        ("learning_rate", -1e-3),
        ("geocell_learning_rate", math.nan),
        ("weight_decay", -0.1),
        ("warm_up", 1.01),
        ("gradient_clip", math.inf),
    ],
)
def test_wrong_optimisation(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"optimisation.{name} must be"):
        OptimisationConfig(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "value"), [("batch_size", 1), ("workers", 0), ("memory_limit_gb", -1.0)])
def test_wrong_data(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"data.{name} must be"):
        DataConfig(Path("photos.parquet"), **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "value"), [("layers", 0), ("width", 0), ("patch_size", 337)])
def test_wrong_sizes(name: str, value: int) -> None:
    with pytest.raises(InputError, match=f"model.{name} must be"):
        ModelConfig(**{name: value})  # type: ignore[arg-type]


def test_a_channel_without_spread() -> None:
    with pytest.raises(InputError, match=r"model.std\[1\] must be"):
        ModelConfig(std=(0.2, 0.0, 0.2))


@pytest.mark.parametrize("name", ["shift", "zoom", "rotation_deg", "brightness", "colour"])
def test_wrong_augmentation(name: str) -> None:
    with pytest.raises(InputError, match=f"data.augmentation.{name} must be"):
        Augmentation(**{name: -0.1})


def test_the_limits_themselves_are_allowed() -> None:
    OptimisationConfig(epochs=1, warm_up=1.0, learning_rate=0.0, gradient_clip=0.0)
    ModelConfig(patch_size=336)
    Augmentation(shift=0.99, rotation_deg=180, colour=255)
