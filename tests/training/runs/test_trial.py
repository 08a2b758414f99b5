"""A trial of one part of a batch: its line foretells larger parts, weights stay, and bytes are those of the weights."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from encoder.config import FusionConfig
from indexer.cells.table import load_hierarchy
from tests.training.conftest import LEARN, MODEL, changed
from training.cells.heads import GeocellHead
from training.config import FitConfig
from training.runs.inputs import build_encoder
from training.runs.module import GeoModule
from training.runs.trial import Trial, _pass, made_up_part, try_part

CPU = torch.device("cpu")
ROOM = 1 << 40
FUSED = replace(MODEL, fusion=FusionConfig(classes=7, width=8, latent=4, heads=2, blocks=2, mlp_size=8))


def tried(toy: Path, config: FitConfig, *, photos: int = 12, room: int = ROOM) -> tuple[Trial, GeoModule]:
    torch.manual_seed(0)
    hierarchy, encoder = load_hierarchy(toy / "H"), build_encoder(config.model)
    head = GeocellHead(hierarchy, encoder.config.projection_dim, negatives=config.loss.negatives, seed=0)
    sizes = [len(level) for level in hierarchy.levels]
    part = made_up_part(encoder, sizes, photos=photos, batch_size=config.data.batch_size, seed=0)
    module = GeoModule(encoder, head, config=config)
    before = {name: weight.clone() for name, weight in module.state_dict().items()}
    trial = try_part(encoder, head, part, config=config, device=CPU, most_bytes=room)
    for name, weight in module.state_dict().items():
        assert torch.equal(weight, before[name]), name
    assert all(weight.grad is None for weight in module.parameters())
    return trial, module


@pytest.mark.parametrize("model", [MODEL, FUSED, replace(MODEL, trainable_blocks=1)])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_few_photos_foretell_many(toy: Path, model: object, precision: str) -> None:
    config = changed(replace(LEARN, model=model), trainer={"precision": precision})  # type: ignore[arg-type]
    trial, module = tried(toy, config)
    sizes = [len(level) for level in load_hierarchy(toy / "H").levels]
    part = made_up_part(module.encoder, sizes, photos=12, batch_size=15, seed=1)
    apart = [_pass(module, part, photos).n_bytes for photos in (4, 12)]
    grown = trial.bytes_for(12) - trial.bytes_for(4)
    working = grown - (apart[1] - apart[0])  # what a block needs while it works, by arithmetic
    assert working > 0
    assert working == pytest.approx(8 * (trial.photo_bytes - (apart[1] - apart[0]) / 8), rel=0.02)
    assert trial.timed == 8
    assert trial.photo_seconds > 0


def test_what_is_learned_takes_four_times_its_size(toy: Path) -> None:
    for trainable in (0, 1, "all"):
        trial, module = tried(toy, replace(LEARN, model=replace(MODEL, trainable_blocks=trainable)))  # type: ignore[arg-type]
        learnt = sum(weight.nbytes for weight in module.parameters() if weight.requires_grad)
        weights = sum(weight.nbytes for weight in module.parameters())
        assert trial.fixed_bytes == weights + 3 * learnt
        assert replace(trial, processes=2).fixed_bytes == weights + 4 * learnt


def test_the_most_photos_that_fit_do(toy: Path) -> None:
    trial, _ = tried(toy, LEARN)
    for photos in (1, 5, 100):
        room = trial.bytes_for(photos) + 1
        assert trial.photos_in(room) == photos
        assert trial.bytes_for(trial.photos_in(room)) <= room
    assert trial.photos_in(1000) == 0


def test_no_more_is_tried_than_fits(toy: Path) -> None:
    assert tried(toy, LEARN, room=0)[0].timed == 4
    assert tried(toy, LEARN, photos=1)[0].timed == 1
