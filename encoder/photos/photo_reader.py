"""One photo as it is decoded, for an encoder and for a segmenter: the same way wherever that is done.

In: a `Photo`. Out: its pixels and its class map, or what is wrong with it; nothing is resized here but photos far
larger than anybody needs, maps larger than what is cut, and what a segmenter sees. Apart from all models, so that
worker processes can do it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from transformers.image_transforms import get_size_with_aspect_ratio

from encoder.class_maps.cache import SegmentationCache
from encoder.class_maps.class_map import NO_CLASS, check_fit, checked_map, decode_map, map_shape
from encoder.config import MAP_EDGE, MAX_PIXELS, MAX_SENT_PIXELS, Resizing
from encoder.photos.crops import resize_maps
from encoder.photos.images import decode
from encoder.photos.reading import read_bytes
from indexer.errors import BadImage
from indexer.photos.photo import FileRange, Photo
from indexer.photos.uris import SCHEMES

NO_MAP = "no_map"  # status of a photo without a class map, for an encoder that needs one
UNKNOWN_CLASS = "map_class"  # status of a photo whose map holds a class beyond the encoder's table


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
        """Decode a photo and prepare it. A JPEG is decoded at a fraction of its size where that is enough."""
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


@dataclass(frozen=True, slots=True)
class PhotoReader:
    """How one photo becomes pixels, and its class map where maps are used. Travels to the worker processes."""

    resizing: Resizing  # what will be done to the photo before it is cut
    max_pixels: int = MAX_PIXELS  # photos of more are refused, and maps
    schemes: Sequence[str] = SCHEMES  # of the URIs that may be read
    classes: int | None = None  # of the class maps; None: no maps are read
    needs_map: bool = True  # photos without a map are refused; a map that is no good always is
    cache: SegmentationCache | None = None  # where maps are looked up that did not come with their photos
    segmenter: SegmenterInput | None = None  # prepares photos without a map for who makes it; None: they need one
    map_edge: int = MAP_EDGE  # of the maps to be made

    def __call__(self, photo: Photo) -> "DecodedPhoto | BadImage":
        """Read one photo; what is wrong with it is returned, not raised."""
        try:
            return self._read(photo)
        except BadImage as problem:
            return problem

    def _read(self, photo: Photo) -> "DecodedPhoto":
        content = read_bytes(photo.data, schemes=self.schemes)
        image = decode(content, shorter_edge=self.resizing.edge, max_pixels=self.max_pixels)
        width, height = image.size
        class_map = self._class_map(photo, content, image.size)
        to_segment = None
        if class_map is None and self.classes is not None and self.segmenter is not None:
            # Decoded once more: what the segmenter sees must not depend on what the encoder needs.
            to_segment = self.segmenter.read(content, map_edge=self.map_edge, max_pixels=self.max_pixels)
        target = self.resizing.shape(height, width)
        if height * width > max(MAX_SENT_PIXELS, target[0] * target[1]):
            image = image.resize(target[::-1], Image.Resampling[self.resizing.filter.upper()])
        if class_map is not None and class_map.size > target[0] * target[1]:
            # As it would be where it is cut; what waits for the model must not grow with the map.
            class_map = resize_maps(torch.from_numpy(class_map)[None, None], target)[0, 0].numpy()
        return DecodedPhoto(np.asarray(image), class_map, to_segment)

    def _class_map(self, photo: Photo, content: bytes, photo_size: tuple[int, int]) -> np.ndarray | None:
        if self.classes is None:
            return None
        class_map = None
        if photo.class_map is not None:
            class_map = self._own_map(photo.class_map)
        elif self.cache is not None:
            class_map = self.cache.get(content)
        if class_map is None:
            if self.segmenter is None and self.needs_map:
                raise BadImage(
                    NO_MAP,
                    "no class map of this photo: give `segmentation_cache` with one (python -m encoder segment makes "
                    "them), `segmenter`, or the map itself (`class_maps`, or column `map` of a table); or train an "
                    "encoder that needs none (`model.fusion.leave_out`)",
                )
            return None
        height, width = class_map.shape
        check_fit((height, width), photo_size)
        known = class_map[class_map != NO_CLASS]
        if known.size and known.max() >= self.classes:
            raise BadImage(UNKNOWN_CLASS, f"class {known.max()} in its map; the encoder knows 0 to {self.classes - 1}")
        return class_map

    def _own_map(self, data: FileRange | bytes | np.ndarray) -> np.ndarray:
        try:
            if isinstance(data, np.ndarray):
                return checked_map(data)
            return decode_map(read_bytes(data, schemes=self.schemes), max_pixels=self.max_pixels)
        except BadImage as problem:
            code = "" if problem.code == "bad_map" else f", {problem.code}"
            raise BadImage("bad_map", f"its class map{code}: {problem.reason}") from None


@dataclass(frozen=True, slots=True, eq=False)
class DecodedPhoto:
    """One photo ready to be cut."""

    pixels: np.ndarray  # (H, W, 3) uint8, upright
    class_map: np.ndarray | None  # (h, w) uint8
    to_segment: PreparedPhoto | None = None  # what its map is made from, where that has to be done
