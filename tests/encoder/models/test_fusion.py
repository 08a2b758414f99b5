"""Semantic fusion of each kind: its arithmetic against plain formulas, what reaches the fused token, and its size."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import gelu, layer_norm
from transformers import CLIPModel, CLIPVisionConfig

from encoder.class_maps.class_map import NO_CLASS
from encoder.config import FusionConfig, FusionKind
from encoder.models.checkpoint import LoadedEncoder, load_encoder, save_checkpoint
from encoder.models.fusion import KINDS, Gather, SemanticFusion, Steer, make_fusion
from encoder.models.model import VIT_LARGE_336, GeoEncoder, GeoEncoderConfig
from indexer.errors import InputError
from tests.encoder.conftest import EDGE, VISION, WIDTH, random_maps

SMALL = FusionConfig(classes=7, width=12, latent=6, heads=4, blocks=2, mlp_size=24)
HIDDEN = VISION["hidden_size"]
STEER, GATHER, CONCATENATE = (replace(SMALL, kind=kind) for kind in KINDS)
EACH = pytest.mark.parametrize("config", [STEER, GATHER, CONCATENATE], ids=KINDS)


def a_fusion(config: FusionConfig = SMALL, *, seed: int = 0, trained: bool = True) -> SemanticFusion:
    torch.manual_seed(seed)
    fusion = make_fusion(config, CLIPVisionConfig(**VISION))
    fusion.initialise()
    if trained:  # output projections that are no longer zero
        for parameter in fusion.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    return fusion


def photos(n: int = 3) -> torch.Tensor:
    return torch.randn((n, 17, HIDDEN), generator=torch.Generator().manual_seed(1))


def permuted(fusion: SemanticFusion, maps: torch.Tensor, order: torch.Tensor) -> tuple[SemanticFusion, torch.Tensor]:
    """The fusion and its maps with another order of the map's patches, each with its own position."""
    squares = maps.view(-1, 4, 8, 4, 8).transpose(2, 3).flatten(1, 2)[:, order]
    other = squares.unflatten(1, (4, 4)).transpose(2, 3).reshape(maps.shape)
    moved = make_fusion(config_of(fusion), CLIPVisionConfig(**VISION))
    moved.load_state_dict(fusion.state_dict())
    moved.tokens.positions.data[1:] = fusion.tokens.positions.data[1:][order]
    return moved, other


def config_of(fusion: SemanticFusion) -> FusionConfig:
    (kind,) = (kind for kind, made in KINDS.items() if type(fusion) is made)
    return replace(SMALL, kind=kind)


def steered_as_before_there_were_kinds(
    weights: dict[str, torch.Tensor], segmentation: torch.Tensor, photo: torch.Tensor
) -> torch.Tensor:
    """The fused CLS from weights by the names that checkpoints have had from the first version on."""

    def norm(tokens: torch.Tensor, name: str) -> torch.Tensor:
        return layer_norm(tokens, tokens.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])

    def heads(tokens: torch.Tensor) -> torch.Tensor:
        return tokens.unflatten(-1, (4, HIDDEN // 4)).transpose(1, 2)

    for block in ("blocks.0", "blocks.1"):
        read = f"{block}.attention"
        query = heads(norm(segmentation, f"{block}.norm_map") @ weights[f"{read}.query.weight"].T)
        latent = norm(photo, f"{block}.norm_photo") @ weights[f"{read}.latent.weight"].T
        key, value = (heads(latent @ part.T) for part in weights[f"{read}.key_value.weight"].chunk(2))
        looks = (query @ key.transpose(2, 3) / (HIDDEN // 4) ** 0.5).softmax(dim=-1)
        seen = (looks @ value).transpose(1, 2).flatten(2)
        photo = photo + seen @ weights[f"{read}.out.weight"].T + weights[f"{read}.out.bias"]
        inner = norm(photo, f"{block}.norm_mlp") @ weights[f"{block}.mlp_in.weight"].T + weights[f"{block}.mlp_in.bias"]
        photo = photo + gelu(inner) @ weights[f"{block}.mlp_out.weight"].T + weights[f"{block}.mlp_out.bias"]
    return photo[:, 0]


def test_steering_is_what_it_was_before_there_were_kinds() -> None:
    fusion, photo, maps = a_fusion(STEER), photos(), random_maps()
    want = steered_as_before_there_were_kinds(fusion.state_dict(), fusion.tokens(maps), photo)
    torch.testing.assert_close(fusion(photo, maps), want)


def test_a_steering_block_gives_a_token_for_each_token() -> None:
    fusion, photo = a_fusion(STEER), photos()
    assert isinstance(fusion, Steer)
    segmentation = fusion.tokens(random_maps())
    assert fusion.blocks[0](photo, segmentation).shape == photo.shape
    assert fusion.blocks[0](photo, segmentation[:, :1]).shape == (3, 1, HIDDEN)


def read(weights: dict[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
    """What is read of tokens (3, 17, 12)."""
    own = layer_norm(tokens, (12,), weights["reading.norm.weight"], weights["reading.norm.bias"]).reshape(3, 17 * 12)
    inner = gelu(own @ weights["reading.mlp_in.weight"].T + weights["reading.mlp_in.bias"])
    return inner @ weights["reading.mlp_out.weight"].T + weights["reading.mlp_out.bias"]


def test_gathering_is_its_parts_one_after_another() -> None:
    fusion, photo, maps = a_fusion(GATHER), photos(), random_maps()
    assert isinstance(fusion, Gather)
    own = fusion.tokens(maps)
    for block in fusion.blocks:
        own = own + block.attention(block.norm_map(own), block.norm_photo(photo))
        own = own + block.mlp_out(gelu(block.mlp_in(block.norm_mlp(own))))
    torch.testing.assert_close(fusion(photo, maps), photo[:, 0] + read(fusion.state_dict(), own))


def test_concatenating_is_a_linear_map_of_photo_and_map_side_by_side() -> None:
    fusion, photo, maps = a_fusion(CONCATENATE), photos(), random_maps()
    weights = fusion.state_dict()
    norm = weights["reading.norm.weight"], weights["reading.norm.bias"]
    tokens = layer_norm(fusion.tokens(maps), (12,), *norm).reshape(3, 17 * 12)
    inner = gelu(tokens @ weights["reading.mlp_in.weight"].T + weights["reading.mlp_in.bias"])
    side_by_side = torch.cat([photo[:, 0], inner], dim=1)
    both = torch.cat([torch.eye(HIDDEN), weights["reading.mlp_out.weight"]], dim=1)
    torch.testing.assert_close(fusion(photo, maps), side_by_side @ both.T + weights["reading.mlp_out.bias"])
    torch.testing.assert_close(fusion(photo, maps), photo[:, 0] + read(weights, fusion.tokens(maps)))


@EACH
def test_all_that_a_kind_may_read_is_heard(config: FusionConfig) -> None:
    fusion, photo, maps = a_fusion(config), photos(1), random_maps(1)
    before = fusion(photo, maps)
    for token in range(17):
        changed = photo.clone()
        changed[0, token] += torch.randn(HIDDEN)
        heard = not torch.allclose(fusion(changed, maps), before, atol=1e-6)
        assert heard == (token == 0 or config.kind != "concatenate")  # which reads the photo's CLS alone
    for patch in range(16):
        other = maps.clone()
        row, column = 8 * (patch // 4), 8 * (patch % 4)
        other[0, row : row + 8, column : column + 8] = (other[0, row, column] + 1) % 7
        assert not torch.allclose(fusion(photo, other), before, atol=1e-7)


@EACH
def test_one_block_hears_the_map_unless_it_only_steers(config: FusionConfig) -> None:
    fusion, photo = a_fusion(replace(config, blocks=1)), photos()
    same = torch.equal(fusion(photo, random_maps(seed=0)), fusion(photo, random_maps(seed=1)))
    assert same == (config.kind == "steer")


def test_what_a_class_token_of_the_map_gathers_is_of_the_photo_alone() -> None:
    """It asks the photo, not the map: the paper's text alone, in this reading, would not use the map."""
    fusion, photo = a_fusion(replace(GATHER, blocks=3)), photos()
    assert isinstance(fusion, Gather)

    def gathered(maps: torch.Tensor) -> torch.Tensor:
        own = fusion.tokens(maps)
        for block in fusion.blocks:
            own = block(own, photo)
        return own

    one, other = gathered(random_maps(seed=0)), gathered(random_maps(seed=1))
    assert torch.equal(one[:, 0], other[:, 0])
    assert not torch.isclose(one[:, 1:], other[:, 1:]).all(dim=2).any()


@EACH
def test_the_order_of_patches_tells_nothing_to_attention(config: FusionConfig) -> None:
    """Where each token keeps its position: a map that steers belongs to its photo patch by patch, though."""
    fusion, photo, maps = a_fusion(config), photos(), random_maps()
    order = torch.randperm(16, generator=torch.Generator().manual_seed(2))
    (moved, other), mixed = permuted(fusion, maps, order), photo.clone()
    mixed[:, 1:] = photo[:, 1:][:, order]
    want = fusion(photo, maps)

    def alike(photo: torch.Tensor) -> bool:
        return torch.allclose(moved(photo, other), want, atol=1e-5)

    # What reads all tokens one behind the other knows their order.
    assert (alike(photo), alike(mixed)) == (False, config.kind == "steer")


@EACH
def test_a_map_of_no_class_is_positions_alone(config: FusionConfig) -> None:
    """So is the map of a photo that has none, whatever was learned of classes."""
    fusion, photo = a_fusion(config), photos()
    nowhere = torch.full((3, EDGE, EDGE), NO_CLASS, dtype=torch.uint8)
    before, with_map = fusion(photo, nowhere), fusion(photo, random_maps())
    fusion.tokens.projection.data[:-1] += torch.randn_like(fusion.tokens.projection.data[:-1])
    assert torch.equal(fusion(photo, nowhere), before)
    assert not torch.allclose(fusion(photo, random_maps()), with_map, atol=1e-4)


@EACH
def test_an_untrained_fusion_leaves_clips_own_image_embedding(
    clip: CLIPModel, clip_folder: Path, config: FusionConfig
) -> None:
    fused = load_encoder(f"hf:{clip_folder}").model
    fused.add_fusion(config)
    assert fused.fusion_config == config
    pixels = torch.randn(4, 3, EDGE, EDGE)
    with torch.no_grad():
        theirs = nn.functional.normalize(clip.get_image_features(pixels).pooler_output, dim=-1)
        torch.testing.assert_close(fused(pixels, random_maps(4)), theirs, atol=1e-5, rtol=0)


@EACH
def test_an_untrained_fusion_learns_from_its_first_step(config: FusionConfig) -> None:
    fusion = a_fusion(config, trained=False)
    photo, maps = photos(4), random_maps(4)
    optimiser = torch.optim.SGD(fusion.parameters(), lr=0.01)
    for _ in range(3):
        optimiser.zero_grad()
        fusion(photo, maps).square().sum().backward()
        optimiser.step()
    untouched = [name for name, weight in fusion.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert untouched == []


@EACH
def test_a_fused_encoder_survives_the_disk(config: FusionConfig, tmp_path: Path) -> None:
    encoder = fused_encoder(config)
    pixels, maps = torch.randn(2, 3, EDGE, EDGE), random_maps(2)
    encoder.save_pretrained(tmp_path / "pretrained")
    save_checkpoint(tmp_path / "C", encoder=encoder, geocells=None, config={}, inputs={})
    want = encoder(pixels, maps)
    assert torch.equal(GeoEncoder.from_pretrained(tmp_path / "pretrained").eval()(pixels, maps), want)
    loaded: LoadedEncoder = load_encoder(tmp_path / "C")
    assert torch.equal(loaded.model(pixels, maps), want)
    assert loaded.model.fusion_config == config


def fused_encoder(config: FusionConfig = SMALL, *, seed: int = 0) -> GeoEncoder:
    torch.manual_seed(seed)
    encoder = GeoEncoder(GeoEncoderConfig(vision_config=VISION, projection_dim=WIDTH, fusion=vars(config))).eval()
    encoder.fusion = a_fusion(config, seed=seed)
    return encoder


@EACH
def test_a_new_encoder_draws_the_weights_of_its_fusion(config: FusionConfig) -> None:
    torch.manual_seed(0)
    encoder = GeoEncoder(GeoEncoderConfig(vision_config=VISION, projection_dim=WIDTH, fusion=vars(config)))
    assert encoder.fusion is not None
    assert not any(linear.weight.any() for linear in encoder.fusion.added())
    assert float(encoder.fusion.tokens.positions.detach().std()) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("unknown", [("kind",), ("kind", "leave_out")])
def test_older_checkpoints_say_less_and_answer_as_they_did(unknown: tuple[str, ...], tmp_path: Path) -> None:
    """Before there were kinds; before a share of the maps was left out: they steer, and need maps."""
    encoder, folder = fused_encoder(STEER), tmp_path / "encoder"
    encoder.save_pretrained(folder)
    stored = json.loads((folder / "config.json").read_text())
    for name in unknown:
        del stored["fusion"][name]
    (folder / "config.json").write_text(json.dumps(stored))
    loaded = load_encoder(f"hf:{folder}").model
    assert loaded.fusion_config == STEER
    assert STEER.needs_maps
    assert not replace(STEER, leave_out=0.1).needs_maps
    pixels, maps = torch.randn(2, 3, EDGE, EDGE), random_maps(2)
    assert torch.equal(loaded(pixels, maps), encoder(pixels, maps))


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


def n_parameters(config: FusionConfig, vision: dict[str, int]) -> int:
    """Counted by hand: matrices, then offsets, then two numbers for each dimension of a layer norm."""
    hidden, width, latent, inner = vision["hidden_size"], config.width, config.latent, config.mlp_size
    tokens = 1 + (vision["image_size"] // vision["patch_size"]) ** 2
    maps = (vision["patch_size"] ** 2 * config.classes + 1) * width + (1 + tokens) * width
    reading = width * hidden + hidden * latent + latent * 2 * hidden  # queries, latent, keys and values
    read = 2 * width + tokens * width * inner + inner + inner * hidden + hidden  # all tokens, one behind the other
    if config.kind == "steer":
        out, mlp, norms = hidden * hidden + hidden, 2 * hidden * inner + inner + hidden, 2 * (width + 2 * hidden)
        return maps + config.blocks * (reading + out + mlp + norms)
    if config.kind == "gather":
        out, mlp, norms = hidden * width + width, 2 * width * inner + inner + width, 2 * (2 * width + hidden)
        return maps + config.blocks * (reading + out + mlp + norms) + read
    return maps + read


@EACH
@pytest.mark.parametrize(("width", "latent", "blocks", "inner"), [(4, 3, 1, 5), (12, 7, 3, 2)])
def test_a_fusion_has_as_many_weights_as_its_formula_says(
    config: FusionConfig, width: int, latent: int, blocks: int, inner: int
) -> None:
    config = replace(config, width=width, latent=latent, blocks=blocks, mlp_size=inner)
    with torch.device("meta"):
        fusion = make_fusion(config, CLIPVisionConfig(**VISION))
    assert sum(weight.numel() for weight in fusion.parameters()) == n_parameters(config, VISION)


@pytest.mark.parametrize(("kind", "millions"), [("steer", 14.3), ("gather", 82.7), ("concatenate", 80.5)])
def test_weights_at_the_papers_sizes_are_those_of_the_documentation(kind: FusionKind, millions: float) -> None:
    config = FusionConfig(kind=kind)
    with torch.device("meta"):
        fusion = make_fusion(config, CLIPVisionConfig(**VIT_LARGE_336))
    counted = sum(weight.numel() for weight in fusion.parameters())
    assert counted == n_parameters(config, VIT_LARGE_336)
    assert round(counted / 1e6, 1) == millions
    for file in ("configs/mp16.yaml", "docs/how-it-works.md"):
        assert f"{millions} million" in (Path(__file__).parents[3] / file).read_text(), file


def test_the_papers_sizes_and_the_heads_of_clip_are_the_defaults() -> None:
    config = GeoEncoderConfig(fusion=vars(FusionConfig()))
    with torch.device("meta"):
        fusion = GeoEncoder(config).fusion
    assert isinstance(fusion, Steer)
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
        ({"heads": 5, "kind": "gather"}, "5 heads"),
        ({"kind": "stear"}, "`fusion.kind` must be steer or gather or concatenate.* Did you mean steer"),
        ({"leave_out": 1.0}, "fusion.leave_out must be from 0 to 0.99"),
        ({"leave_out": -0.1}, "fusion.leave_out must be from 0 to 0.99"),
    ],
)
def test_impossible_fusions_are_refused(change: dict[str, float | str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GeoEncoderConfig(vision_config=VISION, fusion=vars(SMALL) | change)


def test_heads_share_nothing_where_there_is_no_attention() -> None:
    replace(CONCATENATE, heads=5).check(hidden_size=HIDDEN)
