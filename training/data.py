"""Training photos in memory: decoded once, kept as one uint8 array, taken from it by row."""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from encoder.crops import crop_maps, crop_photos
from encoder.decoded_batch import DecodedBatch
from encoder.decoding import decoded_batches
from encoder.encode import reader_of
from encoder.model import GeoEncoder
from encoder.photo_reader import PhotoReader
from encoder.segmentation_cache import SegmentationCache
from indexer.cells.hierarchy import Hierarchy
from indexer.errors import InputError
from indexer.jobs.job_folder import OK
from indexer.jobs.progress import track
from indexer.photos.photo import Photo
from indexer.photos.sources import PhotoSource, open_photos
from training.batches import Part, Share, Truth, ValidationPart, n_batches, order_of, places_of
from training.config import DataConfig
from training.holding_out import Choice
from training.map_classes import refuse_unknown_classes

log = logging.getLogger(__name__)

_DECODED_AT_ONCE = 64  # photos


@dataclass(frozen=True, slots=True, eq=False)
class PhotoSet:
    """Decoded photos with the cells they were taken in."""

    pixels: torch.Tensor  # (N, 3, H, W) uint8
    class_maps: torch.Tensor | None  # (N, H, W) uint8; None for an encoder without fusion
    targets: torch.Tensor  # (N, L) int64, the cell of each level or -1
    lat_deg: np.ndarray  # (N,) float64
    lng_deg: np.ndarray  # (N,) float64

    def __len__(self) -> int:
        return len(self.pixels)

    def parts(self, batch_size: int, share: Share, *, epoch: int, seed: int, skip: int) -> Iterator[Part]:
        """As `training.batches.Photos` says."""
        order = order_of(len(self), epoch=epoch, seed=seed)
        batch_size = min(batch_size, len(self))
        slices = share.slices(batch_size)
        for number in range(skip, n_batches(len(self), batch_size)):
            batch = order[number * batch_size : (number + 1) * batch_size]
            everyone, places = self.targets[batch], places_of(self.lat_deg[batch], self.lng_deg[batch])
            for part in slices:
                rows = batch[part]
                maps = None if self.class_maps is None else self.class_maps[rows]
                truth = Truth(self.targets[rows], everyone, places, part.start)
                yield Part(self.pixels[rows], maps, truth, ends_batch=part is slices[-1])

    def validation_parts(self, batch_size: int, share: Share) -> Iterator[ValidationPart]:
        """As `training.batches.Photos` says."""
        mine = np.arange(share.rank, len(self), share.processes)
        for rows in (mine[first : first + batch_size] for first in range(0, len(mine), batch_size)):
            maps = None if self.class_maps is None else self.class_maps[rows]
            lat, lng = (column[rows] for column in (self.lat_deg, self.lng_deg))
            truth = Truth.alone(self.targets[rows], lat, lng)
            yield ValidationPart(self.pixels[rows], maps, truth, torch.from_numpy(lat), torch.from_numpy(lng))


def load_photos(
    config: DataConfig,
    split: str | None,
    *,
    hierarchy: Hierarchy,
    encoder: GeoEncoder,
    cache: SegmentationCache | None = None,
    chosen: Choice | None = None,
    needs_cell: bool = False,
) -> PhotoSet:
    """Decode the photos of one split and find their cells. Photos that cannot be decoded are left out and counted.

    split: None takes all. cache: class maps of the photos that bring none of their own. chosen: says of names which
    photos are wanted; None wants all. needs_cell: photos without a cell are left out.

    Raises:
        InputError: the table is unusable, too large for memory, or none of its photos can be read.
    """
    source = open_photos(config.photos, split=split, coordinates=True)
    photos = _wanted(source, hierarchy, chosen, needs_cell=needs_cell)
    what = f"split {split!r}" if split else "those that data.validation_share chooses" if chosen else "all"
    if not photos:
        if needs_cell:
            raise InputError(
                f"{config.photos}: no training photo lies in a cell of the hierarchy. Was it made from other photos?"
            )
        raise InputError(f"{config.photos}: there is no photo among {what}.")
    edge, channels = encoder.preprocessing.crop, 3 if encoder.fusion is None else 4
    size_gb = len(photos) * channels * edge**2 / 1e9
    if size_gb > config.memory_limit_gb:
        raise InputError(
            f"{config.photos}: {what}: {size_gb:.1f} GB decoded, more than data.memory_limit_gb = "
            f"{config.memory_limit_gb:g}. Raise that limit, or set data.stream to read them anew in every epoch."
        )
    pixels = torch.zeros((len(photos), 3, edge, edge), dtype=torch.uint8)
    class_maps = None if encoder.fusion is None else torch.zeros((len(photos), edge, edge), dtype=torch.uint8)
    kept: list[int] = []
    failed: list[tuple[str, str]] = []  # code, and what to say of it
    row = 0
    read = reader_of(encoder, crops="one", cache=cache)
    for batch in _decoded(photos, read, f"decoding {split or 'photos'}", workers=config.workers):
        refuse_unknown_classes(batch, config.photos)
        good = slice(len(kept), len(kept) + len(batch.rows))
        if batch.rows:
            pixels[good] = crop_photos(batch.pixels(), encoder.preprocessing, crops="one")[:, 0]
            if class_maps is not None:
                class_maps[good] = _maps(batch, encoder)
        kept += [row + position for position in batch.rows]
        told = zip(batch.name, batch.status, batch.reason, strict=True)
        failed += [(status, f"{name}: {status}: {reason}") for name, status, reason in told if status != OK]
        row += len(batch)
    if failed and not kept:
        raise InputError(f"{config.photos}: no photo of {what} can be read. The first: {failed[0][1]}.")
    if failed:
        counts = ", ".join(f"{n} {code}" for code, n in Counter(code for code, _ in failed).items())
        log.warning("%s: %d photos left out (%s), first %s", what, len(failed), counts, failed[0][1])
    lat, lng = (np.array([getattr(photos[row], name) for row in kept]) for name in ("lat_deg", "lng_deg"))
    targets = torch.from_numpy(hierarchy.locate(lat, lng))
    return PhotoSet(pixels[: len(kept)], None if class_maps is None else class_maps[: len(kept)], targets, lat, lng)


def _wanted(photos: PhotoSource, hierarchy: Hierarchy, chosen: Choice | None, *, needs_cell: bool) -> list[Photo]:
    found = list(photos)
    wanted = np.ones(len(found), bool)
    if chosen is not None:
        wanted &= chosen([photo.name for photo in found])
    if needs_cell:
        lat, lng = (np.array([getattr(photo, name) for photo in found]) for name in ("lat_deg", "lng_deg"))
        wanted &= (hierarchy.locate(lat, lng) >= 0).any(axis=1)
    return [found[row] for row in np.flatnonzero(wanted)]


def _decoded(photos: list[Photo], read: PhotoReader, what: str, *, workers: int) -> Iterator[DecodedBatch]:
    """Batches of the photos in order, with progress."""
    batches = (photos[first : first + _DECODED_AT_ONCE] for first in range(0, len(photos), _DECODED_AT_ONCE))
    with track(what, len(photos)) as advance:
        for batch in decoded_batches(batches, read, workers=workers):
            yield batch
            advance(len(batch))


def _maps(batch: DecodedBatch, encoder: GeoEncoder) -> torch.Tensor:
    """Centre crops (N, S, S) of the class maps of a batch's photos, all of which have one."""
    maps = [class_map for class_map in batch.class_maps() if class_map is not None]
    return crop_maps(maps, batch.shapes, encoder.preprocessing, crops="one")[:, 0]
