"""Random changes stay what they are called, follow their generator, and never mirror."""

import pytest
import torch

from training.augment import augment
from training.config import Augmentation

EVERYTHING = Augmentation(shift=0.1, zoom=0.2, rotation_deg=15, brightness=0.2, colour=20)


def pictures(n: int = 8) -> torch.Tensor:
    """Dark on the left, bright on the right."""
    ramp = torch.linspace(20, 230, 24)
    return ramp.expand(n, 3, 24, 24).contiguous()


def changed(augmentation: Augmentation, seed: int = 0) -> torch.Tensor:
    return augment(pictures(), augmentation, torch.Generator().manual_seed(seed))


def test_nothing_asked_for_changes_nothing() -> None:
    assert torch.equal(changed(Augmentation()), pictures())


def test_the_generator_decides() -> None:
    assert torch.equal(changed(EVERYTHING, 1), changed(EVERYTHING, 1))
    assert not torch.equal(changed(EVERYTHING, 1), changed(EVERYTHING, 2))


def test_values_stay_those_of_a_picture() -> None:
    result = changed(Augmentation(brightness=0.9, colour=200))
    assert result.shape == pictures().shape
    assert result.min() >= 0
    assert result.max() <= 255


@pytest.mark.parametrize("seed", range(5))
def test_left_stays_left(seed: int) -> None:
    result = changed(EVERYTHING, seed)
    assert (result[..., 18:].mean(dim=(1, 2, 3)) > result[..., :6].mean(dim=(1, 2, 3))).all()


def test_every_photo_is_changed_by_itself() -> None:
    result = changed(EVERYTHING)
    assert all(not torch.allclose(result[0], other) for other in result[1:])


def test_brightness_multiplies_all_channels_and_colour_shifts_each() -> None:
    bright = changed(Augmentation(brightness=0.1)) / pictures()
    assert (bright - bright[:, :1, :1, :1]).abs().max() < 1e-4
    shift = changed(Augmentation(colour=9)) - pictures()
    assert (shift - shift[..., :1, :1]).abs().max() < 1e-4
    assert (shift[:, 0] - shift[:, 1]).abs().max() > 1
    assert shift.abs().max() <= 9
