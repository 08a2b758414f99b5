"""One photo as it is decoded, and several of them as they travel to the model.

In: a `Photo`. Out: its pixels and its class map, or what is wrong with it; nothing is resized here but photos far
larger than anybody needs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image

from encoder.class_maps import NO_CLASS, check_fit, decode_map
from encoder.config import MAP_EDGE, MAX_PIXELS
from encoder.crops import resized_shape
from encoder.images import BadImage, decode
from encoder.reading import ReadLimits, read_bytes
from encoder.segmentation_cache import SegmentationCache
from encoder.segmenter_input import PreparedPhoto, SegmenterInput
from indexer.job_folder import OK
from indexer.photo import FileRange, Photo

# Photos of more pixels than this, after JPEGs were decoded at a fraction of their size, are resized where they are
# decoded: what waits for the model stays bounded.
_LARGEST_SENT = 2 << 20


@dataclass(frozen=True, slots=True)
class PhotoReader:
    """How one photo becomes pixels, and its class map where maps are used. Travels to the worker processes."""

    shorter_edge: int  # what the photo's shorter edge will be resized to, in pixels
    max_pixels: int = MAX_PIXELS  # photos of more are refused
    limits: ReadLimits = field(default_factory=ReadLimits)
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
        content = read_bytes(photo.data, self.limits)
        image = decode(content, shorter_edge=self.shorter_edge, max_pixels=self.max_pixels)
        width, height = image.size
        class_map = self._class_map(photo, content, image.size)
        to_segment = None
        if class_map is None and self.classes is not None and self.segmenter is not None:
            # Decoded once more: what the segmenter sees must not depend on what the encoder needs.
            to_segment = self.segmenter.read(content, map_edge=self.map_edge, max_pixels=self.max_pixels)
        target = resized_shape(height, width, self.shorter_edge)
        if height * width > max(_LARGEST_SENT, target[0] * target[1]):
            image = image.resize(target[::-1], Image.Resampling.BICUBIC)
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
                    "no class map of this photo: give --segmentation-cache with one (python -m encoder segment makes "
                    "them), or --segmenter",
                )
            return None
        height, width = class_map.shape
        check_fit((height, width), photo_size)
        known = class_map[class_map != NO_CLASS]
        if known.size and known.max() >= self.classes:
            raise BadImage("bad_map", f"class {known.max()} in its map; the encoder knows 0 to {self.classes - 1}")
        return class_map

    def _own_map(self, data: FileRange | bytes) -> np.ndarray:
        try:
            return decode_map(read_bytes(data, self.limits))
        except BadImage as problem:
            code = "" if problem.code == "bad_map" else f", {problem.code}"
            raise BadImage("bad_map", f"its class map{code}: {problem.reason}") from None


@dataclass(frozen=True, slots=True, eq=False)
class DecodedPhoto:
    """One photo ready to be cut."""

    pixels: np.ndarray  # (H, W, 3) uint8, upright
    class_map: np.ndarray | None  # (h, w) uint8
    to_segment: PreparedPhoto | None = None  # what its map is made from, where that has to be done


@dataclass(frozen=True, slots=True, eq=False)
class DecodedBatch:
    """Some photos of a source, in its order. One buffer for all pixels: it crosses to other processes in one piece."""

    name: Sequence[str]
    lat_deg: np.ndarray  # (N,) float64, NaN where unknown
    lng_deg: np.ndarray  # (N,) float64
    status: Sequence[str]  # 'ok' or a short reason code
    reason: Sequence[str]  # a sentence where status is not 'ok', else empty
    # (bytes,) uint8: pixels of every photo whose status is 'ok', then their maps, then what maps are made from
    buffer: torch.Tensor
    shapes: Sequence[tuple[int, int]]  # height and width of each of those photos
    map_shapes: Sequence[tuple[int, int] | None]  # and of their maps
    # Of what maps are made from: height and width, and those of the map.
    segment_shapes: Sequence[tuple[tuple[int, int], tuple[int, int]] | None]

    def __len__(self) -> int:
        return len(self.name)

    @property
    def rows(self) -> list[int]:
        """Which photos have pixels."""
        return [row for row, status in enumerate(self.status) if status == OK]

    def to(self, device: torch.device) -> "DecodedBatch":
        """The same batch with its pixels on a device."""
        return replace(self, buffer=self.buffer.to(device, non_blocking=True))

    def pin_memory(self) -> "DecodedBatch":
        """Called by the loader where the model is on a GPU."""
        return replace(self, buffer=self.buffer.pin_memory())

    def pixels(self) -> list[torch.Tensor]:
        """(H, W, 3) uint8 for each of `rows`, views of the buffer."""
        return [part for part in self._pieces()[0] if part is not None]

    def class_maps(self) -> list[torch.Tensor | None]:
        """(h, w) uint8 for each of `rows`, None where there is none."""
        return self._pieces()[1]

    def to_segment(self) -> list[PreparedPhoto | None]:
        """What the maps of `rows` are made from, None where there is nothing to be made."""
        return [
            None if pixels is None or shapes is None else PreparedPhoto(pixels, shapes[1])
            for pixels, shapes in zip(self._pieces()[2], self.segment_shapes, strict=True)
        ]

    def with_maps(self, made: Sequence[np.ndarray | None]) -> "DecodedBatch":
        """The same batch with these maps (h, w) uint8 of `rows` in place of what they were made from."""
        maps = [
            torch.from_numpy(new) if old is None and new is not None else old
            for old, new in zip(self.class_maps(), made, strict=True)
        ]
        pieces = [piece.reshape(-1) for piece in [*self.pixels(), *maps] if piece is not None]
        shapes = [None if each is None else (each.shape[0], each.shape[1]) for each in maps]
        return replace(self, buffer=torch.cat(pieces), map_shapes=shapes, segment_shapes=[None] * len(maps))

    def _pieces(self) -> tuple[list[torch.Tensor | None], ...]:
        """Photos, maps and what maps are made from: views of the buffer."""
        kinds: list[list[tuple[int, ...] | None]] = [
            [(*shape, 3) for shape in self.shapes],
            list(self.map_shapes),
            [None if shapes is None else (*shapes[0], 3) for shapes in self.segment_shapes],
        ]
        sizes = [0 if shape is None else math.prod(shape) for shapes in kinds for shape in shapes]
        parts = iter(torch.split(self.buffer, sizes))
        return tuple(
            [None if shape is None else part.view(shape) for shape, part in zip(shapes, parts, strict=False)]
            for shapes in kinds
        )


def pack(results: Sequence[tuple[Photo, DecodedPhoto | BadImage]]) -> DecodedBatch:
    """Decoded photos, and those that could not be, as one batch."""
    good = [result for _, result in results if isinstance(result, DecodedPhoto)]
    problems = [result if isinstance(result, BadImage) else None for _, result in results]
    to_segment = [None if photo.to_segment is None else np.asarray(photo.to_segment.pixels) for photo in good]
    arrays = [*(photo.pixels for photo in good), *(photo.class_map for photo in good), *to_segment]
    pieces = [each.reshape(-1) for each in arrays if each is not None]
    return DecodedBatch(
        [photo.name for photo, _ in results],
        np.array([photo.lat_deg for photo, _ in results]),
        np.array([photo.lng_deg for photo, _ in results]),
        [OK if problem is None else problem.code for problem in problems],
        ["" if problem is None else problem.reason for problem in problems],
        torch.from_numpy(np.concatenate([*pieces, np.empty(0, np.uint8)])),
        [photo.pixels.shape[:2] for photo in good],
        [None if photo.class_map is None else photo.class_map.shape for photo in good],
        [
            None if pixels is None or photo.to_segment is None else (pixels.shape[:2], photo.to_segment.map_shape)
            for photo, pixels in zip(good, to_segment, strict=True)
        ],
    )
