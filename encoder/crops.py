"""From a photo to what the model sees: decode, resize, crop, normalise, as CLIP's own image processor does."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from encoder.images import MAX_PIXELS, decode
from encoder.reading import ReadLimits, read_bytes
from indexer.errors import InputError
from indexer.photos import PhotoTable

# CLIP's own statistics (Radford et al. 2021; transformers.image_utils.OPENAI_CLIP_MEAN and _STD).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How pixels become model input; part of the encoder, and of its digest."""

    resize: int = 336  # length of the shorter edge after resizing, in pixels
    crop: int = 336  # edge of the square centre crop, in pixels; at most `resize`
    mean: tuple[float, float, float] = CLIP_MEAN  # per channel, of values from 0 to 1
    std: tuple[float, float, float] = CLIP_STD

    def __post_init__(self) -> None:
        if not 0 < self.crop <= self.resize:
            raise InputError(f"Preprocessing: crop ({self.crop}) must be from 1 to resize ({self.resize}) pixels.")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise InputError(
                f"Preprocessing: three means and three stds above 0 are needed, not {self.mean}, {self.std}."
            )

    def to_dict(self) -> dict[str, Any]:
        """As JSON writes it."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocessing":
        """The inverse of `to_dict`."""
        return cls(values["resize"], values["crop"], tuple(values["mean"]), tuple(values["std"]))


def centre_crop(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Resize the shorter edge (bicubic) and cut the square in the middle: (3, crop, crop) uint8.

    Only what the square shows is resampled, so that a very long photo costs no more than a square one. Against
    resizing all of it, rounding changes a few pixels by 1 of 255; a photo that fits already keeps its exact pixels.
    """
    short, crop = min(image.size), preprocessing.crop
    # The longer edge is cut down to whole pixels, as transformers and torchvision do.
    width, height = (int(preprocessing.resize * edge / short) for edge in image.size)
    left, top = (width - crop) // 2, (height - crop) // 2
    if short == preprocessing.resize:
        square = image.crop((left, top, left + crop, top + crop))
    else:
        across, down = image.width / width, image.height / height  # pixels of the photo in one of the result
        box = (left * across, top * down, (left + crop) * across, (top + crop) * down)
        square = image.resize((crop, crop), Image.Resampling.BICUBIC, box=box)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def read_crop(
    photos: PhotoTable, row: int, preprocessing: Preprocessing, *, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Decode the photo of a row and crop it: (3, crop, crop) uint8. Safe to call from several threads.

    Raises:
        BadImage: there is no usable photo; its code says why.
    """
    data = read_bytes(photos.data(row), ReadLimits())
    return centre_crop(decode(data, shorter_edge=preprocessing.resize, max_pixels=max_pixels), preprocessing)


def normalise(pixels: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """Pixels (B, 3, H, W) from 0 to 255, uint8 or float, to model input: float32 on the same device."""
    mean, std = (
        torch.tensor(values, device=pixels.device).view(1, 3, 1, 1)
        for values in (preprocessing.mean, preprocessing.std)
    )
    return (pixels.float() / 255 - mean) / std
