"""Training photos in memory: decoded once, kept as one uint8 array, served in batches by index."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from encoder.crops import Preprocessing, read_crop
from encoder.images import BadImage
from indexer.errors import InputError
from indexer.hierarchy import Hierarchy
from indexer.photos import PhotoTable, read_photos
from indexer.progress import track
from training.config import DataConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class PhotoSet:
    """Decoded photos with the cells they were taken in."""

    pixels: torch.Tensor  # (N, 3, H, W) uint8
    targets: torch.Tensor  # (N, L) int64, the cell of each level or -1
    lat_deg: np.ndarray  # (N,) float64
    lng_deg: np.ndarray  # (N,) float64

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass(slots=True)
class Batches:
    """Batches of a photo set; with a generator, every pass shuffles anew and drops the last, incomplete one."""

    photos: PhotoSet
    batch_size: int
    generator: torch.Generator | None = None

    def __len__(self) -> int:
        whole, rest = divmod(len(self.photos), self.batch_size)
        return whole + bool(rest and (self.generator is None or whole == 0))

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        n = len(self.photos)
        order = torch.arange(n) if self.generator is None else torch.randperm(n, generator=self.generator)
        for number in range(len(self)):
            rows = order[number * self.batch_size : (number + 1) * self.batch_size]
            yield self.photos.pixels[rows], self.photos.targets[rows]


def load_photos(config: DataConfig, split: str, *, hierarchy: Hierarchy, preprocessing: Preprocessing) -> PhotoSet:
    """Decode the photos of one split and find their cells. Photos that cannot be decoded are left out and counted.

    Raises:
        InputError: the table is unusable, too large for memory, or none of its photos can be read.
    """
    table = read_photos(config.photos, split=split, coordinates=True)
    size_gb = len(table) * 3 * preprocessing.crop**2 / 1e9
    if size_gb > config.memory_limit_gb:
        raise InputError(
            f"{config.photos}: split {split!r} takes {size_gb:.1f} GB decoded, more than data.memory_limit_gb = "
            f"{config.memory_limit_gb:g}. Raise that limit, or give fewer photos."
        )
    with track(f"decoding {split}", len(table)) as advance:
        pixels, problems = _decode_all(table, preprocessing, config.workers, advance)
    kept = np.array([row for row in range(len(table)) if row not in problems], np.int64)
    if problems:
        counts = ", ".join(f"{n} {code}" for code, n in Counter(p.code for p in problems.values()).items())
        row, problem = next(iter(problems.items()))
        log.warning(
            "%s: %d photos left out (%s), first %s: %s", split, len(problems), counts, table.photo[row], problem
        )
        if not kept.size:
            raise InputError(f"{config.photos}: no photo of split {split!r} can be read. The first: {problem}.")
        for row, old in enumerate(kept):  # in place: a second array could be more than the memory holds
            pixels[row] = pixels[old]
    lat, lng = table.lat_deg[kept], table.lng_deg[kept]
    return PhotoSet(pixels[: len(kept)], torch.from_numpy(hierarchy.locate(lat, lng)), lat, lng)


def _decode_all(
    table: PhotoTable, preprocessing: Preprocessing, workers: int, advance: Callable[[int], None]
) -> tuple[torch.Tensor, dict[int, BadImage]]:
    pixels = torch.zeros((len(table), 3, preprocessing.crop, preprocessing.crop), dtype=torch.uint8)
    rows = pixels.numpy()  # the same memory

    def load(row: int) -> BadImage | None:
        try:
            rows[row] = read_crop(table, row, preprocessing)
        except BadImage as problem:
            return problem
        return None

    problems = {}
    with ThreadPoolExecutor(workers) as pool:
        for row, problem in enumerate(pool.map(load, range(len(table)))):
            if problem is not None:
                problems[row] = problem
            advance(1)
    return pixels, problems
