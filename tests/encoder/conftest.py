"""A tiny encoder with seeded weights, a plain CLIP, a OneFormer, and images that look a little like photos."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, OneFormerConfig, OneFormerForUniversalSegmentation, SwinConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.oneformer.image_processing_pil_oneformer import OneFormerImageProcessorPil
from transformers.utils import logging

from encoder.class_maps.class_map import NO_CLASS
from encoder.config import Preprocessing
from encoder.models.checkpoint import LoadedEncoder, load_encoder, save_checkpoint
from encoder.models.model import GeoEncoder, GeoEncoderConfig
from encoder.models.segmentation import Segmenter, load_segmenter
from indexer.cells.hierarchy import Hierarchy
from tests.conftest import random_geocells

# Models this small lose more to handing work between threads than they gain, above all beside other processes.
torch.set_num_threads(1)

EDGE = 32  # of the square the tiny encoder sees
WIDTH = 16
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": EDGE,
    "patch_size": 8,
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # for commands run as another process
    logging.disable_progress_bar()


def natural(width: int, height: int, *, seed: int = 0) -> Image.Image:
    """Smooth patches of colour with a little fine grain: as compressible as a photo."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(2, height // 12), max(2, width // 12), 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.int16)
    grain = rng.integers(-8, 9, (height, width, 1))
    return Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))


def random_maps(n: int = 3, *, classes: int = 7, seed: int = 0) -> torch.Tensor:
    """Class maps (n, EDGE, EDGE) of single pixels, a tenth of them of no class."""
    rng = np.random.default_rng(seed)
    maps = rng.integers(0, classes, (n, EDGE, EDGE), dtype=np.uint8)
    maps[rng.random(maps.shape) < 0.1] = NO_CLASS
    return torch.from_numpy(maps)


def tiny_encoder(seed: int = 0, *, resize: int = EDGE, width: int = WIDTH) -> GeoEncoder:
    torch.manual_seed(seed)
    preprocessing = Preprocessing(resize, EDGE).to_dict()
    config = GeoEncoderConfig(vision_config=VISION, projection_dim=width, preprocessing=preprocessing)
    return GeoEncoder(config).eval()


@pytest.fixture(scope="session")
def checkpoint(hierarchy: Hierarchy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("encoder") / "C"
    geocells = random_geocells(hierarchy, WIDTH, seed=0)
    return save_checkpoint(out, encoder=tiny_encoder(), geocells=geocells, config={"seed": 0}, inputs={})


@pytest.fixture(scope="session")
def encoder(checkpoint: Path) -> LoadedEncoder:
    return load_encoder(str(checkpoint))


@pytest.fixture(scope="session")
def clip() -> CLIPModel:
    torch.manual_seed(1)
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(text_config=text | {"vocab_size": 99}, vision_config=VISION, projection_dim=WIDTH)
    return CLIPModel(config).eval()


@pytest.fixture(scope="session")
def clip_folder(clip: CLIPModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain CLIP as the hub has them, text tower and all."""
    folder = tmp_path_factory.mktemp("clip")
    clip.save_pretrained(folder)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 36}, crop_size={"height": EDGE, "width": EDGE})
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def oneformer() -> OneFormerForUniversalSegmentation:
    torch.manual_seed(2)
    backbone = SwinConfig(
        embed_dim=16,
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 4, 8],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    names = ("wall", "sky", "tree", "road", "water", "car", "person")
    config = OneFormerConfig(
        backbone_config=backbone,
        num_queries=10,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
        conv_dim=32,
        mask_dim=32,
        hidden_dim=32,
        encoder_feedforward_dim=64,
        dim_feedforward=64,
        num_attention_heads=4,
        encoder_layers=2,
        decoder_layers=3,
        query_dec_layers=1,
    )
    model = OneFormerForUniversalSegmentation(config).eval()
    # As they are drawn, all queries see the same, and maps have one class.
    torch.nn.init.normal_(model.model.transformer_module.queries_embedder.weight, std=10)
    torch.nn.init.normal_(model.model.pixel_level_module.decoder.mask_projection.weight)
    return model


@pytest.fixture(scope="session")
def oneformer_folder(oneformer: OneFormerForUniversalSegmentation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A OneFormer as the hub has them, for photos of 64 to 128 pixels."""
    folder = tmp_path_factory.mktemp("oneformer")
    oneformer.save_pretrained(folder)
    OneFormerImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 128}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def segmenter(oneformer_folder: Path) -> Segmenter:
    return load_segmenter(str(oneformer_folder))
