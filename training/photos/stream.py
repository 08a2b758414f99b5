"""Training photos read as they are needed: shuffled, decoded ahead by other processes, never held for long.

In: a source of photos. Out: the parts of batches that a process works on. Every process goes through the names of all
photos, in the same order, and decodes its own: so all know the cells of a whole batch, and a run can be shared and gone
on with anywhere (`training.photos.batches`).

Photos are shuffled as webdataset's users know it: shards in a random order, and the next photo drawn from a buffer of
those that follow. A table whose neighbours are alike, sorted by place or by owner, should be shuffled once beforehand.
"""

import copy
import itertools
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import torch

from encoder.class_maps.cache import SegmentationCache
from encoder.config import CropName, ReadOptions
from encoder.encode import MapSource, reader_of
from encoder.models.model import GeoEncoder
from encoder.photos.crops import crop_maps, crop_photos, resized_maps, resized_photos
from encoder.photos.decoded_batch import DecodedBatch
from encoder.photos.decoding import decoded_batches
from encoder.photos.photo_reader import UNKNOWN_CLASS, DecodedPhoto
from indexer.cells.hierarchy import Hierarchy
from indexer.errors import BadImage, InputError
from indexer.jobs.job_folder import OK
from indexer.jobs.progress import track
from indexer.photos.photo import Photo
from indexer.photos.sources import PhotoSource
from training.config import Augmentation, DataConfig
from training.photos.batches import BatchPart, Share, Truth, ValidationPart, n_batches, places_of
from training.photos.holding_out import NameFilter
from training.photos.windows import cut_windows, draw_windows

log = logging.getLogger(__name__)

CPU = torch.device("cpu")
DECODED_AT_ONCE = 64  # photos, where there is no batch that says how many
_GIVEN_UP_AFTER = 1024  # photos of which none can be read, since a pass over them began
_LOOKED_AT = 4096  # photos whose cells are found in one go

Placed = tuple[Photo, np.ndarray]  # a photo and its cells (L,) int64


@dataclass(frozen=True, slots=True, eq=False)
class UncutBatch:
    """Decoded photos before windows are drawn from them."""

    names: Sequence[str]  # N
    images: Sequence[torch.Tensor]  # N, each (3, h, w) uint8
    class_maps: Sequence[torch.Tensor] | None  # N, each (h, w) uint8; None for an encoder without fusion
    targets: torch.Tensor  # (N, L) int64
    lat_deg: np.ndarray  # (N,) float64
    lng_deg: np.ndarray  # (N,) float64


class PhotoStream:
    """Photos of a source; `training.photos.batches.Photos`, and `ValidationPhotos`.

    Args:
        source: with coordinates.
        hierarchy: whose cells.
        encoder: for which photos are read and cut.
        config: how many processes decode, and how photos are shuffled.
        cache: class maps of the photos that bring none of their own.
        chosen: says of names which photos are wanted; None wants all.
        needs_cell: photos without a cell are left out; to count the others, all names are gone through once.
        windows: how photos to learn from are cut; None: always in their middle, as those to measure with.
        device: where photos are cut.
    """

    def __init__(
        self,
        source: PhotoSource,
        hierarchy: Hierarchy,
        *,
        encoder: GeoEncoder,
        config: DataConfig,
        cache: SegmentationCache | None = None,
        chosen: NameFilter | None = None,
        needs_cell: bool = False,
        windows: Augmentation | None = None,
        device: torch.device = CPU,
    ) -> None:
        self._source, self._hierarchy, self._config, self._device = source, hierarchy, config, device
        self.windows = windows or Augmentation()
        # Windows are cut from an image as large as the ten crops of an evaluation are.
        crops: CropName = "ten" if self.windows.random_crop else "one"
        self._read = reader_of(encoder, MapSource(cache), crops=crops, options=ReadOptions())
        self._chosen, self._needs_cell = chosen, needs_cell
        self.location, self.preprocessing = source.location, encoder.preprocessing
        self.n_levels, self.has_maps = len(hierarchy.levels), self._read.classes is not None
        self._shown: set[str] = set()  # kinds of failures
        self._n_photos: int | None = None

    def __len__(self) -> int:
        if self._n_photos is None:
            with track("looking through the photos", self._source.n_photos) as advance:
                self._n_photos = sum(len(found) for found in self._wanted(iter(self._source), advance))
        return self._n_photos

    def has_any(self) -> bool:
        """Whether there is one at all; unlike the number, that is soon known."""
        return any(self._wanted(iter(self._source)))

    def only(self, photos: Sequence[Photo]) -> "PhotoStream":
        """The same of these photos alone."""
        other = copy.copy(self)
        other._source = replace(
            self._source, n_photos=len(photos), photos=lambda: iter(photos), containers=lambda: iter(()), photos_of=None
        )
        other._n_photos = None
        return other

    def read(self, photo: Photo) -> DecodedPhoto | BadImage:
        """One photo as it is decoded before it is cut, or what is wrong with it."""
        return self._read(photo)

    def parts(self, batch_size: int, share: Share, *, epoch: int, seed: int, skip: int) -> Iterator[BatchPart]:
        """As `training.photos.batches.Photos` says. A photo that cannot be decoded has no cell, yet it counts."""
        rng = np.random.default_rng([seed, 0, epoch])
        batch_size = min(batch_size, len(self))
        placed = itertools.chain.from_iterable(self._wanted(self._source.shuffled_shards(rng)))
        shuffled = shuffle(placed, rng, photos=self._config.shuffle_photos, n_bytes=self._config.shuffle_mb << 20)
        slices = share.slices(batch_size)
        # The cells and the places of each part's batch, and where it lies in it.
        coming: deque[tuple[torch.Tensor, torch.Tensor, slice]] = deque()

        def photos() -> Iterator[list[Photo]]:
            for number in range(n_batches(len(self), batch_size)):
                batch = list(itertools.islice(shuffled, batch_size))
                if number < skip:
                    continue
                everyone = torch.from_numpy(np.stack([cells for _, cells in batch]))
                lat, lng = (np.array([getattr(photo, name) for photo, _ in batch]) for name in ("lat_deg", "lng_deg"))
                places = places_of(lat, lng)
                for part in slices:
                    coming.append((everyone, places, part))
                    yield [photo for photo, _ in batch[part]]

        for decoded in self._decoded(photos()):
            everyone, places, part = coming.popleft()
            pixels, maps = self._cut(decoded, seed=seed, epoch=epoch)
            targets = torch.full_like(everyone[part], -1)
            targets[decoded.rows] = everyone[part][decoded.rows]
            truth = Truth(targets, everyone, places, part.start)
            yield BatchPart(pixels, maps, truth, ends_batch=part is slices[-1])

    def validation_parts(
        self, batch_size: int, share: Share, *, advance: Callable[[int], None] = lambda photos: None
    ) -> Iterator[ValidationPart]:
        """As `training.photos.batches.ValidationPhotos` says, without photos that cannot be decoded.

        advance: called with the number of photos, decoded or not, that have been looked at since the last call.
        """
        for decoded, cells in self._in_order(batch_size, share, advance):
            rows = decoded.rows
            pixels, maps = self._middles(decoded)
            places = decoded.lat_deg[rows], decoded.lng_deg[rows]
            truth = Truth.alone(torch.from_numpy(cells[rows]), *places)
            yield ValidationPart(pixels, maps, truth, *map(torch.from_numpy, places))

    def uncut(self, *, advance: Callable[[int], None] = lambda photos: None) -> Iterator[UncutBatch]:
        """Every photo once, in order, as windows are drawn from it; those that cannot be decoded are left out.

        advance: as of `validation_parts`.
        """
        for decoded, cells in self._in_order(DECODED_AT_ONCE, Share(), advance):
            rows = decoded.rows
            images, maps = self._images(decoded)
            names, targets = [decoded.name[row] for row in rows], torch.from_numpy(cells[rows])
            yield UncutBatch(names, images, maps, targets, decoded.lat_deg[rows], decoded.lng_deg[rows])

    def _in_order(
        self, batch_size: int, share: Share, advance: Callable[[int], None]
    ) -> Iterator[tuple[DecodedBatch, np.ndarray]]:
        """A share of the photos with the cells of each, (b, L) int64; batches of which none can be decoded are not."""
        placed = itertools.chain.from_iterable(self._wanted(iter(self._source)))
        mine = itertools.islice(placed, share.rank, None, share.processes)
        coming: deque[np.ndarray] = deque()

        def photos() -> Iterator[list[Photo]]:
            while batch := list(itertools.islice(mine, batch_size)):
                coming.append(np.stack([cells for _, cells in batch]))
                yield [photo for photo, _ in batch]

        for decoded in self._decoded(photos()):
            cells = coming.popleft()
            if decoded.rows:
                yield decoded, cells
            advance(len(decoded))

    def _wanted(
        self, photos: Iterator[Photo], advance: Callable[[int], None] = lambda photos: None
    ) -> Iterator[list[Placed]]:
        """Those that are wanted, with their cells, a few thousand at a time."""
        for n_seen, block in wanted_photos(photos, self._hierarchy, self._chosen, needs_cell=self._needs_cell):
            yield block
            advance(n_seen)

    def _decoded(self, photos: Iterable[list[Photo]]) -> Iterator[DecodedBatch]:
        """Raises InputError where of the first photos, or of all if they are fewer, none can be read.

        And where of those to learn from none has a map. Only of a stream, which is shuffled, the first tell of all.
        """
        pin = self._device.type == "cuda"
        batches = decoded_batches(photos, self._read, workers=self._config.workers, pin=pin)
        first_failure = ""
        failed, n_seen, without_map = Counter[str](), 0, 0
        wants_maps = self.has_maps and self._needs_cell
        with closing(batches):
            try:
                for batch in batches:
                    n_seen += len(batch)
                    for name, status, reason in zip(batch.name, batch.status, batch.reason, strict=True):
                        if status != OK:
                            self._tell(name, status, reason)
                            failed[status] += 1
                            first_failure = first_failure or f"{name}: {status}: {reason}"
                    if wants_maps:
                        without_map += sum(class_map is None for class_map in batch.class_maps())
                    useless = failed.total() + (without_map if self._config.stream else 0)
                    if useless == n_seen >= _GIVEN_UP_AFTER:
                        break
                    yield batch.to(self._device)
            finally:  # who iterates may ask for no more than the last batch
                if failed:
                    kinds = ", ".join(f"{n:,} {status}" for status, n in failed.most_common())
                    log.warning(
                        "%s: %d of %d photos of this pass could not be read and were left out (%s)",
                        self.location,
                        failed.total(),
                        n_seen,
                        kinds,
                    )
                if without_map:
                    log.info("%s: %d of %d photos of this pass have no class map", self.location, without_map, n_seen)
        if without_map and failed.total() + without_map == n_seen:
            raise InputError(
                f"{self.location}: of the first {n_seen:,} photos none has a class map, so that nothing can be learned "
                "of maps. Is data.segmentation_cache of other photos? To do without maps, leave out model.fusion."
            )
        if n_seen and failed.total() == n_seen:
            raise InputError(
                f"{self.location}: of the first {n_seen:,} photos none can be read. The first: {first_failure}."
            )

    def _cut(self, batch: DecodedBatch, *, seed: int, epoch: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Crops (b, 3, S, S) and maps (b, S, S) of all photos of a batch; zeros where there is no photo."""
        edge, rows = self.preprocessing.crop, batch.rows
        pixels = batch.buffer.new_zeros((len(batch), 3, edge, edge))
        maps = batch.buffer.new_zeros((len(batch), edge, edge)) if self.has_maps else None
        if rows and not self.windows.draws_windows:
            pixels[rows], cut = self._middles(batch)
            if maps is not None and cut is not None:
                maps[rows] = cut
        elif rows:
            windows = draw_windows([batch.name[row] for row in rows], self.windows, seed=seed, epoch=epoch)
            images, whole = self._images(batch)
            pixels[rows] = cut_windows(images, windows, edge)
            if maps is not None and whole is not None:
                maps[rows] = cut_windows(whole, windows, edge)
        return pixels, maps

    def _middles(self, batch: DecodedBatch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The middle crops (n, 3, S, S) of the photos of a batch that have pixels, and of their maps (n, S, S)."""
        pixels = crop_photos(batch.pixels(), self.preprocessing, crops="one")[:, 0]
        if not self.has_maps:
            return pixels, None
        return pixels, crop_maps(batch.maps_to_cut(), batch.shapes, self.preprocessing, crops="one")[:, 0]

    def _images(self, batch: DecodedBatch) -> tuple[list[torch.Tensor], list[torch.Tensor] | None]:
        """What windows are cut from: (3, h, w) of each photo that has pixels, and (h, w) of its map."""
        if not self.windows.random_crop:  # the middle, mirrored or not
            pixels, maps = self._middles(batch)
            return list(pixels), None if maps is None else list(maps)
        resizing = self.preprocessing.resizing("ten")
        images = _by_row(resized_photos(batch.pixels(), resizing))
        if not self.has_maps:
            return images, None
        return images, [each[0] for each in _by_row(resized_maps(batch.maps_to_cut(), batch.shapes, resizing))]

    def _tell(self, name: str, status: str, reason: str) -> None:
        """Tell of a photo that cannot be used, if it is the first of its kind."""
        if status == UNKNOWN_CLASS:  # made for another table, so that none of the maps can be trusted
            raise InputError(
                f"{self.location}: {name}: {reason}. Its maps are of other classes: set model.fusion.classes to "
                "how many there are, or make them with another model (python -m encoder segment)."
            )
        if status not in self._shown:
            log.warning("%s: %s, %s (left out; more of this kind are not shown)", name, status, reason)
            self._shown.add(status)


def _by_row(groups: Iterable[tuple[list[int], torch.Tensor]]) -> list[torch.Tensor]:
    """The images (C, h, w) of all groups, in the order of their rows."""
    found = {row: image for rows, images in groups for row, image in zip(rows, images, strict=True)}
    return [found[row] for row in range(len(found))]


def wanted_photos(
    photos: Iterable[Photo], hierarchy: Hierarchy | None, chosen: NameFilter | None, *, needs_cell: bool
) -> Iterator[tuple[int, list[Placed]]]:
    """Those that are wanted, with their cells, a few thousand at a time; and of how many they are.

    hierarchy: None where there is none; photos then have cells of no level, and none is left out for want of one.
    chosen, needs_cell: as PhotoStream has them.
    """
    left = iter(photos)
    while block := list(itertools.islice(left, _LOOKED_AT)):
        lat, lng = (np.array([getattr(photo, name) for photo in block]) for name in ("lat_deg", "lng_deg"))
        cells = np.empty((len(block), 0), np.int64) if hierarchy is None else hierarchy.locate(lat, lng)
        needed = needs_cell and hierarchy is not None
        wanted = (cells >= 0).any(axis=1) if needed else np.ones(len(block), bool)
        if chosen is not None:
            wanted &= chosen([photo.name for photo in block])
        yield len(block), [(block[row], cells[row]) for row in np.flatnonzero(wanted)]


def shuffle(placed: Iterator[Placed], rng: np.random.Generator, *, photos: int, n_bytes: int) -> Iterator[Placed]:
    """Each photo once, the next one drawn from a buffer of those that follow.

    photos: in the buffer, at most. n_bytes: of photos that came as bytes, in the buffer, at most (but for one).
    """
    buffer, held = list[Placed](), 0
    for each in placed:
        buffer.append(each)
        held += _size(each)
        while len(buffer) > photos or held > n_bytes:
            drawn = _drawn(buffer, rng)
            held -= _size(drawn)
            yield drawn
    while buffer:
        yield _drawn(buffer, rng)


def _drawn(buffer: list[Placed], rng: np.random.Generator) -> Placed:
    """One of them at random, which is taken out."""
    row = int(rng.integers(len(buffer)))
    buffer[row], buffer[-1] = buffer[-1], buffer[row]
    return buffer.pop()


def _size(placed: Placed) -> int:
    photo = placed[0]
    return sum(len(data) for data in (photo.data, photo.class_map) if isinstance(data, bytes))
