"""What is iterated over in training: from where the run stands, in batches that are never empty."""

from pathlib import Path

from tests.training.test_photo_set import ALONE, epoch, load, marked
from training.batches import Position, TrainingLoader


def test_the_loader_follows_the_position(toy: Path) -> None:
    photos, position = marked(load(toy)), Position()
    loader = TrainingLoader(photos, 20, ALONE, seed=0, position=position)
    assert len(loader) == 4
    early = iter(loader)  # Lightning prepares before a run's state is read
    position.epoch, position.batches = 2, 1
    expected = epoch(photos, 20, epoch=2, skip=1)
    assert [part.pixels.tolist() for part in early] == [part.pixels.tolist() for part in expected]


def test_fewer_photos_than_a_batch_make_one_batch(toy: Path) -> None:
    photos = load(toy, "validation")
    assert [len(part.pixels) for part in epoch(photos, 256)] == [30]
    assert len(TrainingLoader(photos, 256, ALONE, seed=0, position=Position())) == 1
