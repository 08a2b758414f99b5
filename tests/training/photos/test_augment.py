"""Random changes stay what they are called, follow their generator, and turn nothing around."""

import pytest
import torch

from encoder.class_maps.class_map import NO_CLASS
from training.config import Augmentation
from training.photos.augment import augment, draw_changes

EVERYTHING = Augmentation(shift=0.1, zoom=0.2, rotation_deg=15, brightness=0.2, colour=20)


def images(n: int = 8) -> torch.Tensor:
    """Dark on the left, bright on the right."""
    ramp = torch.linspace(20, 230, 24)
    return ramp.expand(n, 3, 24, 24).contiguous()


def drawn(n: int, seed: int = 0) -> torch.Tensor:
    return draw_changes(n, torch.Generator().manual_seed(seed))


def changed(augmentation: Augmentation, seed: int = 0) -> torch.Tensor:
    return augment(images(), None, augmentation, drawn(8, seed))[0]


def test_nothing_asked_for_changes_nothing() -> None:
    assert torch.equal(changed(Augmentation()), images())


def test_the_generator_decides() -> None:
    assert torch.equal(changed(EVERYTHING, 1), changed(EVERYTHING, 1))
    assert not torch.equal(changed(EVERYTHING, 1), changed(EVERYTHING, 2))


def test_a_part_of_a_batch_is_changed_as_in_the_whole() -> None:
    whole = changed(EVERYTHING)
    part = augment(images()[3:6], None, EVERYTHING, drawn(8)[3:6])[0]
    assert torch.equal(part, whole[3:6])


def test_values_stay_those_of_an_image() -> None:
    result = changed(Augmentation(brightness=0.9, colour=200))
    assert result.shape == images().shape
    assert result.min() >= 0
    assert result.max() <= 255


@pytest.mark.parametrize("seed", range(5))
def test_left_stays_left(seed: int) -> None:
    result = changed(EVERYTHING, seed)
    assert (result[..., 18:].mean(dim=(1, 2, 3)) > result[..., :6].mean(dim=(1, 2, 3))).all()


def spots(augmentation: Augmentation, n: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    """Where a bright spot right of the centre ends up, and one above it: (n, 2) each, x and y in pixels."""
    places = []
    for x, y in ((12.0, 0.0), (0.0, -12.0)):
        axis = torch.arange(64) - 31.5
        spot = 200 * torch.exp(-((axis[None, :] - x) ** 2 + (axis[:, None] - y) ** 2) / 8)
        after = augment(spot.expand(n, 3, 64, 64), None, augmentation, drawn(n))[0][:, 0]
        mass = after.sum(dim=(1, 2))
        column, row = (after.sum(dim=1) * axis).sum(dim=1) / mass, (after.sum(dim=2) * axis).sum(dim=1) / mass
        places.append(torch.stack([column, row], dim=1))
    return places[0], places[1]


def test_shift_is_a_share_of_the_edge_in_both_directions() -> None:
    right, _ = spots(Augmentation(shift=0.1))
    moved = right - torch.tensor([12.0, 0.0])
    assert moved.abs().max() <= 6.5  # a tenth of 64 pixels, and what interpolation adds
    for axis in (0, 1):
        assert moved[:, axis].min() < -5.5
        assert moved[:, axis].max() > 5.5


def test_zoom_is_a_share_of_the_scale() -> None:
    right, _ = spots(Augmentation(zoom=0.2))
    assert right[:, 1].abs().max() < 0.1
    shown = 12 / right[:, 0]  # 1.2: a fifth more of the image
    assert shown.min() == pytest.approx(0.8, abs=0.02)
    assert shown.max() == pytest.approx(1.2, abs=0.02)


def test_rotation_is_in_degrees_and_turns_without_mirroring() -> None:
    right, top = spots(Augmentation(rotation_deg=30))
    angle = torch.rad2deg(torch.atan2(right[:, 1], right[:, 0]))
    assert angle.abs().max() == pytest.approx(30, abs=1)
    assert angle.min() < -28 < 28 < angle.max()
    torch.testing.assert_close(right.norm(dim=1), torch.full((200,), 12.0), atol=0.1, rtol=0)
    # What lies a quarter turn before the one spot still does: mirrored, it would lie a quarter turn behind.
    torch.testing.assert_close(torch.stack([right[:, 1], -right[:, 0]], dim=1), top, atol=0.1, rtol=0)


def test_every_photo_is_changed_by_itself() -> None:
    result = changed(EVERYTHING)
    assert all(not torch.allclose(result[0], other) for other in result[1:])


def test_brightness_multiplies_all_channels_and_colour_shifts_each() -> None:
    bright = changed(Augmentation(brightness=0.1)) / images()
    assert (bright - bright[:, :1, :1, :1]).abs().max() < 1e-4
    shift = changed(Augmentation(colour=9)) - images()
    assert (shift - shift[..., :1, :1]).abs().max() < 1e-4
    assert (shift[:, 0] - shift[:, 1]).abs().max() > 1
    assert shift.abs().max() <= 9


def test_a_class_map_moves_with_its_photo_and_keeps_its_classes() -> None:
    maps = torch.zeros((200, 64, 64), dtype=torch.uint8)
    maps[:, 20:30, 36:50] = 255
    photos = maps[:, None].expand(-1, 3, -1, -1).float()
    augmentation = Augmentation(shift=0.1, zoom=0.2, rotation_deg=15)
    pixels, moved = augment(photos, maps, augmentation, drawn(200))
    assert moved is not None
    assert (moved.dtype, moved.shape) == (torch.uint8, maps.shape)
    assert set(moved.unique().tolist()) == {0, 255}
    inside, outside = pixels[:, 0] > 254, pixels[:, 0] < 1  # away from the edges, which are blurred in the photo
    assert (moved[inside] == 255).all()
    assert (moved[outside] == 0).all()
    assert not torch.equal(moved, maps)


def left_out(share: float, seed: int = 0, n: int = 1000) -> torch.Tensor:
    """Which maps of a batch are those of no map, where photos are moved, too."""
    maps = torch.full((n, 8, 8), 3, dtype=torch.uint8)
    moving, pixels = Augmentation(rotation_deg=15), torch.zeros((n, 3, 8, 8))
    _, changed = augment(pixels, maps, moving, drawn(n, seed), leave_out=share)
    assert changed is not None
    gone = (changed == NO_CLASS).flatten(1).all(dim=1)
    assert torch.equal(changed[~gone], maps[~gone])
    return gone


def test_a_share_of_the_maps_is_left_out_as_the_generator_says() -> None:
    assert left_out(0.0).sum() == 0
    assert left_out(0.3).float().mean() == pytest.approx(0.3, abs=0.05)
    assert torch.equal(left_out(0.3), left_out(0.3))
    assert not torch.equal(left_out(0.3), left_out(0.3, seed=1))
    assert (left_out(0.6) | ~left_out(0.3)).all()  # a larger share leaves out these and others


def test_photos_look_the_same_whether_maps_are_left_out_or_not() -> None:
    maps = torch.zeros((8, 24, 24), dtype=torch.uint8)
    with_maps, without = (augment(images(), maps, EVERYTHING, drawn(8), leave_out=share)[0] for share in (0, 0.5))
    assert torch.equal(with_maps, without)


def test_lots_of_a_part_are_those_of_its_place_in_the_batch() -> None:
    maps = torch.zeros((8, 24, 24), dtype=torch.uint8)
    _, whole = augment(images(), maps, EVERYTHING, drawn(8), leave_out=0.5)
    _, part = augment(images()[3:6], maps[3:6], EVERYTHING, drawn(8)[3:6], leave_out=0.5)
    assert whole is not None
    assert part is not None
    assert torch.equal(part, whole[3:6])
