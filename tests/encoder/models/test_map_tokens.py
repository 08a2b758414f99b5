"""Tokens of class maps against a one-hot image that is projected."""

import torch
from torch.nn.functional import one_hot

from encoder.class_maps.class_map import NO_CLASS
from encoder.config import FusionConfig
from encoder.models.map_tokens import SegmentationTokens
from tests.encoder.conftest import EDGE, random_maps

SIZES = FusionConfig(classes=7, width=12)


def tokens_of(image_size: int = EDGE) -> SegmentationTokens:
    torch.manual_seed(0)
    tokens = SegmentationTokens(SIZES, image_size=image_size, patch_size=8)
    tokens.initialise()
    return tokens


def test_gathering_rows_is_projecting_a_one_hot_image() -> None:
    tokens = tokens_of()
    maps = random_maps()
    weight = tokens.projection[:-1].detach().view(8, 8, 7, 12)
    channels = one_hot(torch.where(maps == NO_CLASS, 7, maps).long(), 8)[..., :7].float()
    patches = channels.view(3, 4, 8, 4, 8, 7)
    projected = torch.einsum("bgphqk,pqkd->bghd", patches, weight).reshape(3, 16, 12)
    with_cls = torch.cat([tokens.cls.expand(3, 1, 12), projected], dim=1) + tokens.positions
    torch.testing.assert_close(tokens(maps), with_cls)


def test_pixels_of_no_class_add_nothing_and_learn_nothing() -> None:
    tokens = tokens_of()
    nowhere = torch.full((1, EDGE, EDGE), NO_CLASS, dtype=torch.uint8)
    torch.testing.assert_close(tokens(nowhere)[0, 1:], tokens.positions[1:])
    tokens(random_maps()).sum().backward()
    assert tokens.projection.grad is not None
    assert not tokens.projection.grad[-1].any()


def test_a_map_that_patches_do_not_fill_is_cut_as_clip_cuts_its_image() -> None:
    tokens = tokens_of(30)
    maps = random_maps()[:, :30, :30]
    assert tokens(maps).shape == (3, 1 + 9, 12)
    other = maps.clone()
    other[:, 24:] = 0
    other[:, :, 24:] = 0
    assert torch.equal(tokens(maps), tokens(other))
