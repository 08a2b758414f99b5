"""Geocells fitted to photo vectors that stay as they are: what training learns of the cells, without the encoder.

In: vectors of photos with their cells, those of held-out photos, geocells to begin with. Out: geocells. The objective
is the full softmax over each level's cells (`training.losses`), and as the vectors are fixed, levels do not touch one
another: each is a softmax regression of its own, on the sphere.

What descends on the training photos are the cells' vectors alone. A level's temperature is the one that makes the
held-out photos likeliest: on photos the vectors were fitted to, ever smaller temperatures would look better. A level
stops when it has not become likelier for some epochs, and the best it had been is kept, the start included. Of millions
of photos an epoch takes a part, so that levels are looked at often enough to stop.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch

from indexer.errors import InputError, WorkError
from indexer.vectors.geocells import Geocells
from indexer.vectors.prototypes import Placed
from indexer.vectors.row_file import RowFile
from training.config import RefitConfig
from training.holding_out import name_keys
from training.losses import level_loss, stored_geocells

_STORED = np.dtype(np.float16)  # a cosine of unit vectors rounded to it errs by some 1e-5
_BLOCK = 1024  # held-out photos whose similarities are held at once: 90 MB against 21,673 cells
_NEWTON_STEPS = 20
_COLDEST, _WARMEST = 0.005, 1.0  # temperatures that can come out


@dataclass(frozen=True, slots=True)
class LevelFit:
    """What became of one level."""

    start_loss: float  # of the held-out photos at the start's vectors, at the best temperature for them
    start_temperature: float  # which is this
    loss: float  # of what was kept
    epoch: int  # that it comes from; 0 is the start


class VectorFile:
    """Vectors of photos as geocells meet them (transformed), and the cells the photos lie in, while they are fitted to.

    A context manager. 4.7 million vectors of 768 dims take 7.2 GB on disk, not in memory. The file has no name, so that
    it is gone when the process is, however that ends. Rows are numbered in the order of a digest of their photos'
    names: the same photos in other shards have the same numbers.

    Args:
        batches: photos, with vectors as the encoder made them.
        geocells: that they are to meet.
        beside: the file lies on this path's disk.
    """

    def __init__(self, batches: Iterable[Placed], geocells: Geocells, *, beside: Path) -> None:
        self._file = RowFile(geocells.width, _STORED, beside=beside)
        cells, keys = [np.empty((0, len(geocells.vectors)), np.int32)], [np.empty(0, np.uint64)]
        for placed in batches:
            self._file.add(geocells.compared(placed.vectors))
            cells.append(placed.cells.astype(np.int32))
            keys.append(name_keys(placed.photo.tolist()))
        self._order = np.argsort(np.concatenate(keys), kind="stable")
        self.cells = np.concatenate(cells)[self._order]  # (N, L), the cell of each level or -1

    def __len__(self) -> int:
        return len(self.cells)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """Vectors of these rows, in this order: (n, D) float32."""
        return self._file.rows(self._order[numbers])


def fit_cells(
    start: Geocells,
    photos: VectorFile,
    held_out: Placed,
    *,
    config: RefitConfig,
    device: torch.device,
    advance: Callable[[int], None] = lambda steps: None,
) -> tuple[Geocells, list[LevelFit]]:
    """Fit the vectors and the temperatures of every level.

    held_out: photos that nothing is fitted to but a temperature for each level; like `photos`, their vectors are
    transformed. advance: called after each step with 1; an epoch has `steps_per_epoch`.

    Raises:
        WorkError: the loss stopped being a number.
        InputError: no held-out photo lies in a cell of a level.
    """
    truth = torch.from_numpy(held_out.cells).to(device)
    seen = torch.from_numpy(held_out.vectors).to(device)
    levels = [_Level(number, vectors, seen, truth[:, number], config) for number, vectors in enumerate(start.vectors)]
    orders = _orders(len(photos), config)
    for epoch in range(1, config.epochs + 1):
        going = [level for level in levels if level.epochs_without_gain < config.patience]
        if not going:
            advance((config.epochs + 1 - epoch) * steps_per_epoch(photos, config))
            break
        order = next(orders)
        for step in range(steps_per_epoch(photos, config)):
            rows = np.sort(order[step * config.batch_size : (step + 1) * config.batch_size])
            vectors = torch.from_numpy(photos.rows(rows)).to(device)
            targets = torch.from_numpy(photos.cells[rows].astype(np.int64)).to(device)
            for level in going:
                level.step(vectors, targets[:, level.number], where=f"epoch {epoch}, step {step + 1}")
            advance(1)
        for level in going:
            level.look(epoch)
    geocells = replace(
        start,
        vectors=[level.kept.cpu().numpy() for level in levels],
        temperatures=np.array([level.kept_temperature for level in levels]),
    )
    return geocells, [level.fit for level in levels]


def steps_per_epoch(photos: VectorFile, config: RefitConfig) -> int:
    """Batches of an epoch; the last one may be short."""
    return -(-min(len(photos), config.epoch_photos) // config.batch_size)


def _orders(n_photos: int, config: RefitConfig) -> Iterator[np.ndarray]:
    """The photos of each epoch: all in a random order, or of too many the next ones of it, and then of another order.

    Each is (min(n_photos, epoch_photos),) int64.
    """
    generator, size = np.random.default_rng(config.seed), min(n_photos, config.epoch_photos)
    rest = np.empty(0, np.int64)
    while True:
        if len(rest) < size:
            rest = np.concatenate([rest, generator.permutation(n_photos)])
        yield rest[:size]
        rest = rest[size:]


class _Level:
    """One level under way."""

    def __init__(
        self, number: int, vectors: np.ndarray, seen: torch.Tensor, truth: torch.Tensor, config: RefitConfig
    ) -> None:
        self.number = number
        here = truth >= 0
        if not here.any():
            raise InputError(f"No held-out photo lies in a cell of level {number}. Raise `held_out`.")
        self._seen, self._truth = seen[here], truth[here]
        self._cells = torch.nn.Parameter(torch.from_numpy(vectors.copy()).to(seen.device))
        self._optimizer = torch.optim.Adam([self._cells], lr=config.learning_rate)
        self._schedule = torch.optim.lr_scheduler.ExponentialLR(self._optimizer, config.decay)
        self.kept = stored_geocells(self._cells)
        self.kept_temperature, loss = fitted_temperature(self._seen, self._truth, self.kept)
        self._temperature = torch.tensor(self.kept_temperature, device=seen.device)
        self.fit = LevelFit(loss, self.kept_temperature, loss, 0)
        self.epochs_without_gain = 0

    def step(self, vectors: torch.Tensor, targets: torch.Tensor, *, where: str) -> None:
        loss = level_loss(vectors, self._cells, self._temperature, targets, negatives="all")
        if not torch.isfinite(loss):
            raise WorkError(f"The loss of level {self.number} is {loss.item()} in {where}. Lower `learning_rate`.")
        self._optimizer.zero_grad()
        torch.autograd.backward([loss])
        self._optimizer.step()

    def look(self, epoch: int) -> None:
        """Measure on the held-out photos, and keep what is best."""
        cells = stored_geocells(self._cells)
        temperature, loss = fitted_temperature(self._seen, self._truth, cells, begin=float(self._temperature))
        self._temperature.fill_(temperature)
        self._schedule.step()
        self.epochs_without_gain += 1
        if loss < self.fit.loss:
            self.kept, self.kept_temperature, self.epochs_without_gain = cells, temperature, 0
            self.fit = replace(self.fit, loss=loss, epoch=epoch)


def fitted_temperature(
    vectors: torch.Tensor, targets: torch.Tensor, cells: torch.Tensor, *, begin: float = 0.07
) -> tuple[float, float]:
    """The temperature that makes photos likeliest, and their mean loss at it.

    vectors: (H, D). targets: (H,) int64, a cell each. cells: (N, D) unit rows. begin: a temperature near by saves
    passes over the photos; what comes out is the same but for rounding. The loss is convex in 1 / temperature; its
    derivatives are the mean and the variance of the similarities under the softmax (as in the temperature scaling of
    Guo et al. 2017), so Newton's method finds it in a few steps.
    """
    scale = 1 / begin
    for _ in range(_NEWTON_STEPS):
        loss, gradient, curvature = _loss_and_slopes(vectors, targets, cells, scale)
        step = gradient / max(curvature, 1e-12)
        # Newton can overshoot where the softmax is flat: never past a third or thrice in one step.
        new = float(np.clip(np.clip(scale - step, scale / 3, 3 * scale), 1 / _WARMEST, 1 / _COLDEST))
        if abs(new - scale) <= 1e-4 * scale:  # here the loss is flat: it is that at the new scale to eight digits
            return 1 / new, loss
        scale = new
    return 1 / scale, _loss_and_slopes(vectors, targets, cells, scale)[0]


def _loss_and_slopes(
    vectors: torch.Tensor, targets: torch.Tensor, cells: torch.Tensor, scale: float
) -> tuple[float, float, float]:
    """The mean loss, and its first and second derivative by 1 / temperature."""
    sums = np.zeros(3)
    for part, own in zip(torch.split(vectors, _BLOCK), torch.split(targets, _BLOCK), strict=True):
        similarity = part @ cells.T
        logs = (scale * similarity).log_softmax(dim=1)
        of_own, log_of_own = (each.gather(1, own[:, None])[:, 0] for each in (similarity, logs))
        share = logs.exp_()
        mean = (share * similarity).sum(dim=1)
        spread = (share * similarity**2).sum(dim=1) - mean**2
        sums += [float(each.double().sum()) for each in (-log_of_own, mean - of_own, spread)]
    loss, first, second = (sums / len(vectors)).tolist()
    return loss, first, second
