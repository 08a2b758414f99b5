"""The model under training: the encoder, and beside it a head that says where its vectors point (paper III-C)."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import lightning
import numpy as np
import torch

from encoder.models.model import GeoEncoder
from encoder.photos.crops import normalise
from indexer.earth.geo import Accuracy, accuracy, haversine_km
from indexer.errors import WorkError
from training.cells.heads import Head, best_rows, weight_groups
from training.config import FitConfig
from training.photos.augment import augment, draw_changes
from training.photos.batches import BatchPart, Photos, Share, ValidationPart, ValidationPhotos, n_batches

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one pass over the photos came to."""

    epoch: int
    loss: float  # mean over the epoch's batches
    seconds: float  # since training began, without the time between a kill and the next start
    temperatures: Sequence[float]  # of the head: one per level of geocells
    validation_loss: float  # of all validation photos (`Head.validation_sums`)
    validation: Accuracy


class GeoModule(lightning.LightningModule):
    """Learns vectors of photos and a head for them together. `epochs` fills as training goes.

    With the epochs, the batches done since, and the seed, what comes next is known: so a run goes on anywhere.
    """

    def __init__(self, encoder: GeoEncoder, head: Head, *, config: FitConfig, share: Share | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.config = config
        self.share = share or Share()
        self.epochs: list[Epoch] = []
        self.batches_done = 0  # of the epoch under way
        self._loss_sum = 0.0  # over them
        self._changes: torch.Tensor | None = None  # of the batch under way
        self._answers: list[tuple[np.ndarray, np.ndarray]] = []  # of each validation part: errors in km, loss sums
        self._rows: torch.Tensor | None = None  # of the head, during validation
        self._started = time.perf_counter()

    @property
    def between_batches(self) -> bool:
        """Whether no part of a batch is still to come."""
        return self._changes is None

    def training_step(self, part: BatchPart, number: int) -> torch.Tensor:
        """Loss of a part of a batch, so scaled that what Lightning makes of all parts is the loss of the batch.

        It averages gradients over processes and divides losses by the number of parts; ours are shares of a sum.
        """
        if self._changes is None:
            seed = np.random.SeedSequence([self.config.seed_everything, 1, len(self.epochs), self.batches_done])
            generator = torch.Generator().manual_seed(int(seed.generate_state(1, np.uint64)[0] >> np.uint64(1)))
            self._changes = draw_changes(len(part.truth.everyone), generator)
        mine = self._changes[part.truth.first : part.truth.first + len(part.pixels)]
        fusion = self.encoder.fusion_config
        changed, moved = augment(
            part.pixels.float(),
            part.class_maps,
            self.config.data.augmentation,
            mine,
            leave_out=0.0 if fusion is None else fusion.leave_out,
        )
        vectors = self.encoder.unscaled(normalise(changed, self.encoder.preprocessing), moved)
        with torch.autocast(vectors.device.type, enabled=False):  # small differences of large logits: float32
            loss = self.head.loss(vectors, part.truth)
        if not torch.isfinite(loss):
            raise self._diverged(f"The loss is {loss.item()}", f"batch {self.batches_done + 1}")
        self._loss_sum += float(loss.detach())
        scaled = loss * self.share.processes * self.share.parts
        self.log("train_loss", scaled.detach(), on_step=True, on_epoch=False)
        if part.ends_batch:
            self.head.end_batch(part.truth)
            self._changes = None
            self.batches_done += 1
        return scaled

    def on_train_batch_end(self, *args: Any) -> None:
        """After a step, or a part of one."""
        self.head.end_step()

    def on_train_start(self) -> None:
        """Start the clock of the epochs, where it stood."""
        self._started = time.perf_counter() - (self.epochs[-1].seconds if self.epochs else 0.0)

    def on_validation_epoch_start(self) -> None:
        """What the photos are compared with, once for all of them."""
        self._rows = self.head.rows()
        self._answers = []

    def validation_step(self, part: ValidationPart, number: int) -> None:
        """Errors and loss of a part of the validation photos."""
        assert self._rows is not None, "set when validation begins"
        vectors = self.encoder.unscaled(normalise(part.pixels, self.encoder.preprocessing), part.class_maps)
        if not torch.isfinite(vectors).all():  # the last step of an epoch is followed by no loss that would tell
            raise self._diverged("The encoder's vectors are no numbers", "after its last batch")
        lat, lng = part.lat_deg.cpu().numpy(), part.lng_deg.cpu().numpy()
        with torch.autocast(vectors.device.type, enabled=False):  # cells that are hardly apart: float32
            best = best_rows(self.head.queries(vectors), self._rows).cpu().numpy()
            sums = self.head.validation_sums(vectors, part.truth)
        distance = haversine_km(lat, lng, self.head.lat_deg[best], self.head.lng_deg[best])
        self._answers.append((distance, sums.double().cpu().numpy()))

    def on_validation_epoch_end(self) -> None:
        """How far the answers to the validation photos are from the truth, over all processes."""
        self._rows = None
        distances, sums = zip(*(part for answers in self._everyones(self._answers) for part in answers), strict=True)
        total, n = np.sum(sums, axis=0).T
        validation_loss = float((total / np.maximum(n, 1)).sum())
        epoch = Epoch(
            len(self.epochs),
            sum(self._everyones(self._loss_sum)) / max(1, self.batches_done),
            time.perf_counter() - self._started,
            self.head.temperatures.tolist(),
            validation_loss,
            accuracy(np.concatenate(distances)),
        )
        self.epochs.append(epoch)
        self.log_dict(
            {
                "epoch_loss": epoch.loss,
                "validation_loss": validation_loss,
                "validation_median_km": epoch.validation.median_km,
                **{f"validation_within_{limit}_km": share for limit, share in epoch.validation.within.items()},
                **{f"temperature_{level}": tau for level, tau in enumerate(epoch.temperatures)},
            },
            sync_dist=self.share.processes > 1,  # all have the same; Lightning would ask
        )
        self._loss_sum, self.batches_done = 0.0, 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What a run needs to go on that is no weight: plain values, so that nothing but these need be loaded.

        Called in every process; what one of them writes is of all.
        """
        checkpoint["geosurge"] = {
            "position": {"epoch": len(self.epochs), "batches": self.batches_done},
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "loss_sum": sum(self._everyones(self._loss_sum)),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The inverse."""
        kept = checkpoint["geosurge"]
        self.batches_done = kept["position"]["batches"]
        self.epochs = [Epoch(**epoch | {"validation": Accuracy(**epoch["validation"])}) for epoch in kept["epochs"]]
        self._loss_sum = 0.0 if self.share.rank else kept["loss_sum"]  # the sum of all: once

    def configure_optimizers(self) -> Any:
        """AdamW; the head says of its weights which decay."""
        options, schedule = self.config.optimizer, self.config.lr_scheduler
        of_encoder = weight_groups(self.encoder, lr=options.lr, weight_decay=options.weight_decay)
        optimizer = torch.optim.AdamW([*of_encoder, *self.head.groups(options)])
        if schedule.name == "halving":
            halving = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": halving, "interval": "epoch"}}
        total = int(self.trainer.estimated_stepping_batches)
        cycle = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step, total, schedule.warm_up))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

    def _everyones(self, mine: _T) -> list[_T]:
        """The same of every process, in the order of their ranks."""
        if self.share.processes == 1:
            return [mine]
        gathered: list[Any] = [None] * self.share.processes
        torch.distributed.all_gather_object(gathered, mine)
        return gathered

    def _diverged(self, what: str, where: str) -> WorkError:
        return WorkError(
            f"{what} in epoch {len(self.epochs) + 1}, {where}. Lower optimizer.lr, or set trainer.gradient_clip_val."
        )


@dataclass(frozen=True, slots=True, eq=False)
class TrainingLoader:
    """The parts of an epoch from wherever a run stands: what Lightning iterates over, once for each epoch."""

    photos: Photos
    module: GeoModule

    def __len__(self) -> int:
        return n_batches(len(self.photos), self.module.config.data.batch_size) * self.module.share.parts

    def __iter__(self) -> Iterator[BatchPart]:
        # A generator: the module is looked at when the first part is taken, not when Lightning prepares.
        run, config = self.module, self.module.config
        yield from self.photos.parts(
            config.data.batch_size, run.share, epoch=len(run.epochs), seed=config.seed_everything, skip=run.batches_done
        )

    # Lightning takes a loader with these for one that goes on in the middle of an epoch. The module does it here.
    def state_dict(self) -> dict[str, int]:
        """Nothing of its own."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Nothing of its own."""


@dataclass(frozen=True, slots=True, eq=False)
class ValidationLoader:
    """A share of the validation photos, anew for each validation."""

    photos: ValidationPhotos
    module: GeoModule

    def __iter__(self) -> Iterator[ValidationPart]:
        share = self.module.share
        return self.photos.validation_parts(share.photos_at_once(self.module.config.data.batch_size), share)


def one_cycle(step: int, total: int, warm_up: float) -> float:
    """Share of the full learning rate in a step: up in half a cosine from 1/25, then down in another to nearly 0.

    The numbers are those of torch's OneCycleLR (Smith and Topin 2019), which divides by zero where the warm-up is
    exactly one step, or all of them.
    """
    last, peak = total - 1, warm_up * total - 1
    start, end = 1 / 25, 1 / 25e4
    if step < peak:
        return start + (1 - start) * (1 - math.cos(math.pi * step / peak)) / 2
    if step >= last:
        return end if peak < last else 1.0
    return end + (1 - end) * (1 + math.cos(math.pi * (step - peak) / (last - peak))) / 2
