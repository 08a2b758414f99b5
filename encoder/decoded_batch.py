"""Several decoded photos as they travel to the model: one buffer, whatever their sizes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from encoder.images import BadImage
from encoder.photo_reader import DecodedPhoto, PreparedPhoto
from indexer.jobs.job_folder import OK
from indexer.photos.photo import Photo

_Values = np.ndarray | torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class DecodedBatch:
    """Photos of a source, in its order. One buffer for all pixels: it crosses to other processes in one piece."""

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
        maps = [new if old is None else old for old, new in zip(self.class_maps(), made, strict=True)]
        return replace(self, **_packed(self.pixels(), maps, [None] * len(maps)))

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
    return DecodedBatch(
        [photo.name for photo, _ in results],
        np.array([photo.lat_deg for photo, _ in results]),
        np.array([photo.lng_deg for photo, _ in results]),
        [OK if problem is None else problem.code for problem in problems],
        ["" if problem is None else problem.reason for problem in problems],
        **_packed(
            [each.pixels for each in good], [each.class_map for each in good], [each.to_segment for each in good]
        ),
    )


def _packed(
    pixels: Sequence[_Values], maps: Sequence[_Values | None], to_segment: Sequence[PreparedPhoto | None]
) -> dict[str, Any]:
    """The buffer of a batch, and the shapes of what is in it."""
    pieces = [*pixels, *maps, *(None if each is None else each.pixels for each in to_segment)]
    flat = [np.asarray(piece).reshape(-1) for piece in pieces if piece is not None]
    return {
        "buffer": torch.from_numpy(np.concatenate([*flat, np.empty(0, np.uint8)])),
        "shapes": [tuple(each.shape[:2]) for each in pixels],
        "map_shapes": [None if each is None else tuple(each.shape) for each in maps],
        "segment_shapes": [
            None if each is None else (tuple(each.pixels.shape[:2]), each.map_shape) for each in to_segment
        ],
    }
