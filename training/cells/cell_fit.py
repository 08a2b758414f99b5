"""Geocells fitted to photo vectors that stay as they are: what training learns of the cells, without the encoder.

In: vectors of photos with their cells, those of held-out photos, geocells to begin with. Out: geocells. The objective
is the full softmax over each level's cells (`training.cells.losses`), and as the vectors are fixed, levels do not touch
one another: each is a softmax regression of its own, on the sphere.

What descends on the training photos are the cells' vectors alone. A level's temperature is the one that makes the
held-out photos likeliest: on photos the vectors were fitted to, ever smaller temperatures would look better. A level
stops when it has not become likelier for some epochs, and the best it had been is kept, the start included. Of millions
of photos an epoch takes a part, so that levels are looked at often enough to stop. How long to fit, and the
temperatures, can then be used once more, in a fit to all photos that leaves nobody out.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch

from indexer.errors import InputError, WorkError
from indexer.vectors.geocells import Geocells
from indexer.vectors.prototypes import Placed
from indexer.vectors.row_file import RowFile
from training.cells.losses import level_loss, stored_geocells
from training.config import RefitConfig
from training.photos.holding_out import name_keys

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
    temperatures: tuple[float, ...]  # the best for these photos at the start and after each epoch

    @property
    def temperature(self) -> float:
        """Of what was kept."""
        return self.temperatures[self.epoch]


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


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """Photos to fit geocells to, and others to judge them by."""

    start: Geocells  # to begin with
    photos: VectorFile
    held_out: Placed  # nothing is fitted to these but temperatures; like `photos`, their vectors are transformed


def fit_cells(
    folds: Sequence[Fold],
    *,
    config: RefitConfig,
    device: torch.device,
    advance: Callable[[int], None] = lambda steps: None,
) -> tuple[list[Geocells], list[LevelFit]]:
    """Fit the vectors and the temperatures of every level: geocells of each fold, and what became of each level.

    Several folds are fitted side by side, and what is fitted to held-out photos is fitted to those of all folds
    together: a level has the same temperatures in all of them, and stops in all of them at once. advance: called after
    each step with 1; an epoch has `steps_per_epoch` of each fold.

    Raises:
        WorkError: the loss stopped being a number.
        InputError: no held-out photo lies in a cell of a level.
    """
    levels = [_Level(number, folds, config, device) for number in range(len(folds[0].start.vectors))]
    orders = [_orders(len(fold.photos), config) for fold in folds]
    for epoch in range(1, config.epochs + 1):
        going = [level for level in levels if level.epochs_without_gain < config.patience]
        if not going:
            advance((config.epochs + 1 - epoch) * sum(steps_per_epoch(fold.photos, config) for fold in folds))
            break
        for number, (fold, order) in enumerate(zip(folds, orders, strict=True)):
            parts = [(level.cells[number], level.fit.temperatures[-1]) for level in going]
            _run_epoch(parts, fold.photos, next(order), epoch=epoch, config=config, advance=advance)
        for level in going:
            level.look(epoch)
    fits = [level.fit for level in levels]
    temperatures = np.array([fit.temperature for fit in fits])
    kept = zip(*(level.kept for level in levels), strict=True)
    return [
        replace(fold.start, vectors=[cells.cpu().numpy() for cells in of_fold], temperatures=temperatures)
        for fold, of_fold in zip(folds, kept, strict=True)
    ], fits


def fit_again(
    start: Geocells,
    photos: VectorFile,
    levels: Sequence[LevelFit],
    *,
    config: RefitConfig,
    device: torch.device,
    advance: Callable[[int], None] = lambda steps: None,
) -> Geocells:
    """The fit that `fit_cells` found best, to other photos, of which none are held out.

    levels: what it found: each level is fitted for as many epochs, each at the temperature it had there. advance: as
    there; the fit has as many epochs as the level with the most.

    Raises:
        WorkError: the loss stopped being a number.
    """
    cells = [_Cells(number, vectors, config, device) for number, vectors in enumerate(start.vectors)]
    orders = _orders(len(photos), config)
    for epoch in range(1, max(level.epoch for level in levels) + 1):
        going = [(of, fit.temperatures[epoch - 1]) for of, fit in zip(cells, levels, strict=True) if epoch <= fit.epoch]
        _run_epoch(going, photos, next(orders), epoch=epoch, config=config, advance=advance)
    return replace(
        start,
        vectors=[of.unit().cpu().numpy() for of in cells],
        temperatures=np.array([level.temperature for level in levels]),
    )


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


class _Cells:
    """The cells of one level while they are fitted to some photos."""

    def __init__(self, number: int, vectors: np.ndarray, config: RefitConfig, device: torch.device) -> None:
        self.number = number
        self._vectors = torch.nn.Parameter(torch.from_numpy(vectors.copy()).to(device))
        self._optimizer = torch.optim.Adam([self._vectors], lr=config.learning_rate)
        self._schedule = torch.optim.lr_scheduler.ExponentialLR(self._optimizer, config.decay)

    def unit(self) -> torch.Tensor:
        """Their vectors as they are now: (N, D) float32, unit rows."""
        return stored_geocells(self._vectors)

    def step(self, vectors: torch.Tensor, targets: torch.Tensor, temperature: float, *, where: str) -> None:
        at = torch.tensor(temperature, device=vectors.device)
        loss = level_loss(vectors, self._vectors, at, targets, negatives="all")
        if not torch.isfinite(loss):
            raise WorkError(f"The loss of level {self.number} is {loss.item()} in {where}. Lower `learning_rate`.")
        self._optimizer.zero_grad()
        torch.autograd.backward([loss])
        self._optimizer.step()

    def end_epoch(self) -> None:
        self._schedule.step()


def _run_epoch(
    going: Sequence[tuple[_Cells, float]],
    photos: VectorFile,
    order: np.ndarray,
    *,
    epoch: int,
    config: RefitConfig,
    advance: Callable[[int], None],
) -> None:
    """Fit levels, each at its temperature, to photos (n,) in this order."""
    device = going[0][0].unit().device
    for step in range(steps_per_epoch(photos, config)):
        rows = np.sort(order[step * config.batch_size : (step + 1) * config.batch_size])
        vectors = torch.from_numpy(photos.rows(rows)).to(device)
        targets = torch.from_numpy(photos.cells[rows].astype(np.int64)).to(device)
        for cells, temperature in going:
            cells.step(vectors, targets[:, cells.number], temperature, where=f"epoch {epoch}, step {step + 1}")
        advance(1)
    for cells, _ in going:
        cells.end_epoch()


class _Level:
    """One level under way, in every fold."""

    def __init__(self, number: int, folds: Sequence[Fold], config: RefitConfig, device: torch.device) -> None:
        self.cells = [_Cells(number, fold.start.vectors[number], config, device) for fold in folds]
        self._judges: list[tuple[torch.Tensor, torch.Tensor]] = []  # of each fold, vectors and the cells they lie in
        for fold in folds:
            here = fold.held_out.cells[:, number] >= 0
            seen, truth = fold.held_out.vectors[here], fold.held_out.cells[here, number]
            self._judges.append((torch.from_numpy(seen).to(device), torch.from_numpy(truth).to(device)))
        if not any(len(truth) for _, truth in self._judges):
            raise InputError(f"No held-out photo lies in a cell of level {number}. Raise `held_out`.")
        self.kept = [cells.unit() for cells in self.cells]
        temperature, loss = self._fitted_temperature(self.kept)
        self.fit = LevelFit(loss, temperature, loss, 0, (temperature,))
        self.epochs_without_gain = 0

    def look(self, epoch: int) -> None:
        """Measure on the held-out photos, and keep what is best."""
        cells = [of_fold.unit() for of_fold in self.cells]
        temperature, loss = self._fitted_temperature(cells, begin=self.fit.temperatures[-1])
        self.fit = replace(self.fit, temperatures=(*self.fit.temperatures, temperature))
        self.epochs_without_gain += 1
        if loss < self.fit.loss:
            self.kept, self.epochs_without_gain = cells, 0
            self.fit = replace(self.fit, loss=loss, epoch=epoch)

    def _fitted_temperature(self, cells: Sequence[torch.Tensor], begin: float = 0.07) -> tuple[float, float]:
        return fitted_temperature(
            [(*judges, of_fold) for judges, of_fold in zip(self._judges, cells, strict=True)], begin=begin
        )


_Judged = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # (H, D) vectors, (H,) their cells, (N, D) cells' vectors


def fitted_temperature(judged: Sequence[_Judged], *, begin: float = 0.07) -> tuple[float, float]:
    """The temperature that makes photos likeliest, and their mean loss at it.

    judged: of each fold, vectors of photos (H, D), the cell of each (H,) int64, and the vectors of the cells (N, D),
    unit rows. begin: a temperature near by saves passes over the photos; what comes out is the same but for rounding.
    The loss is convex in 1 / temperature; its derivatives are the mean and the variance of the similarities under the
    softmax (as in the temperature scaling of Guo et al. 2017), so Newton's method finds it in a few steps.
    """
    scale = 1 / begin
    for _ in range(_NEWTON_STEPS):
        loss, gradient, curvature = _loss_and_slopes(judged, scale)
        step = gradient / max(curvature, 1e-12)
        # Newton can overshoot where the softmax is flat: never past a third or thrice in one step.
        new = float(np.clip(np.clip(scale - step, scale / 3, 3 * scale), 1 / _WARMEST, 1 / _COLDEST))
        if abs(new - scale) <= 1e-4 * scale:  # here the loss is flat: it is that at the new scale to eight digits
            return 1 / new, loss
        scale = new
    return 1 / scale, _loss_and_slopes(judged, scale)[0]


def _loss_and_slopes(judged: Sequence[_Judged], scale: float) -> tuple[float, float, float]:
    """The mean loss, and its first and second derivative by 1 / temperature."""
    sums = np.zeros(3)
    for vectors, targets, cells in judged:
        for part, own in zip(torch.split(vectors, _BLOCK), torch.split(targets, _BLOCK), strict=True):
            similarity = part @ cells.T
            logs = (scale * similarity).log_softmax(dim=1)
            of_own, log_of_own = (each.gather(1, own[:, None])[:, 0] for each in (similarity, logs))
            share = logs.exp_()
            mean = (share * similarity).sum(dim=1)
            spread = (share * similarity**2).sum(dim=1) - mean**2
            sums += [float(each.double().sum()) for each in (-log_of_own, mean - of_own, spread)]
    loss, first, second = (sums / sum(len(vectors) for vectors, _, _ in judged)).tolist()
    return loss, first, second
