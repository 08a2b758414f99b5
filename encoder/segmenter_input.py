"""What a segmenter sees of a photo: read and resized the same way wherever class maps are made.

In: a photo's bytes. Out: pixels in the size of the model's own image processor, and the shape its map will have. Apart
from the model, so that worker processes can do it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from transformers.image_transforms import get_size_with_aspect_ratio

from encoder.class_maps import map_shape
from encoder.config import MAP_EDGE
from encoder.images import decode


@dataclass(frozen=True, slots=True, eq=False)
class PreparedPhoto:
    """A photo in the size the model sees it in."""

    pixels: np.ndarray | torch.Tensor  # (H, W, 3) uint8
    map_shape: tuple[int, int]  # height and width its class map will have


@dataclass(frozen=True, slots=True)
class SegmenterInput:
    """How photos become model input, as the model's own image processor has it."""

    shortest_edge: int  # of the resized photo, in pixels
    longest_edge: int  # above which the photo is made smaller still
    resample: int  # a PIL.Image.Resampling
    rescale_factor: float  # of values from 0 to 255
    mean: tuple[float, ...]  # per channel, of rescaled values
    std: tuple[float, ...]

    def read(self, content: bytes, *, map_edge: int, max_pixels: int) -> PreparedPhoto:
        """Decode a photo and prepare it. A JPEG is decoded at a fraction of its size where that is enough.

        Raises:
            BadImage: it cannot be decoded, or has more pixels than allowed.
        """
        edge = max(self.shortest_edge, map_edge)
        return self.prepare(decode(content, shorter_edge=edge, max_pixels=max_pixels), map_edge=map_edge)

    def prepare(self, image: Image.Image | np.ndarray, *, map_edge: int = MAP_EDGE) -> PreparedPhoto:
        """Resize an upright RGB photo (or an array (h, w, 3) uint8) for the model. Safe to call from several threads.

        map_edge: pixels of the shorter edge of its map, less where the photo is smaller.
        """
        photo = Image.fromarray(image) if isinstance(image, np.ndarray) else image
        size = self.resized(photo.size)
        resized = photo if size == photo.size else photo.resize(size, Image.Resampling(self.resample))
        # A map finer than what the model saw would show nothing more.
        shape = map_shape(photo.size, edge=map_edge, longest=self.longest_edge)
        return PreparedPhoto(np.array(resized), shape)

    def resized(self, photo_size: tuple[int, int]) -> tuple[int, int]:
        """Width and height of what the model sees of a photo of (width, height), in pixels."""
        width, height = photo_size
        # At least 1: transformers rounds the shorter edge of extremely long photos down to nothing.
        new_height, new_width = get_size_with_aspect_ratio((height, width), self.shortest_edge, self.longest_edge)
        return max(1, new_width), max(1, new_height)
