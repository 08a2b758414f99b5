"""A tiny encoder with seeded weights, a plain CLIP folder, and pictures that look a little like photos."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.utils import logging

from encoder.checkpoint import LoadedEncoder, load_encoder, save_checkpoint
from encoder.model import GeoEncoder, GeoEncoderConfig

EDGE = 48  # of the square the tiny encoder sees
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": EDGE,
    "patch_size": 8,
}
WIDTH = 16


@pytest.fixture(autouse=True, scope="session")
def quiet_library() -> None:
    """transformers draws progress bars of its own when tests save its models."""
    logging.disable_progress_bar()
    os.environ["HF_HUB_OFFLINE"] = "1"  # for commands run as another process; no test may reach for the network


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth landscape of colour patches with a little fine grain: as compressible as a photo, seeded."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(2, height // 12), max(2, width // 12), 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.int16)
    grain = rng.integers(-8, 9, (height, width, 1))
    return Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))


def new_encoder(seed: int = 0, **changes: object) -> GeoEncoder:
    torch.manual_seed(seed)
    return GeoEncoder(GeoEncoderConfig(vision_config=VISION, projection_dim=WIDTH, **changes)).eval()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder with an encoder and no geocells."""
    out = tmp_path_factory.mktemp("encoder") / "C"
    return save_checkpoint(out, encoder=new_encoder(), geocells=None, config={"seed": 0}, inputs={})


@pytest.fixture(scope="session")
def encoder(checkpoint: Path) -> LoadedEncoder:
    return load_encoder(checkpoint)


@pytest.fixture(scope="session")
def clip() -> CLIPModel:
    torch.manual_seed(1)
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(text_config=text | {"vocab_size": 99}, vision_config=VISION, projection_dim=WIDTH)
    return CLIPModel(config).eval()


@pytest.fixture(scope="session")
def clip_folder(clip: CLIPModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain CLIP as the hub has them: text tower, image processor and all."""
    folder = tmp_path_factory.mktemp("clip")
    clip.save_pretrained(folder)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": EDGE}, crop_size={"height": EDGE, "width": EDGE}, image_mean=[0.4, 0.5, 0.6]
    )
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven photos of several shapes with a table beside them: rows 2 and 4 are bad, row 6 is of another split."""
    shapes = [(60, 48), (48, 48), (30, 90), (200, 120), (50, 50), (400, 300), (48, 64)]
    for row, shape in enumerate(shapes):
        picture(*shape, seed=row).save(tmp_path / f"{row}.{'png' if row % 2 else 'jpg'}", quality=92)
    (tmp_path / "2.jpg").write_text("this is not an image")
    whole = (tmp_path / "4.jpg").read_bytes()
    (tmp_path / "4.jpg").write_bytes(whole[: len(whole) // 2])
    lines = [f"{row}.{'png' if row % 2 else 'jpg'},{row},{-row},{'b' if row == 6 else 'a'}" for row in range(7)]
    table = tmp_path / "photos.csv"
    table.write_text("\n".join(["photo,lat,lng,split", *lines]) + "\n")
    return table
