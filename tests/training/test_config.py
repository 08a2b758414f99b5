"""Values that cannot work are refused by name before anything is read."""

import math
from pathlib import Path

import pytest

from encoder.config import FusionConfig
from indexer.errors import InputError
from training.config import (
    Augmentation,
    DataConfig,
    FitConfig,
    LossConfig,
    ModelConfig,
    NamesConfig,
    OptimizerConfig,
    RefitConfig,
    SchedulerConfig,
    TrainerConfig,
)


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        (TrainerConfig, "max_epochs", -1),  # Lightning would train for ever
        (TrainerConfig, "gradient_clip_val", math.inf),
        (TrainerConfig, "patience", 0),
        (TrainerConfig, "devices", 0),
        (OptimizerConfig, "lr", -1e-3),
        (OptimizerConfig, "geocell_lr", math.nan),
        (OptimizerConfig, "temperature_lr", -1e-4),
        (OptimizerConfig, "weight_decay", -0.1),
        (SchedulerConfig, "warm_up", 1.01),
        (RefitConfig, "patience", 0),
        (NamesConfig, "temperature", 0.0),
        (NamesConfig, "prior_exponent", -1.0),
        (NamesConfig, "batch_size", 0),
        (RefitConfig, "held_out", 0.6),
        (RefitConfig, "decay", 1.5),
    ],
)
def test_wrong_values_of_a_section(section: type, name: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"[.`]{name}`? must be"):
        section(**{name: value})


def test_a_classifier_tells_a_photo_from_all_classes() -> None:
    data, classes = DataConfig("photos.parquet"), ModelConfig(head="classes")
    assert FitConfig(data=data, model=classes).model.unused == []
    with pytest.raises(InputError, match=r"loss\.negatives must be all, not batch"):
        FitConfig(data=data, model=classes, loss=LossConfig("batch"))


@pytest.mark.parametrize(("batch_size", "parts"), [(10, 3), (6, 6), (16, 32)])
def test_a_batch_that_cannot_be_shared_evenly(batch_size: int, parts: int) -> None:
    data = DataConfig("photos.parquet", batch_size=batch_size)
    FitConfig(data=data, trainer=TrainerConfig(accumulate_grad_batches=1))
    with pytest.raises(InputError, match=f"data.batch_size {batch_size} is that of all processes"):
        FitConfig(data=data, trainer=TrainerConfig(accumulate_grad_batches=parts))


@pytest.mark.parametrize(("name", "value"), [("batch_size", 1), ("workers", -1), ("memory_limit_gb", -1.0)])
def test_wrong_data(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"data.{name} must be"):
        DataConfig("photos.parquet", **{name: value})  # type: ignore[arg-type]


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


def test_what_an_existing_encoder_has_of_its_own_is_not_taken_from_the_options() -> None:
    assert ModelConfig(width=16, layers=2).unused == []
    assert ModelConfig(start_from="hf:clip", trainable_blocks=2, fusion=FusionConfig()).unused == []
    assert ModelConfig(start_from="hf:clip", width=16, mean=(0.1, 0.1, 0.1)).unused == ["width", "mean"]


def test_the_limits_themselves_are_allowed() -> None:
    TrainerConfig(max_epochs=1, gradient_clip_val=0.0)
    OptimizerConfig(lr=0.0)
    SchedulerConfig(warm_up=1.0)
    ModelConfig(patch_size=336)
    Augmentation(shift=0.99, rotation_deg=180, colour=255)


def test_a_configuration_file_may_be_named_by_text(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("hierarchy: H\nout: C\ndata: {photos: p.csv, segmentation_cache: S}\n")
    config = FitConfig.from_yaml(str(tmp_path / "c.yaml"))
    assert config == FitConfig.from_yaml(tmp_path / "c.yaml")
    assert config == FitConfig(data=DataConfig("p.csv", segmentation_cache=Path("S")))
