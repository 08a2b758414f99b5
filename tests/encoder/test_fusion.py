"""Semantic fusion: its arithmetic against plain formulas, and that an untrained one changes nothing of CLIP."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import one_hot
from transformers import CLIPModel, CLIPVisionConfig

from encoder.checkpoint import LoadedEncoder, load_encoder, save_checkpoint
from encoder.class_maps import NO_CLASS
from encoder.config import FusionConfig
from encoder.fusion import LatentAttention, SegmentationTokens, SemanticFusion
from encoder.model import GeoEncoder, GeoEncoderConfig
from indexer.errors import InputError
from tests.encoder.conftest import EDGE, VISION, WIDTH

SMALL = FusionConfig(classes=7, width=12, latent=6, heads=4, blocks=2, mlp_size=24)
HIDDEN = VISION["hidden_size"]


def random_maps(n: int = 3, *, classes: int = 7, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    maps = rng.integers(0, classes, (n, EDGE, EDGE), dtype=np.uint8)
    maps[rng.random(maps.shape) < 0.1] = NO_CLASS
    return torch.from_numpy(maps)


def a_fusion(config: FusionConfig = SMALL, *, seed: int = 0, trained: bool = True) -> SemanticFusion:
    torch.manual_seed(seed)
    fusion = SemanticFusion(config, CLIPVisionConfig(**VISION))
    fusion.initialise()
    if trained:  # output projections that are no longer zero
        for parameter in fusion.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    return fusion


def test_gathering_rows_is_projecting_a_one_hot_image() -> None:
    tokens = a_fusion().tokens
    maps = random_maps()
    weight = tokens.projection[:-1].detach().view(8, 8, 7, 12)
    channels = one_hot(torch.where(maps == NO_CLASS, 7, maps).long(), 8)[..., :7].float()
    patches = channels.view(3, 4, 8, 4, 8, 7)
    projected = torch.einsum("bgphqk,pqkd->bghd", patches, weight).reshape(3, 16, 12)
    with_cls = torch.cat([tokens.cls.expand(3, 1, 12), projected], dim=1) + tokens.positions
    torch.testing.assert_close(tokens(maps), with_cls)


def test_pixels_of_no_class_add_nothing_and_learn_nothing() -> None:
    tokens = a_fusion().tokens
    nowhere = torch.full((1, EDGE, EDGE), NO_CLASS, dtype=torch.uint8)
    torch.testing.assert_close(tokens(nowhere)[0, 1:], tokens.positions[1:])
    tokens(random_maps()).sum().backward()
    assert tokens.projection.grad is not None
    assert not tokens.projection.grad[-1].any()


def test_a_map_that_patches_do_not_fill_is_cut_as_clip_cuts_its_image() -> None:
    tokens = SegmentationTokens(SMALL, image_size=30, patch_size=8)
    tokens.initialise()
    maps = random_maps()[:, :30, :30]
    assert tokens(maps).shape == (3, 1 + 9, 12)
    other = maps.clone()
    other[:, 24:] = 0
    other[:, :, 24:] = 0
    assert torch.equal(tokens(maps), tokens(other))


def test_latent_attention_is_its_formula_head_by_head() -> None:
    torch.manual_seed(0)
    attention = LatentAttention(SMALL, hidden_size=HIDDEN).double()
    segmentation, photo = torch.randn(2, 5, 12).double(), torch.randn(2, 9, HIDDEN).double()
    latent = photo @ attention.latent.weight.T
    keys, values = (latent @ part.T for part in attention.key_value.weight.chunk(2))
    queries = segmentation @ attention.query.weight.T
    heads = []
    for head in range(4):
        columns = slice(head * 8, (head + 1) * 8)
        scores = queries[..., columns] @ keys[..., columns].transpose(1, 2) / 8**0.5
        heads.append(scores.softmax(dim=-1) @ values[..., columns])
    torch.testing.assert_close(attention(segmentation, photo), attention.out(torch.cat(heads, dim=-1)))


def test_the_last_block_leaves_out_only_what_nobody_reads() -> None:
    fusion, photo, maps = a_fusion(), torch.randn(3, 17, HIDDEN), random_maps()
    segmentation, whole = fusion.tokens(maps), photo
    for block in fusion.blocks:
        whole = block(whole, segmentation)
    assert whole.shape == photo.shape
    torch.testing.assert_close(fusion(photo, maps), whole[:, 0])


def test_every_token_of_map_and_photo_is_heard() -> None:
    fusion, photo, maps = a_fusion(), torch.randn(1, 17, HIDDEN), random_maps(1)
    before = fusion(photo, maps)
    for token in range(17):
        changed = photo.clone()
        changed[0, token] += torch.randn(HIDDEN)
        assert not torch.allclose(fusion(changed, maps), before, atol=1e-6)
    for patch in range(16):
        other = maps.clone()
        row, column = 8 * (patch // 4), 8 * (patch % 4)
        other[0, row : row + 8, column : column + 8] = (other[0, row, column] + 1) % 7
        assert not torch.allclose(fusion(photo, other), before, atol=1e-7)


def test_an_untrained_fusion_leaves_clips_own_image_embedding(clip: CLIPModel, clip_folder: Path) -> None:
    fused = load_encoder(f"hf:{clip_folder}").model
    fused.add_fusion(SMALL)
    assert fused.fusion_config == SMALL
    pixels = torch.randn(4, 3, EDGE, EDGE)
    with torch.no_grad():
        theirs = nn.functional.normalize(clip.get_image_features(pixels).pooler_output, dim=-1)
        torch.testing.assert_close(fused(pixels, random_maps(4)), theirs, atol=1e-5, rtol=0)


def test_an_untrained_fusion_learns_from_its_first_step() -> None:
    fusion = a_fusion(SMALL, trained=False)
    photo, maps = torch.randn(4, 17, HIDDEN), random_maps(4)
    optimiser = torch.optim.SGD(fusion.parameters(), lr=0.1)
    for _ in range(3):
        fusion(photo, maps).square().sum().backward()
        optimiser.step()
    untouched = [name for name, weight in fusion.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert untouched == []


def test_a_fused_encoder_survives_the_disk(tmp_path: Path) -> None:
    encoder = fused_encoder()
    pixels, maps = torch.randn(2, 3, EDGE, EDGE), random_maps(2)
    encoder.save_pretrained(tmp_path / "pretrained")
    save_checkpoint(tmp_path / "C", encoder=encoder, geocells=None, config={}, inputs={})
    want = encoder(pixels, maps)
    assert torch.equal(GeoEncoder.from_pretrained(tmp_path / "pretrained").eval()(pixels, maps), want)
    loaded: LoadedEncoder = load_encoder(tmp_path / "C")
    assert torch.equal(loaded.model(pixels, maps), want)
    assert loaded.model.fusion_config == SMALL


def fused_encoder(seed: int = 0) -> GeoEncoder:
    torch.manual_seed(seed)
    config = GeoEncoderConfig(vision_config=VISION, projection_dim=WIDTH, fusion=vars(SMALL))
    encoder = GeoEncoder(config).eval()
    encoder.fusion = a_fusion(seed=seed)
    return encoder


def test_checkpoints_of_before_the_share_left_out_need_maps() -> None:
    before = {name: value for name, value in vars(SMALL).items() if name != "leave_out"}
    encoder = GeoEncoder(GeoEncoderConfig(vision_config=VISION, projection_dim=WIDTH, fusion=before))
    assert encoder.fusion_config == SMALL
    assert SMALL.needs_maps
    assert not replace(SMALL, leave_out=0.1).needs_maps


def test_maps_are_asked_for_exactly_where_they_are_used() -> None:
    pixels = torch.randn(2, 3, EDGE, EDGE)
    with pytest.raises(ValueError, match="takes class maps"):
        fused_encoder()(pixels)
    with pytest.raises(ValueError, match="takes none"):
        GeoEncoder(GeoEncoderConfig(vision_config=VISION, projection_dim=WIDTH))(pixels, random_maps(2))


@given(blocks=st.integers(0, 2))
def test_frozen_blocks_build_no_graph(blocks: int) -> None:
    encoder = fused_encoder().train()
    encoder.freeze(trainable_blocks=blocks)
    grown = []
    for layer in encoder.vision.encoder.layers:
        layer.register_forward_hook(lambda module, given, out: grown.append(out.requires_grad))
    encoder(torch.randn(2, 3, EDGE, EDGE), random_maps(2)).sum().backward()
    assert grown == [False] * (2 - blocks) + [True] * blocks
    assert encoder.projection.weight.grad is not None


def test_more_trainable_blocks_than_there_are_is_refused() -> None:
    with pytest.raises(InputError, match="from 0 to 2, not 3"):
        fused_encoder().freeze(trainable_blocks=3)


def test_the_papers_sizes_and_the_heads_of_clip_are_the_defaults() -> None:
    config = GeoEncoderConfig(fusion=vars(FusionConfig()))
    with torch.device("meta"):
        fusion = GeoEncoder(config).fusion
    assert fusion is not None
    assert fusion.tokens.projection.shape == (14 * 14 * 150 + 1, 128)
    assert fusion.tokens.positions.shape == (577, 128)
    attention = fusion.blocks[0].attention
    assert attention.query.weight.shape == (1024, 128)
    assert attention.latent.weight.shape == (64, 1024)
    assert attention.key_value.weight.shape == (2048, 64)
    assert (len(fusion.blocks), attention.heads) == (3, 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": 256}, "at most 255"),
        ({"blocks": 0}, "fusion.blocks must be at least 1"),
        ({"heads": 5}, "5 heads"),
        ({"leave_out": 1.0}, "fusion.leave_out must be from 0 to 0.99"),
        ({"leave_out": -0.1}, "fusion.leave_out must be from 0 to 0.99"),
    ],
)
def test_impossible_fusions_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GeoEncoderConfig(vision_config=VISION, fusion=vars(SMALL) | change)
