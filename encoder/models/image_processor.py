"""How a published model wants its photos: the file of its image processor, read as a Preprocessing.

Each processor of transformers has defaults of its own for what its file leaves out. They are taken from those that need
no torchvision.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from transformers import (
    BitImageProcessorPil,
    CLIPImageProcessorPil,
    DeiTImageProcessorPil,
    SiglipImageProcessorPil,
    ViTImageProcessorPil,
)
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from encoder.config import FilterName, Preprocessing
from indexer.errors import InputError

_FILTERS: Mapping[int | None, FilterName] = {2: "bilinear", 3: "bicubic"}  # as PIL.Image.Resampling numbers them
_NOTHING: Mapping[str, Any] = MappingProxyType({})
# By what their names begin with: what reads their settings, and defaults that are not its own.
_PROCESSORS: Mapping[str, tuple[type[PilBackend], Mapping[str, Any]]] = {
    "CLIP": (CLIPImageProcessorPil, _NOTHING),
    "Siglip": (SiglipImageProcessorPil, _NOTHING),
    "Bit": (BitImageProcessorPil, _NOTHING),
    "ViT": (ViTImageProcessorPil, _NOTHING),
    "DeiT": (DeiTImageProcessorPil, _NOTHING),
    # It needs torchvision. What it resizes is no whole numbers, which differs from this by half a shade at most.
    "DINOv3ViT": (ViTImageProcessorPil, {"image_mean": IMAGENET_DEFAULT_MEAN, "image_std": IMAGENET_DEFAULT_STD}),
}


def preprocessing_of(values: Mapping[str, Any], file: Path, *, usual: str) -> Preprocessing:
    """What an image processor does to photos.

    Args:
        values: of its file.
        file: for what errors say.
        usual: the processor of a model of this kind, where the file names none: `CLIP`, `Siglip` and so on.

    Raises:
        InputError: it is one that is not known here, or does what this package does not.
        AttributeError, TypeError, ValueError: values that no processor has.
    """
    values = values.get("image_processor", values)  # newer releases put it into one file with a tokenizer's settings
    named = values.get("image_processor_type") or values.get("feature_extractor_type") or usual
    kind = re.sub(r"(ImageProcessor|FeatureExtractor)\w*$", "", named)
    if kind not in _PROCESSORS:
        raise InputError(
            f"{file}: photos are prepared by {named}, which is not known here (known: {', '.join(_PROCESSORS)}). "
            "Vectors without it would not be the model's."
        )
    reads, defaults = _PROCESSORS[kind]
    processor: Any = reads.from_dict({**defaults, **values})
    size, crop = processor.size, processor.crop_size
    squash = size.shortest_edge is None and size.height is not None and size.height == size.width
    resize = size.height if squash else None if size.longest_edge else size.shortest_edge
    if processor.do_center_crop:
        square = crop.height if crop.height == crop.width else None
    else:
        square = resize if squash else None  # otherwise the photo keeps its shape
    steps = processor.do_resize and processor.do_rescale and processor.do_normalize and not processor.do_pad
    chosen = _FILTERS.get(processor.resample)
    known = steps and chosen is not None and abs(processor.rescale_factor * 255 - 1) < 1e-6
    if not known or chosen is None or resize is None or square is None:
        raise InputError(
            f"{file}: this image processor prepares photos in a way that is not known here (known: resized, to a "
            "square or by the shorter edge, with a bicubic or bilinear filter; cut to a square; values divided by 255, "
            "normalised). Its vectors would not be the model's."
        )
    return Preprocessing(resize, square, tuple(processor.image_mean), tuple(processor.image_std), squash, chosen)
