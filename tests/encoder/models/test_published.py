"""Published models of every kind, small and random, saved as transformers saves them: their own vectors of photos."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import interpolate
from transformers import (
    BitImageProcessorPil,
    CLIPImageProcessorPil,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    MetaClip2Config,
    MetaClip2Model,
    MetaClip2VisionModelWithProjection,
    PreTrainedModel,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipVisionModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    ViTModel,
)
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from encoder.embedding import embed_photos
from encoder.encode import PhotoEncoder
from encoder.models.checkpoint import load_encoder
from encoder.models.device import bytes_per_crop
from encoder.models.files import CONFIG_FILE, WEIGHTS_FILE
from encoder.models.model import GeoEncoder
from encoder.models.pickled_weights import convert
from encoder.models.vision_model import VisionModel
from indexer.errors import ArtifactError, InputError
from indexer.photos.sources import listed_photos
from tests.encoder.conftest import EDGE, VISION, WIDTH, natural

SQUARE = {"height": EDGE, "width": EDGE}
_DINO = {key: VISION[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size")}
_TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 99}
_IMAGENET = {"image_mean": list(IMAGENET_DEFAULT_MEAN), "image_std": list(IMAGENET_DEFAULT_STD)}
_BIT = BitImageProcessorPil(size={"shortest_edge": 37}, crop_size=SQUARE, **_IMAGENET)
_CLIP = CLIPImageProcessorPil(size={"shortest_edge": 36}, crop_size=SQUARE)


class _DINOv3Processor:
    """What DINOv3's image processor does, which cannot be had without torchvision."""

    def save_pretrained(self, folder: Path) -> None:
        settings = {"image_processor_type": "DINOv3ViTImageProcessorFast", "size": SQUARE, **_IMAGENET, "resample": 2}
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))

    def __call__(self, image: Image.Image, return_tensors: str) -> dict[str, torch.Tensor]:
        values = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
        mean, std = (torch.tensor(each).view(3, 1, 1) for each in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
        return {"pixel_values": (interpolate(values, (EDGE, EDGE), mode="bilinear", antialias=True) - mean) / std}


MODELS: dict[str, tuple[Callable[[], PreTrainedModel], Any]] = {
    "siglip": (
        lambda: SiglipModel(SiglipConfig(vision_config=VISION, text_config=_TEXT)),
        SiglipImageProcessorPil(size=SQUARE),
    ),
    "siglip2": (  # of a fixed size
        lambda: SiglipModel(SiglipConfig(vision_config=VISION, text_config=_TEXT)),
        SiglipImageProcessorPil(size=SQUARE, resample=2),
    ),
    "siglip_vision_model": (
        lambda: SiglipVisionModel(SiglipConfig(vision_config=VISION, text_config=_TEXT).vision_config),
        SiglipImageProcessorPil(size=SQUARE),
    ),
    # As published they learned from 518 pixels, and their processors cut 224.
    "dinov2": (lambda: Dinov2Model(Dinov2Config(**_DINO, image_size=56)), _BIT),
    "dinov2 giant": (lambda: Dinov2Model(Dinov2Config(**_DINO, image_size=56, use_swiglu_ffn=True)), _BIT),
    "dinov2_with_registers": (
        lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**_DINO, image_size=56, num_register_tokens=2)),
        _BIT,
    ),
    "dinov3_vit": (lambda: DINOv3ViTModel(DINOv3ViTConfig(**VISION, num_register_tokens=2)), _DINOv3Processor()),
    "vit": (lambda: ViTModel(ViTConfig(**VISION)), ViTImageProcessorPil(size=SQUARE)),
    "metaclip_2": (
        lambda: MetaClip2Model(
            MetaClip2Config(vision_config=VISION, text_config=_TEXT | {"eos_token_id": 98}, projection_dim=WIDTH)
        ),
        _CLIP,
    ),
    "metaclip_2_vision_model": (
        lambda: MetaClip2VisionModelWithProjection(
            MetaClip2Config(vision_config=VISION | {"projection_dim": WIDTH}).vision_config
        ),
        _CLIP,
    ),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[PreTrainedModel, Any, Path]]:
    """A model of a kind with its processor, and the folder that holds them as the hub has them."""
    made: dict[str, tuple[PreTrainedModel, Any, Path]] = {}

    def save(kind: str) -> tuple[PreTrainedModel, Any, Path]:
        if kind not in made:
            make, processor = MODELS[kind]
            torch.manual_seed(len(made))
            model, folder = make().eval(), tmp_path_factory.mktemp(kind.replace(" ", "_"))
            with torch.no_grad():  # as they are drawn, all photos look the same
                for weight in model.parameters():
                    if weight.dim() > 1:
                        weight.normal_(std=0.03)
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
            made[kind] = model, processor, folder
        return made[kind]

    return save


Saved = Callable[[str], tuple[PreTrainedModel, Any, Path]]


@torch.no_grad()
def own_vectors(model: PreTrainedModel, pixels: torch.Tensor) -> torch.Tensor:
    """What the model's own feature call gives (N, D), scaled to length 1."""
    if hasattr(model, "get_image_features"):
        found = model.get_image_features(pixels).pooler_output
    else:
        seen = model(pixels)
        found = seen.image_embeds if "image_embeds" in seen else seen.pooler_output
    return torch.nn.functional.normalize(found, dim=-1)


@pytest.mark.parametrize("kind", MODELS)
def test_photos_get_the_models_own_vectors(saved: Saved, tmp_path: Path, kind: str) -> None:
    model, processor, folder = saved(kind)
    images = [natural(*shape, seed=seed) for seed, shape in enumerate([(36, 36), (90, 50), (33, 70), (200, 41)])]
    for seed, image in enumerate(images):
        image.save(tmp_path / f"{seed}.png")
    theirs = own_vectors(model, torch.cat([processor(each, return_tensors="pt")["pixel_values"] for each in images]))
    encoder = load_encoder(f"hf:{folder}")
    (batch,) = embed_photos(PhotoEncoder(encoder), listed_photos([str(tmp_path / f"{n}.png") for n in range(4)]))
    assert batch.embedding.shape == (4, encoder.width)
    furthest = 1 - (batch.embedding * theirs.numpy()).sum(axis=1).min()
    assert furthest <= 1e-4
    # And far less than photos are from one another.
    assert furthest < 0.1 * (1 - (theirs @ theirs.T).fill_diagonal_(-1).max())


@pytest.mark.parametrize("kind", MODELS)
def test_pixels_get_the_models_own_vectors_to_the_last_digits(saved: Saved, kind: str) -> None:
    model, _, folder = saved(kind)
    pixels = torch.randn(3, 3, EDGE, EDGE)
    encoder = load_encoder(f"hf:{folder}")
    vectors = encoder.model(pixels)
    torch.testing.assert_close(vectors, own_vectors(model, pixels))
    assert vectors.dtype == torch.float32
    assert not encoder.model.training
    assert not any(weight.requires_grad for weight in encoder.model.parameters())
    half = load_encoder(f"hf:{folder}", dtype=torch.bfloat16)
    assert half.precision == "bfloat16"
    found = half.model(pixels.bfloat16())
    assert found.dtype == torch.float32
    assert (found * vectors).sum(dim=1).min() >= 0.99
    assert 0 < bytes_per_crop(half.model) < bytes_per_crop(encoder.model)


@pytest.mark.parametrize("kind", ["siglip", "vit"])
def test_ten_crops_of_a_squashing_model_are_cut_from_the_squashed_photo(
    saved: Saved, tmp_path: Path, kind: str
) -> None:
    model, processor, folder = saved(kind)
    natural(90, 50, seed=1).save(tmp_path / "a.png")
    (batch,) = embed_photos(
        PhotoEncoder(load_encoder(f"hf:{folder}"), crops="ten"), listed_photos([f"{tmp_path}/a.png"])
    )
    larger, edge = type(processor)(**processor.to_dict() | {"size": {"height": 37, "width": 37}}), 37 - EDGE
    (whole,) = larger(natural(90, 50, seed=1), return_tensors="pt")["pixel_values"]
    corners = [(0, 0), (0, edge), (edge, 0), (edge, edge), (edge // 2, edge // 2)]
    cuts = torch.stack([whole[:, top : top + EDGE, left : left + EDGE] for top, left in corners])
    want = own_vectors(model, torch.cat([cuts, cuts.flip(-1)])).mean(dim=0)
    np.testing.assert_allclose(batch.embedding[0], want.numpy(), atol=2e-3)


def test_metaclip_is_a_clip_that_can_be_trained_and_others_are_not(saved: Saved) -> None:
    assert isinstance(load_encoder(f"hf:{saved('metaclip_2')[2]}").model, GeoEncoder)
    assert isinstance(load_encoder(f"hf:{saved('siglip')[2]}").model, VisionModel)


def test_layers_have_the_names_of_published_files(saved: Saved) -> None:
    """As releases before 5 of transformers wrote them, and so what the hub has."""
    assert "encoder.layer.0.attention.attention.query.weight" in load_file(saved("vit")[2] / WEIGHTS_FILE)
    assert "encoder.layer.1.attention.output.dense.weight" in load_file(saved("dinov2")[2] / WEIGHTS_FILE)
    assert "encoder.layer.0.mlp.weights_in.weight" in load_file(saved("dinov2 giant")[2] / WEIGHTS_FILE)
    assert "vision_model.head.probe" in load_file(saved("siglip")[2] / WEIGHTS_FILE)


def copy(folder: Path, target: Path, **config: object) -> str:
    """A copy with other settings, as `load_encoder` takes it."""
    shutil.copytree(folder, target)
    values = json.loads((target / CONFIG_FILE).read_text())
    (target / CONFIG_FILE).write_text(json.dumps(values | config))
    return f"hf:{target}"


@pytest.mark.parametrize("kind", ["siglip", "vit", "metaclip_2"])
def test_every_file_is_in_the_digest(saved: Saved, tmp_path: Path, kind: str) -> None:
    folder = saved(kind)[2]
    digests = {load_encoder(f"hf:{folder}").digest, load_encoder(copy(folder, tmp_path / "a", seen="x")).digest}
    other = copy(folder, tmp_path / "b")
    path = tmp_path / "b" / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_mean": [0.4, 0.5, 0.5]}))
    digests.add(load_encoder(other).digest)
    other = copy(folder, tmp_path / "c")
    weights = load_file(tmp_path / "c" / WEIGHTS_FILE)
    next(value for key, value in weights.items() if key.endswith("patch_embedding.weight") or "projection" in key).mul_(
        2
    )
    save_file(weights, tmp_path / "c" / WEIGHTS_FILE)
    digests.add(load_encoder(other).digest)
    assert len(digests) == 4


@pytest.mark.parametrize("kind", ["siglip", "dinov2"])
def test_a_pickle_is_converted_and_read(saved: Saved, tmp_path: Path, kind: str) -> None:
    folder = saved(kind)[2]
    shutil.copytree(folder, tmp_path / "pickled")
    torch.save(load_file(folder / WEIGHTS_FILE), tmp_path / "pickled" / "pytorch_model.bin")
    (tmp_path / "pickled" / WEIGHTS_FILE).unlink()
    with pytest.raises(InputError, match="only as a pickle are not read"):
        load_encoder(f"hf:{tmp_path / 'pickled'}")
    convert(tmp_path / "pickled", tmp_path / "converted")
    pixels = torch.randn(2, 3, EDGE, EDGE)
    here, there = (load_encoder(f"hf:{each}").model(pixels) for each in (folder, tmp_path / "converted"))
    assert torch.equal(here, there)


def test_loading_draws_no_random_number(saved: Saved) -> None:
    folder = saved("siglip")[2]
    torch.manual_seed(9)
    before = torch.get_rng_state()
    load_encoder(f"hf:{folder}")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_vit_that_was_published_without_its_pooler_is_refused(tmp_path: Path) -> None:
    """As the classifiers are; the weights of a pooler would be drawn at random."""
    ViTForImageClassification(ViTConfig(**VISION)).save_pretrained(tmp_path)
    ViTImageProcessorPil(size=SQUARE).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="a ViT without pooled output"):
        load_encoder(f"hf:{tmp_path}")


def test_a_siglip_without_its_head_is_refused(tmp_path: Path) -> None:
    SiglipVisionModel(SiglipConfig(vision_config=VISION | {"vision_use_head": False}).vision_config).save_pretrained(
        tmp_path
    )
    SiglipImageProcessorPil(size=SQUARE).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="a SigLIP without pooled output"):
        load_encoder(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("vit_mae", "'vit_mae': it has no pooled output"),
        ("siglip2", "'siglip2': it sees each photo in a shape of its own"),
        ("bert", r"'bert', which is not read. Read are clip, .*, siglip, .*, dinov2, .*, vit, and encoders of this"),
        (["vit"], "which is not read"),
        (None, "which is not read"),
    ],
)
def test_other_models_are_refused_by_name(saved: Saved, tmp_path: Path, kind: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_encoder(copy(saved("vit")[2], tmp_path / "other", model_type=kind))


@pytest.mark.parametrize(
    ("kind", "change", "error", "message"),
    [
        ("vit", {"image_size": 64}, InputError, "sees 64 x 64 pixels, but photos are cut to 32 x 32"),
        ("vit", {"patch_size": 0}, InputError, "Patches of 0 pixels"),
        ("dinov2", {"patch_size": 40}, InputError, "Patches of 40 pixels in an image of 32"),
        ("vit", {"num_channels": 1}, InputError, r"is not a ViT's \(images must be squares of three channels"),
        ("vit", {"hidden_size": "wide"}, InputError, "is not a ViT's"),
        ("siglip", {"vision_config": [1]}, InputError, "is not a SigLIP's"),
        ("vit", {"num_attention_heads": 0}, ArtifactError, "cannot be loaded as the encoder's weights"),
        ("vit", {"hidden_act": "gelv"}, ArtifactError, "cannot be loaded as the encoder's weights"),
        ("vit", {"num_hidden_layers": 1}, ArtifactError, r"\(left over: layers\.1\."),
        ("vit", {"num_hidden_layers": 3}, ArtifactError, r"\(missing: layers\.2\."),
        ("vit", {"intermediate_size": 48}, ArtifactError, r"\(of another shape: layers\."),
        ("dinov3_vit", {"num_hidden_layers": 3}, ArtifactError, r"\(missing: model\.layer\.2\."),
        (
            "dinov2",
            {"num_hidden_layers": 1, "out_features": ["stage1"], "out_indices": [1]},
            ArtifactError,
            "left over: ",
        ),
        ("dinov2_with_registers", {"num_hidden_layers": 3}, ArtifactError, r"\(missing: "),
    ],
)
def test_files_that_do_not_fit_are_a_clean_error(
    saved: Saved, tmp_path: Path, kind: str, change: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load_encoder(copy(saved(kind)[2], tmp_path / "other", **change))
