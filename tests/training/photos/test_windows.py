"""Windows are drawn evenly, by nothing but seed, epoch and name; they are cut exactly, from maps as from photos."""

from collections import Counter

import pytest
import torch

from training.config import Augmentation
from training.photos.windows import Window, cut_windows, draw_windows

BOTH = Augmentation(random_crop=True, mirror=True)
NAMES = [f"{row}.jpg" for row in range(6000)]


def coordinates(height: int, width: int) -> torch.Tensor:
    """An image whose first channel says the row, whose second the column: (2, height, width)."""
    rows, columns = torch.arange(height), torch.arange(width)
    return torch.stack([rows[:, None].expand(height, width), columns.expand(height, width)])


@pytest.mark.parametrize(("height", "width"), [(5, 9), (9, 5), (4, 4)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_window_is_a_square_of_the_image(height: int, width: int, mirrored: bool) -> None:
    square, beyond = 4, (height - 4, width - 4)
    shares = [0.0, 0.3, 0.5, 0.7, 1 - 2**-53]
    windows = [Window(down, right, mirrored) for down in shares for right in shares]
    image = coordinates(height, width)
    cuts = cut_windows([image] * len(windows), windows, square)
    assert cuts.shape == (25, 2, square, square)
    for cut, window in zip(cuts.tolist(), windows, strict=True):
        top = sum(window.down >= (k + 1) / (beyond[0] + 1) for k in range(beyond[0]))
        left = sum(window.right >= (k + 1) / (beyond[1] + 1) for k in range(beyond[1]))
        columns = [left + k for k in range(square)][:: -1 if mirrored else 1]
        assert cut[0] == [[top + k] * square for k in range(square)]
        assert cut[1] == [columns] * square
    assert {cut[0][0][0] for cut in cuts.tolist()} >= {0, beyond[0]}


def test_a_map_is_cut_as_its_photo_is() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randint(0, 256, (8, 7 + row % 9), generator=generator, dtype=torch.uint8) for row in range(40)]
    windows = draw_windows(NAMES[:40], BOTH, seed=0, epoch=0)
    photos = cut_windows([each.expand(3, *each.shape) for each in maps], windows, 7)
    assert torch.equal(photos, cut_windows(maps, windows, 7)[:, None].expand(-1, 3, -1, -1))


def test_every_place_is_as_likely_and_half_are_mirrored() -> None:
    windows = draw_windows(NAMES, BOTH, seed=3, epoch=1)
    places = Counter(
        (int(cut[0, 0, 0]), int(cut[1].min()), bool(cut[1, 0, 0] > cut[1, 0, 1]))
        for cut in cut_windows([coordinates(6, 7)] * len(NAMES), windows, 4)
    )
    assert len(places) == 3 * 4 * 2
    mean = len(NAMES) / len(places)  # 250
    # Chi-squared with 23 degrees of freedom: above 50 once in a thousand draws, and these are always the same.
    assert sum((n - mean) ** 2 for n in places.values()) / mean < 50


def test_seed_epoch_and_name_decide_and_nothing_else() -> None:
    whole = draw_windows(NAMES[:100], BOTH, seed=5, epoch=2)
    assert draw_windows(NAMES[60:100][::-1], BOTH, seed=5, epoch=2) == whole[60:][::-1]
    others = [draw_windows(NAMES[:100], BOTH, seed=seed, epoch=epoch) for seed, epoch in ((5, 3), (2, 5), (6, 2))]
    for other in others:
        assert not set(whole) & set(other)
        assert 20 < sum(a.mirrored != b.mirrored for a, b in zip(whole, other, strict=True)) < 80


def test_what_is_not_mirrored_is_cut_at_the_same_place() -> None:
    plain = draw_windows(NAMES[:50], Augmentation(random_crop=True), seed=0, epoch=0)
    assert not any(window.mirrored for window in plain)
    assert [window[:2] for window in plain] == [
        window[:2] for window in draw_windows(NAMES[:50], BOTH, seed=0, epoch=0)
    ]
