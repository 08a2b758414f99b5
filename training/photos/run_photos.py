"""The photos of a run, as its configuration wants them: in memory, or as a stream; divided by a split or by name.

Those in memory are read once as a stream. Of photos that are always cut in the same way the crops are kept, as one
uint8 array; of the others what crops are drawn from (`training.photos.uncut_photos`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, overload

import numpy as np
import torch

from encoder.class_maps.cache import SegmentationCache
from encoder.models.model import GeoEncoder
from indexer.cells.hierarchy import Hierarchy
from indexer.errors import InputError
from indexer.jobs.progress import track
from indexer.photos.sources import PhotoSource, open_photos
from training.config import DataConfig
from training.photos.batches import (
    BatchPart,
    Photos,
    Share,
    Truth,
    ValidationPart,
    ValidationPhotos,
    places_of,
    shuffled_parts,
)
from training.photos.holding_out import NameFilter, by_name
from training.photos.stream import CPU, DECODED_AT_ONCE, PhotoStream
from training.photos.uncut_photos import check_least_memory, load_uncut


@dataclass(frozen=True, slots=True, eq=False)
class PhotoSet:
    """Crops of photos with the cells they were taken in; `training.photos.batches.Photos`, and `ValidationPhotos`."""

    pixels: torch.Tensor  # (N, 3, H, W) uint8
    class_maps: torch.Tensor | None  # (N, H, W) uint8; None for an encoder without fusion
    targets: torch.Tensor  # (N, L) int64, the cell of each level or -1
    lat_deg: np.ndarray  # (N,) float64
    lng_deg: np.ndarray  # (N,) float64

    def __len__(self) -> int:
        return len(self.pixels)

    def parts(self, batch_size: int, share: Share, *, epoch: int, seed: int, skip: int) -> Iterator[BatchPart]:
        """As `training.photos.batches.Photos` says."""
        places = places_of(self.lat_deg, self.lng_deg)
        parts = shuffled_parts(self.targets, places, batch_size, share, epoch=epoch, seed=seed, skip=skip)
        for rows, truth, ends_batch in parts:
            maps = None if self.class_maps is None else self.class_maps[rows]
            yield BatchPart(self.pixels[rows], maps, truth, ends_batch)

    def validation_parts(self, batch_size: int, share: Share) -> Iterator[ValidationPart]:
        """As `training.photos.batches.ValidationPhotos` says."""
        mine = np.arange(share.rank, len(self), share.processes)
        for rows in (mine[first : first + batch_size] for first in range(0, len(mine), batch_size)):
            maps = None if self.class_maps is None else self.class_maps[rows]
            lat, lng = (column[rows] for column in (self.lat_deg, self.lng_deg))
            truth = Truth.alone(self.targets[rows], lat, lng)
            yield ValidationPart(self.pixels[rows], maps, truth, torch.from_numpy(lat), torch.from_numpy(lng))


def load_photos(stream: PhotoStream, *, memory_limit_gb: float) -> PhotoSet:
    """The middle crops of a stream, in its order, on the CPU. Photos that cannot be decoded are left out and counted.

    Raises InputError where the photos are too many for memory, or none of them can be read.
    """
    edge, n_photos = stream.preprocessing.crop, len(stream)
    check_least_memory(stream, n_photos, memory_limit_gb=memory_limit_gb)
    pixels = torch.zeros((n_photos, 3, edge, edge), dtype=torch.uint8)
    class_maps = torch.zeros((n_photos, edge, edge), dtype=torch.uint8) if stream.has_maps else None
    targets = torch.zeros((n_photos, stream.n_levels), dtype=torch.int64)
    lat_deg, lng_deg = torch.zeros((2, n_photos), dtype=torch.float64)
    n_kept = 0
    with track("decoding photos", n_photos) as advance:
        for part in stream.validation_parts(DECODED_AT_ONCE, Share(), advance=advance):
            kept = slice(n_kept, n_kept := n_kept + len(part.pixels))
            pixels[kept], targets[kept] = part.pixels, part.truth.targets
            lat_deg[kept], lng_deg[kept] = part.lat_deg, part.lng_deg
            if class_maps is not None and part.class_maps is not None:
                class_maps[kept] = part.class_maps
    maps = None if class_maps is None else class_maps[:n_kept]
    places = lat_deg[:n_kept].numpy(), lng_deg[:n_kept].numpy()
    return PhotoSet(pixels[:n_kept], maps, targets[:n_kept], *places)


def source_of(config: DataConfig, half: Literal["train", "validation"]) -> tuple[PhotoSource, NameFilter | None]:
    """Where the photos to learn from, or to measure with, are, and which of their names are wanted; None wants all."""
    learnt = half == "train"
    if config.validation_share is not None:
        return open_photos(config.photos, coordinates=True), by_name(config.validation_share)[0 if learnt else 1]
    split = config.train_split if learnt else config.validation_split
    return open_photos(config.photos, split=split, coordinates=True), None


@overload
def open_half(
    config: DataConfig,
    half: Literal["train"],
    *,
    hierarchy: Hierarchy,
    encoder: GeoEncoder,
    cache: SegmentationCache | None = None,
    device: torch.device = CPU,
) -> Photos: ...


@overload
def open_half(
    config: DataConfig,
    half: Literal["validation"],
    *,
    hierarchy: Hierarchy,
    encoder: GeoEncoder,
    cache: SegmentationCache | None = None,
    device: torch.device = CPU,
) -> ValidationPhotos: ...


def open_half(
    config: DataConfig,
    half: Literal["train", "validation"],
    *,
    hierarchy: Hierarchy,
    encoder: GeoEncoder,
    cache: SegmentationCache | None = None,
    device: torch.device = CPU,
) -> Photos | ValidationPhotos:
    """Photos to learn from, all of which lie in a cell; or those to measure with, wherever they lie.

    cache: class maps of the photos that bring none of their own. device: where photos of a stream are cut. Raises
    InputError where the table is unusable, and as `load_photos`.
    """
    source, chosen = source_of(config, half)
    stream = PhotoStream(
        source,
        hierarchy,
        encoder=encoder,
        config=config,
        cache=cache,
        chosen=chosen,
        needs_cell=half == "train",
        windows=config.augmentation if half == "train" else None,
        device=device if config.stream else CPU,
    )
    if not stream.has_any():
        if half == "train":
            raise InputError(
                f"{source.location}: no training photo lies in a cell of the hierarchy. Was it made from other photos?"
            )
        advice = "" if config.validation_share is None else " Raise data.validation_share."
        raise InputError(f"{source.location}: there is no photo to validate with.{advice}")
    if config.stream:
        return stream
    return (load_uncut if stream.windows.draws_windows else load_photos)(stream, memory_limit_gb=config.memory_limit_gb)
