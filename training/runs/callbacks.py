"""What happens around the steps of a run: progress is shown, the run is kept, and it ends when it should.

All that decides anything lies in the module's `epochs` and `batches_done`, which go on with a run. So a run that was
killed any number of times, or whose folder was moved, keeps the same best epoch and ends after the same one.
"""

import contextlib
import logging
import pickle
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from indexer.disk.artifact import explain_full, place_file, remove_leftovers
from indexer.errors import ArtifactError
from indexer.jobs.stopping import StopSignal, stopping
from training.runs.module import GeoModule

log = logging.getLogger(__name__)

_DAMAGED = (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError, FileNotFoundError)


class Reporter(lightning.Callback):
    """Moves the progress bar with each part of a batch and says how each epoch went."""

    def __init__(self) -> None:
        self.advance: Callable[[int], None] = lambda parts: None

    def on_train_start(self, trainer: lightning.Trainer, module: GeoModule) -> None:
        """Begin where the run stands."""
        done = len(module.epochs) * int(trainer.num_training_batches) + module.batches_done * module.share.parts
        if done:  # of a run that goes on
            self.advance(done)

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """One part more."""
        self.advance(1)

    def on_validation_end(self, trainer: lightning.Trainer, module: GeoModule) -> None:
        """Log what the epoch came to."""
        if trainer.global_rank:
            return
        epoch, n_epochs = module.epochs[-1], module.config.trainer.max_epochs
        within = epoch.validation.within
        log.info(
            "epoch %d of %d: loss %.3f, validation loss %.3f, median %.0f km, within 25 km %.1f %%, 200 km %.1f %%, "
            "750 km %.1f %%, %s%.0f s, %.0f s left",
            epoch.epoch + 1,
            n_epochs,
            epoch.loss,
            epoch.validation_loss,
            epoch.validation.median_km,
            within["25"],
            within["200"],
            within["750"],
            f"temperatures {' '.join(f'{tau:.3f}' for tau in epoch.temperatures)}, " if epoch.temperatures else "",
            epoch.seconds,
            epoch.seconds / (epoch.epoch + 1) * (n_epochs - epoch.epoch - 1),
        )


class BestEpoch(lightning.Callback):
    """Keeps the weights of the best epoch, and ends a run that finds no better one.

    Lightning's ModelCheckpoint and EarlyStopping keep what they know to themselves, and learn of an epoch only after
    the run was written where it goes on: a run that is killed right then has forgotten how good that epoch was.

    file: where the weights go; None keeps none.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file

    def on_train_start(self, trainer: lightning.Trainer, module: GeoModule) -> None:
        """A run that was killed between its last epoch and its end has nothing left to do."""
        trainer.should_stop |= self._is_over(module)

    def on_validation_end(self, trainer: lightning.Trainer, module: GeoModule) -> None:
        """Keep the weights if the epoch was the best one, and end the run if too many have not been."""
        if self._file is not None and best_epoch(module) == len(module.epochs) - 1:
            trainer.save_checkpoint(self._file, weights_only=True)
        trainer.should_stop |= self._is_over(module)

    def _is_over(self, module: GeoModule) -> bool:
        patience = module.config.trainer.patience
        return patience is not None and len(module.epochs) - 1 - best_epoch(module) >= patience


class Resumable(lightning.Callback):
    """Writes where a run goes on, to a file: every so many steps, at the end of each epoch, and on SIGTERM."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stop = StopSignal()
        self._kept_to_end = False
        self._hearing = contextlib.ExitStack()

    def on_train_start(self, trainer: lightning.Trainer, module: GeoModule) -> None:
        """Hear of SIGTERM, in place of Lightning's own handler, which ends the process with 0 and keeps no step."""
        if threading.current_thread() is threading.main_thread():  # in others Lightning has set none
            # A second one ends the process. What was before Lightning came, it brings back itself.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._stop = self._hearing.enter_context(stopping())

    def on_train_batch_start(self, trainer: lightning.Trainer, module: GeoModule, *args: Any) -> None:
        """End a run that SIGTERM stopped and that is kept: not before here, when the logs have the last batch, too."""
        if self._kept_to_end:
            self._stop.check(self._file.parent, kept="and kept after the last batch")

    def on_train_batch_end(self, trainer: lightning.Trainer, module: GeoModule, *args: Any) -> None:
        """After so many batches, or where SIGTERM came; an epoch's last batch is kept at its end."""
        if trainer.is_last_batch or not module.between_batches:
            return
        self._kept_to_end = self._must_end(trainer)
        if self._kept_to_end or module.batches_done % module.config.trainer.checkpoint_every_n_steps == 0:
            trainer.save_checkpoint(self._file)

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: GeoModule) -> None:
        """When everything about the epoch is known."""
        trainer.save_checkpoint(self._file)
        self._kept_to_end = self._must_end(trainer)

    def on_train_end(self, *args: Any) -> None:
        """Hear no more."""
        self._hearing.close()

    on_exception = on_train_end

    def _must_end(self, trainer: lightning.Trainer) -> bool:
        """Whether SIGTERM came to any process of the run: all must end after the same step."""
        if trainer.world_size == 1:
            return self._stop.is_set
        stop = torch.tensor(float(self._stop.is_set), device=trainer.strategy.root_device)
        self._stop.is_set = bool(trainer.strategy.reduce(stop, reduce_op="sum"))
        return self._stop.is_set


class CheckpointFiles(TorchCheckpointIO):
    """How Lightning reads and writes what a run goes on with: a kill leaves the file before, or the new one.

    Its own way is to write to the system's temporary folder first; where that lies on another disk, what follows is a
    copy, which a kill cuts short, and the file before it is gone.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Raises WorkError where the disk is full; the file before stays."""
        target = Path(path)
        with explain_full(target, kept="What the run had kept before is still there"):
            remove_leftovers(target.parent, target.name)
            with place_file(target) as aside:
                torch.save(checkpoint, aside)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Nothing that could run code is loaded. Raises ArtifactError where it cannot be."""
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except _DAMAGED as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise ArtifactError(
                f"{path}: damaged or missing ({reason}). Remove resume.ckpt and best.ckpt beside it, and the run "
                "begins anew; its logs stay."
            ) from error


def best_epoch(module: GeoModule) -> int:
    """Number of the best epoch by `trainer.monitor`, the earliest of equals; -1 before there is any."""
    by_loss = module.config.trainer.monitor == "loss"

    def cost(number: int) -> float:
        epoch = module.epochs[number]
        return epoch.validation_loss if by_loss else -epoch.validation.within["25"]

    return min(range(len(module.epochs)), key=cost, default=-1)
