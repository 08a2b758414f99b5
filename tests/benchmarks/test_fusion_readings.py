"""Readings that are compared: each is the kind it changes, but for what its name says."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import CLIPVisionConfig

from benchmarks.world.fusion_readings import READINGS, Added, AddedOnce, Carried, Mixed
from encoder.config import FusionConfig
from encoder.models.fusion import SemanticFusion, make_fusion

VISION = CLIPVisionConfig(hidden_size=16, num_attention_heads=2, image_size=16, patch_size=4)
STEER = FusionConfig(classes=5, width=8, latent=4, heads=2, blocks=3, mlp_size=8)
GATHER = replace(STEER, kind="gather")
EACH = pytest.mark.parametrize("reading", READINGS)


def made(fusion: SemanticFusion) -> SemanticFusion:
    torch.manual_seed(0)
    fusion.initialise()
    return fusion


def stirred(fusion: SemanticFusion) -> SemanticFusion:
    for weight in fusion.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    return fusion


def inputs(n: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    maps = torch.randint(0, 5, (n, 16, 16), generator=generator, dtype=torch.uint8)
    return torch.randn((n, 17, 16), generator=generator), maps


@EACH
def test_an_untrained_reading_leaves_the_photo_as_it_is(reading: str) -> None:
    fusion, (photo, maps) = made(READINGS[reading](STEER, VISION)), inputs()
    fused = fusion(photo, maps)
    assert fused.shape == (3, 16)
    assert torch.equal(fused, photo[:, 0])


@EACH
def test_photo_and_map_are_heard_and_all_weights_learn(reading: str) -> None:
    fusion, (photo, maps) = stirred(made(READINGS[reading](STEER, VISION))), inputs()
    fused = fusion(photo, maps)
    assert not torch.allclose(fusion(photo, maps.flip(0))[[0, 2]], fused[[0, 2]], atol=1e-5)
    other = torch.cat([photo[:, :1], photo[:, 1:].flip(0)], dim=1)  # the same CLS with other patches
    assert not torch.allclose(fusion(other, maps)[[0, 2]], fused[[0, 2]], atol=1e-5)
    fused.square().sum().backward()
    assert [name for name, weight in fusion.named_parameters() if weight.grad is None or not weight.grad.any()] == []


@EACH
def test_one_block_hears_the_map_unless_it_only_steers(reading: str) -> None:
    fusion, (photo, maps) = stirred(made(READINGS[reading](replace(STEER, blocks=1), VISION))), inputs()
    same = torch.equal(fusion(photo, maps)[[0, 2]], fusion(photo, maps.flip(0))[[0, 2]])
    assert same == (reading == "carried")


@pytest.mark.parametrize(("reading", "silenced"), [(Carried, "taken_up"), (Added, "adding"), (AddedOnce, "adding")])
def test_without_what_it_adds_a_reading_steers(reading: type[SemanticFusion], silenced: str) -> None:
    fusion, (photo, maps) = stirred(made(reading(STEER, VISION))), inputs()
    steer = make_fusion(STEER, VISION)
    steer.load_state_dict({name: fusion.state_dict()[name] for name in steer.state_dict()})
    assert not torch.allclose(fusion(photo, maps), steer(photo, maps), atol=1e-5)
    for linear in getattr(fusion, silenced):
        nn.init.zeros_(linear.weight)
    torch.testing.assert_close(fusion(photo, maps), steer(photo, maps))
    assert len(getattr(fusion, silenced)) == {Carried: 2, Added: 3, AddedOnce: 1}[reading]


def test_mixing_is_an_mlp_over_the_number_of_a_token() -> None:
    own = made(Mixed(GATHER, VISION)).blocks[0].own
    tokens = torch.randn(2, 17, 8)
    for channel in range(8):
        inner = nn.functional.gelu(tokens[..., channel] @ own.mlp_in.weight.T + own.mlp_in.bias)
        torch.testing.assert_close(own(tokens)[..., channel], inner @ own.mlp_out.weight.T + own.mlp_out.bias)
