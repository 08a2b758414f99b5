"""Training photos in memory of which every epoch sees another crop: kept as what crops are drawn from.

For random crops that is the whole photo, resized; for mirror images alone the middle of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from indexer.errors import InputError
from indexer.jobs.progress import track
from training.config import Augmentation
from training.photos.batches import BatchPart, Share, places_of, shuffled_parts
from training.photos.stream import PhotoStream, UncutBatch
from training.photos.windows import cut_windows, draw_windows


@dataclass(frozen=True, slots=True, eq=False)
class UncutPhotos:
    """Photos with the cells they were taken in; `training.photos.batches.Photos`."""

    names: Sequence[str]  # N; windows are drawn by them
    images: Sequence[torch.Tensor]  # N, each (3, h, w) uint8: what windows are cut from
    class_maps: Sequence[torch.Tensor] | None  # N, each (h, w) uint8 as its image; None for an encoder without fusion
    targets: torch.Tensor  # (N, L) int64, the cell of each level or -1
    lat_deg: np.ndarray  # (N,) float64
    lng_deg: np.ndarray  # (N,) float64
    windows: Augmentation
    crop: int  # edge of a window, in pixels

    def __len__(self) -> int:
        return len(self.names)

    def parts(self, batch_size: int, share: Share, *, epoch: int, seed: int, skip: int) -> Iterator[BatchPart]:
        """As `training.photos.batches.Photos` says."""
        places = places_of(self.lat_deg, self.lng_deg)
        parts = shuffled_parts(self.targets, places, batch_size, share, epoch=epoch, seed=seed, skip=skip)
        for rows, truth, ends_batch in parts:
            windows = draw_windows([self.names[row] for row in rows], self.windows, seed=seed, epoch=epoch)
            pixels = cut_windows([self.images[row] for row in rows], windows, self.crop)
            maps = self.class_maps
            cut = None if maps is None else cut_windows([maps[row] for row in rows], windows, self.crop)
            yield BatchPart(pixels, cut, truth, ends_batch)


def load_uncut(stream: PhotoStream, *, memory_limit_gb: float) -> UncutPhotos:
    """Decode and resize all photos of a stream, in its order, on the CPU. Those that cannot be decoded are left out.

    Raises InputError where the photos are too many for memory, or none of them can be read. A photo's shape is known
    when it is decoded: before, the least that they can take counts, of squares; then what they do.
    """
    n_photos = len(stream)
    check_least_memory(stream, n_photos, memory_limit_gb=memory_limit_gb)
    batches: list[UncutBatch] = []
    n_held, held_gb = 0, 0.0
    with track("decoding photos", n_photos) as advance:
        for batch in stream.uncut(advance=advance):
            batches.append(batch)
            held_gb += sum(image.nbytes for image in [*batch.images, *(batch.class_maps or [])]) / 1e9
            n_held += len(batch.names)
            size = f"{n_held:,} of {n_photos:,} photos take {held_gb:.1f} GB"
            _check_memory(stream.location, size, size_gb=held_gb, memory_limit_gb=memory_limit_gb)
    return UncutPhotos(
        [name for batch in batches for name in batch.names],
        [image for batch in batches for image in batch.images],
        [each for batch in batches for each in batch.class_maps or []] if stream.has_maps else None,
        torch.cat([batch.targets for batch in batches]),
        np.concatenate([batch.lat_deg for batch in batches]),
        np.concatenate([batch.lng_deg for batch in batches]),
        stream.windows,
        stream.preprocessing.crop,
    )


def check_least_memory(stream: PhotoStream, n_photos: int, *, memory_limit_gb: float) -> None:
    """Raise InputError where so many photos of a stream take more than that, as far as is known before one is read."""
    preprocessing, uncut = stream.preprocessing, stream.windows.random_crop
    edge = preprocessing.shorter_edge("ten") if uncut else preprocessing.crop
    size_gb = n_photos * (4 if stream.has_maps else 3) * edge**2 / 1e9
    size = f"{'at least ' if uncut else ''}{size_gb:.1f} GB"
    _check_memory(stream.location, size, size_gb=size_gb, memory_limit_gb=memory_limit_gb)


def _check_memory(location: str, size: str, *, size_gb: float, memory_limit_gb: float) -> None:
    """Raise InputError for decoded photos of more gigabytes than they may have. size: the same, as text."""
    if size_gb > memory_limit_gb:
        raise InputError(
            f"{location}: {size} decoded, more than data.memory_limit_gb = {memory_limit_gb:g}. Raise that limit, or "
            "set data.stream to read them anew in every epoch."
        )
