"""Batches are never empty."""

from pathlib import Path

from tests.training.photos.test_run_photos import epoch, load
from training.photos.batches import n_batches


def test_fewer_photos_than_a_batch_make_one_batch(toy: Path) -> None:
    photos = load(toy, "validation")
    assert [len(part.pixels) for part in epoch(photos, 256)] == [30]
    assert n_batches(30, 256) == 1
