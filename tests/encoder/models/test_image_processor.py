"""What the files of image processors say, held against the pixels that these processors make."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate
from transformers import (
    BitImageProcessorPil,
    CLIPImageProcessorPil,
    DeiTImageProcessorPil,
    SiglipImageProcessorPil,
    ViTImageProcessorPil,
)
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from encoder.config import Preprocessing
from encoder.models.checkpoint import load_encoder
from encoder.models.image_processor import preprocessing_of
from encoder.photos.crops import crop_photos, normalise
from indexer.errors import InputError
from tests.encoder.conftest import natural

SHAPES = [(90, 50), (33, 70), (48, 48), (300, 45), (19, 23)]
SQUARE = {"height": 32, "width": 32}
FILE = Path("preprocessor_config.json")


def our_pixels(values: dict[str, Any], shape: tuple[int, int], *, usual: str = "CLIP") -> np.ndarray:
    """Model input (3, S, S) float32 of a photo of (width, height)."""
    preprocessing = preprocessing_of(values, FILE, usual=usual)
    photo = torch.from_numpy(np.array(natural(*shape)))
    return normalise(crop_photos([photo], preprocessing, crops="one")[0], preprocessing)[0].numpy()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "processor",
    [
        CLIPImageProcessorPil(size={"shortest_edge": 36}, crop_size=SQUARE),
        CLIPImageProcessorPil(size={"shortest_edge": 36}, crop_size=SQUARE, resample=2),
        CLIPImageProcessorPil(size={"height": 36, "width": 36}, crop_size=SQUARE),
        SiglipImageProcessorPil(size=SQUARE),
        SiglipImageProcessorPil(size=SQUARE, resample=2),  # as SigLIP 2 has it
        BitImageProcessorPil(
            size={"shortest_edge": 37},
            crop_size=SQUARE,
            image_mean=list(IMAGENET_DEFAULT_MEAN),
            image_std=list(IMAGENET_DEFAULT_STD),
        ),
        ViTImageProcessorPil(size=SQUARE),
        DeiTImageProcessorPil(size={"height": 37, "width": 37}, crop_size=SQUARE),
    ],
    ids=lambda each: type(each).__name__.removesuffix("ImageProcessorPil"),
)
def test_pixels_are_those_of_the_processor_itself(processor: PilBackend, shape: tuple[int, int]) -> None:
    theirs = np.asarray(processor(natural(*shape), return_tensors="np")["pixel_values"][0])
    shades = np.abs(our_pixels(json.loads(processor.to_json_string()), shape) - theirs)
    shades *= 255 * np.array(processor.image_std)[:, None, None]
    assert shades.max() <= 2.01
    assert shades.mean() < 0.3


@pytest.mark.parametrize("shape", SHAPES)
def test_dinov3s_processor_resizes_before_it_rounds(shape: tuple[int, int]) -> None:
    """Without torchvision it cannot be had; what it calls there is torch's own interpolation of values from 0 to 1."""
    values = torch.from_numpy(np.array(natural(*shape))).permute(2, 0, 1)[None] / 255
    resized = interpolate(values, (32, 32), mode="bilinear", antialias=True)[0].numpy()
    mean, std = (np.array(each)[:, None, None] for each in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    ours = our_pixels({"image_processor_type": "DINOv3ViTImageProcessorFast", "size": SQUARE}, shape)
    assert (np.abs(ours - (resized - mean) / std) * 255 * std).max() <= 1.01


@pytest.mark.parametrize(
    ("values", "usual", "want"),
    [
        ({}, "CLIP", Preprocessing(224, 224)),
        ({"size": 36, "crop_size": 32}, "CLIP", Preprocessing(36, 32)),
        ({"feature_extractor_type": "CLIPFeatureExtractor", "size": 36, "crop_size": 32}, "ViT", Preprocessing(36, 32)),
        ({}, "Siglip", Preprocessing(224, 224, (0.5,) * 3, (0.5,) * 3, squash=True)),
        ({"size": 384}, "ViT", Preprocessing(384, 384, (0.5,) * 3, (0.5,) * 3, squash=True, filter="bilinear")),
        (
            {},
            "DINOv3ViT",
            Preprocessing(224, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), squash=True, filter="bilinear"),
        ),
        ({"image_processor": {"size": 36, "crop_size": 32}, "processor_class": "A"}, "CLIP", Preprocessing(36, 32)),
    ],
)
def test_what_a_file_leaves_out_is_as_its_processor_has_it(
    values: dict[str, Any], usual: str, want: Preprocessing
) -> None:
    assert preprocessing_of(values, FILE, usual=usual) == want


@pytest.mark.parametrize(
    "change",
    [
        {"resample": 1},
        {"do_center_crop": False},
        {"do_resize": False},
        {"do_rescale": False},
        {"do_normalize": False},
        {"do_pad": True},
        {"rescale_factor": 1.0},
        {"size": {"height": 32, "width": 48}},
        {"size": {"shortest_edge": 36, "longest_edge": 64}},
        {"crop_size": {"height": 32, "width": 24}},
    ],
)
def test_an_image_processor_that_works_otherwise_is_refused(
    clip_folder: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    shutil.copytree(clip_folder, tmp_path / "C")
    path = tmp_path / "C" / "preprocessor_config.json"
    values = json.loads(path.read_text())
    path.unlink()
    # The nested form is how newer releases of transformers save it.
    newer = tmp_path / "C" / "processor_config.json"
    newer.write_text(json.dumps({"image_processor": values}))
    assert load_encoder(f"hf:{tmp_path / 'C'}").preprocessing == Preprocessing(36, 32)
    newer.write_text(json.dumps({"image_processor": values | change}))
    with pytest.raises(InputError, match="prepares photos in a way that is not known here"):
        load_encoder(f"hf:{tmp_path / 'C'}")


def test_an_image_processor_nobody_knows_here_is_named() -> None:
    with pytest.raises(InputError, match=r"prepared by LlavaImageProcessor, which is not known here \(known: CLIP, "):
        preprocessing_of({"image_processor_type": "LlavaImageProcessor"}, FILE, usual="CLIP")
