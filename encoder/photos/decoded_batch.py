"""Several decoded photos as they travel to the model: one buffer, whatever their sizes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from encoder.class_maps.class_map import NO_CLASS
from encoder.photos.photo_reader import DecodedPhoto, PreparedPhoto
from indexer.errors import BadImage
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
    buffer: torch.Tensor  # (bytes,) uint8
    # What lies in it, one after another: pixels (H, W, 3) of every photo whose status is 'ok', then their maps (h, w),
    # then what maps are made from (h, w, 3); None for a map that is not there, and where there is nothing to be made.
    pieces: Sequence[tuple[int, ...] | None]
    made_shapes: Sequence[tuple[int, int] | None]  # height and width of the maps to be made

    def __len__(self) -> int:
        return len(self.name)

    @property
    def rows(self) -> list[int]:
        """Which photos have pixels."""
        return [row for row, status in enumerate(self.status) if status == OK]

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Height and width of each of those."""
        return [(int(pixels.shape[0]), int(pixels.shape[1])) for pixels in self.pixels()]

    def to(self, device: torch.device) -> "DecodedBatch":
        """The same batch with its pixels on a device."""
        return replace(self, buffer=self.buffer.to(device, non_blocking=True))

    def pin_memory(self) -> "DecodedBatch":
        """Called by the loader where the model is on a GPU."""
        return replace(self, buffer=self.buffer.pin_memory())

    def pixels(self) -> list[torch.Tensor]:
        """(H, W, 3) uint8 for each of `rows`, views of the buffer."""
        return [part for part in self._kind(0) if part is not None]

    def class_maps(self) -> list[torch.Tensor | None]:
        """(h, w) uint8 for each of `rows`, None where there is none."""
        return self._kind(1)

    def maps_to_cut(self) -> list[torch.Tensor]:
        """The same for a fusion: of a photo without a map one pixel of no class, which is cut as any map is."""
        nothing = self.buffer.new_full((1, 1), NO_CLASS)
        return [nothing if class_map is None else class_map for class_map in self.class_maps()]

    def to_segment(self) -> list[PreparedPhoto | None]:
        """What the maps of `rows` are made from, None where there is nothing to be made."""
        return [
            None if pixels is None or shape is None else PreparedPhoto(pixels, shape)
            for pixels, shape in zip(self._kind(2), self.made_shapes, strict=True)
        ]

    def with_maps(self, made: Sequence[np.ndarray | None]) -> "DecodedBatch":
        """The same batch with these maps (h, w) uint8 of `rows` in place of what they were made from."""
        maps = [new if old is None else old for old, new in zip(self.class_maps(), made, strict=True)]
        return replace(self, **_packed(self.pixels(), maps, [None] * len(maps)))

    def _kind(self, number: int) -> list[torch.Tensor | None]:
        """Of photos, maps and what maps are made from the first, second or third: views of the buffer."""
        sizes = [0 if shape is None else math.prod(shape) for shape in self.pieces]
        parts = zip(torch.split(self.buffer, sizes), self.pieces, strict=True)
        n = len(self.made_shapes)
        views = [None if shape is None else part.view(shape) for part, shape in parts]
        return views[number * n : (number + 1) * n]


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
        "pieces": [None if piece is None else tuple(piece.shape) for piece in pieces],
        "made_shapes": [None if each is None else each.map_shape for each in to_segment],
    }
