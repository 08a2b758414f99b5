"""Batches, and how several processes and parts share one.

A batch is what one step of the optimiser sees. Its photos are divided into equal shares, one for each process, and each
share into equal parts that are worked one after another. Everybody draws the same photos from the seed and knows the
cells of all of them, so nothing has to be sent around but gradients. Of a stream everybody decodes only its own photos;
of photos in memory everybody holds all.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch

from indexer.earth.geo import unit_vectors


class Truth(NamedTuple):
    """Where photos of a batch were taken, and what a loss needs to know of the rest of it."""

    targets: torch.Tensor  # (b, L) int64, the cell of each level or -1
    everyone: torch.Tensor  # (B, L) int64, the same of the whole batch
    places: torch.Tensor  # (B, 3) float32, unit vectors towards where the photos of the whole batch were taken
    first: int  # where in the batch these photos begin

    @classmethod
    def alone(cls, targets: torch.Tensor, lat_deg: np.ndarray, lng_deg: np.ndarray) -> "Truth":
        """Of photos that are a batch of their own: cells (B, L), and places (B,) in degrees."""
        return cls(targets, targets, places_of(lat_deg, lng_deg), 0)


class BatchPart(NamedTuple):
    """Photos of a batch, ready for the model. A tuple, because Lightning moves the tensors of tuples."""

    pixels: torch.Tensor  # (b, 3, H, W) uint8
    class_maps: torch.Tensor | None  # (b, H, W) uint8; None for an encoder without fusion
    truth: Truth
    ends_batch: bool  # the last part that this process has of the batch


class ValidationPart(NamedTuple):
    """Validation photos that are worked at once."""

    pixels: torch.Tensor
    class_maps: torch.Tensor | None
    truth: Truth  # as if they were a batch of their own
    lat_deg: torch.Tensor  # (b,) float64
    lng_deg: torch.Tensor


@dataclass(frozen=True, slots=True)
class Share:
    """Which photos of every batch a process works on, and in how many parts."""

    rank: int = 0
    processes: int = 1
    parts: int = 1

    def photos_at_once(self, batch_size: int) -> int:
        """How many photos a part of a batch has: more may not fit in memory."""
        return batch_size // (self.processes * self.parts)

    def slices(self, batch_size: int) -> list[slice]:
        """Its parts of a batch; `batch_size` is a multiple of processes x parts."""
        size = self.photos_at_once(batch_size)
        first = self.rank * self.parts * size
        return [slice(first + part * size, first + (part + 1) * size) for part in range(self.parts)]


class Photos(Protocol):
    """Photos to learn from, however they are kept."""

    def __len__(self) -> int: ...

    def parts(self, batch_size: int, share: Share, *, epoch: int, seed: int, skip: int) -> Iterator[BatchPart]:
        """A share of every batch of an epoch, in an order drawn from seed and epoch.

        Without the first `skip` batches, and without an incomplete last one unless it is the only one.
        """


class ValidationPhotos(Protocol):
    """Photos to measure with, likewise."""

    def __len__(self) -> int: ...

    def validation_parts(self, batch_size: int, share: Share) -> Iterator[ValidationPart]:
        """Every photo once over all processes, in order."""


def shuffled_parts(
    targets: torch.Tensor, places: torch.Tensor, batch_size: int, share: Share, *, epoch: int, seed: int, skip: int
) -> Iterator[tuple[np.ndarray, Truth, bool]]:
    """What `Photos.parts` yields of photos in memory: the rows of each part, their truth, and whether it ends a batch.

    targets: (N, L) int64, of all photos. places: (N, 3) float32, of all photos.
    """
    order = np.random.default_rng([seed, 0, epoch]).permutation(len(targets))
    batch_size = min(batch_size, len(targets))
    slices = share.slices(batch_size)
    for number in range(skip, n_batches(len(targets), batch_size)):
        batch = order[number * batch_size : (number + 1) * batch_size]
        for part in slices:
            rows = batch[part]
            yield rows, Truth(targets[rows], targets[batch], places[batch], part.start), part is slices[-1]


def places_of(lat_deg: np.ndarray, lng_deg: np.ndarray) -> torch.Tensor:
    """Unit vectors towards places (N,): (N, 3) float32, which is right to half a metre."""
    return torch.from_numpy(unit_vectors(lat_deg, lng_deg)).float()


def n_batches(n_photos: int, batch_size: int) -> int:
    """Of an epoch: whole ones, or a single one of all photos where they are fewer."""
    return n_photos // batch_size or 1
