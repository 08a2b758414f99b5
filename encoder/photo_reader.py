"""One photo as it is decoded.

In: a `Photo`. Out: its pixels and its class map, or what is wrong with it; nothing is resized here but photos far
larger than anybody needs, and maps larger than what is cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from encoder.class_maps import NO_CLASS, check_fit, checked_map, decode_map
from encoder.config import MAP_EDGE, MAX_PIXELS, MAX_SENT_PIXELS
from encoder.crops import resize_maps, resized_shape
from encoder.images import BadImage, decode
from encoder.reading import read_bytes
from encoder.segmentation_cache import SegmentationCache
from encoder.segmenter_input import PreparedPhoto, SegmenterInput
from indexer.photos.photo import FileRange, Photo
from indexer.photos.uris import SCHEMES

UNKNOWN_CLASS = "map_class"  # status of a photo whose map holds a class beyond the encoder's table


@dataclass(frozen=True, slots=True)
class PhotoReader:
    """How one photo becomes pixels, and its class map where maps are used. Travels to the worker processes."""

    shorter_edge: int  # what the photo's shorter edge will be resized to, in pixels
    max_pixels: int = MAX_PIXELS  # photos of more are refused, and maps
    schemes: Sequence[str] = SCHEMES  # of the URIs that may be read
    classes: int | None = None  # of the class maps; None: no maps are read
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
        image = decode(content, shorter_edge=self.shorter_edge, max_pixels=self.max_pixels)
        width, height = image.size
        class_map = self._class_map(photo, content, image.size)
        to_segment = None
        if class_map is None and self.classes is not None and self.segmenter is not None:
            # Decoded once more: what the segmenter sees must not depend on what the encoder needs.
            to_segment = self.segmenter.read(content, map_edge=self.map_edge, max_pixels=self.max_pixels)
        target = resized_shape(height, width, self.shorter_edge)
        if height * width > max(MAX_SENT_PIXELS, target[0] * target[1]):
            image = image.resize(target[::-1], Image.Resampling.BICUBIC)
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
            if self.segmenter is None:
                raise BadImage(
                    "no_map",
                    "no class map of this photo: give `segmentation_cache` with one (python -m encoder segment makes "
                    "them), or `segmenter`; to search query also `class_maps`",
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
