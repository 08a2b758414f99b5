"""The model under training: the encoder, the geocells of every level, one temperature per level (paper III-C)."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import lightning
import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

from encoder.crops import normalise
from encoder.model import GeoEncoder
from indexer.errors import WorkError
from indexer.geo import Accuracy, accuracy, haversine_km
from indexer.geocells import Geocells
from indexer.hierarchy import Hierarchy
from training.augment import Changes, augment
from training.batches import Part, Position, Share, ValidationPart
from training.config import FitConfig
from training.losses import hierarchy_loss

# CLIP's own limits (Radford et al. 2021, section 2.5): 0.07 to begin with, and never a scale above 100.
INITIAL_TEMPERATURE = 0.07
SMALLEST_TEMPERATURE = 0.01

VALIDATION_LOSS = "validation_loss"  # as the logs call it


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one pass over the photos came to."""

    epoch: int
    loss: float  # mean over the epoch's batches
    seconds: float  # since training began, without the time between a kill and the next start
    temperatures: Sequence[float]  # one per level
    validation_loss: float  # mean over the validation photos, in batches of the same size
    validation: Accuracy


@dataclass(slots=True)
class _Validation:
    """Sums over the validation photos of one process so far."""

    distance_km: list[np.ndarray]
    loss: float = 0.0


class GeoModule(lightning.LightningModule):
    """Learns vectors of photos and of cells together. `epochs` fills as training goes."""

    def __init__(
        self,
        encoder: GeoEncoder,
        hierarchy: Hierarchy,
        *,
        config: FitConfig,
        share: Share | None = None,
        position: Position | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.hierarchy = hierarchy
        self.config = config
        self.share = share or Share()
        self.position = position or Position()
        width = encoder.config.projection_dim
        generator = torch.Generator().manual_seed(config.seed)
        # Of length 1: an optimiser's step turns a longer vector less, and only its direction counts.
        self.geocells = nn.ParameterList(
            nn.Parameter(normalize(torch.randn(len(level), width, generator=generator), dim=-1))
            for level in hierarchy.levels
        )
        levels = len(hierarchy.levels)
        self.log_temperatures = nn.Parameter(torch.full((levels,), np.log(INITIAL_TEMPERATURE), dtype=torch.float32))
        self.register_buffer("ancestors", torch.from_numpy(hierarchy.ancestors), persistent=False)
        self.epochs: list[Epoch] = []
        self._loss_sum = 0.0  # over the epoch's batches so far
        self._changes: Changes | None = None  # of the batch under way
        self._validation = _Validation([])
        self._leaf_vectors: torch.Tensor | None = None  # during validation
        self._started = time.perf_counter()

    @property
    def temperatures(self) -> torch.Tensor:
        """(L,) positive, no smaller than 0.01 after any training step."""
        return self.log_temperatures.exp()

    def training_step(self, part: Part, number: int) -> torch.Tensor:
        """Loss of a part of a batch, so scaled that what Lightning makes of all parts is the loss of the batch.

        It averages gradients over processes and divides losses by the number of parts; ours are shares of a sum.
        """
        position = self.position
        if self._changes is None:
            seed = np.random.SeedSequence([self.config.seed, 1, position.epoch, position.batches])
            generator = torch.Generator().manual_seed(int(seed.generate_state(1, np.uint64)[0] >> np.uint64(1)))
            self._changes = Changes.draw(len(part.everyone), generator)
        mine = self._changes.of(slice(part.first, part.first + len(part.targets)))
        changed, moved = augment(part.pixels.float(), part.class_maps, self.config.data.augmentation, mine)
        vectors = self.encoder(normalise(changed, self.encoder.preprocessing), moved)
        loss = self._loss(vectors, part.targets, everyone=part.everyone, first=part.first)
        if not torch.isfinite(loss):
            raise self._diverged(f"The loss is {loss.item()}", f"batch {position.batches + 1}")
        self._loss_sum += float(loss.detach())
        scaled = loss * self.share.processes * self.share.parts
        self.log("train_loss", scaled.detach(), on_step=True, on_epoch=False)
        if part.ends_batch:
            self._changes = None
            position.batches += 1
        return scaled

    def on_train_batch_end(self, *args: Any) -> None:
        """Keep temperatures from falling too far. The parameter itself is bounded, so that it can rise again."""
        with torch.no_grad():
            self.log_temperatures.clamp_(min=math.log(SMALLEST_TEMPERATURE))

    def on_train_start(self) -> None:
        """Start the clock of the epochs, where it stood."""
        self._started = time.perf_counter() - (self.epochs[-1].seconds if self.epochs else 0.0)

    def on_validation_epoch_start(self) -> None:
        """What the photos are compared with, once for all of them."""
        self._leaf_vectors = self.leaf_vectors()
        self._validation = _Validation([])

    def validation_step(self, part: ValidationPart, number: int) -> None:
        """Errors and loss of some validation photos."""
        assert self._leaf_vectors is not None, "set when validation begins"
        vectors = self.encoder(normalise(part.pixels, self.encoder.preprocessing), part.class_maps)
        if not torch.isfinite(vectors).all():  # the last step of an epoch is followed by no loss that would tell
            raise self._diverged("The encoder's vectors are no numbers", "after its last batch")
        leaves, points = best_leaves(vectors, self._leaf_vectors).cpu().numpy(), self.hierarchy.leaves
        lat, lng = part.lat_deg.cpu().numpy(), part.lng_deg.cpu().numpy()
        self._validation.distance_km.append(haversine_km(lat, lng, points.lat_deg[leaves], points.lng_deg[leaves]))
        self._validation.loss += float(self._loss(vectors, part.targets)) * len(part.targets)

    def on_validation_epoch_end(self) -> None:
        """How far the answers to the validation photos are from the truth, over all processes."""
        self._leaf_vectors = None
        distance = np.concatenate([np.empty(0), *self._validation.distance_km])
        everyone = self._everyones((distance, self._validation.loss, self._loss_sum))
        distance = np.concatenate([part[0] for part in everyone])
        validation_loss = sum(part[1] for part in everyone) / len(distance)
        epoch = Epoch(
            self.position.epoch,
            sum(part[2] for part in everyone) / max(1, self.position.batches),
            time.perf_counter() - self._started,
            self.temperatures.tolist(),
            validation_loss,
            accuracy(distance),
        )
        self.epochs.append(epoch)
        self.log_dict(
            {
                "epoch_loss": epoch.loss,
                VALIDATION_LOSS: validation_loss,
                "validation_median_km": epoch.validation.median_km,
                **{f"validation_within_{limit}_km": share for limit, share in epoch.validation.within.items()},
                **{f"temperature_{level}": tau for level, tau in enumerate(epoch.temperatures)},
            },
            sync_dist=self.share.processes > 1,  # all have the same; Lightning would ask
        )
        self._loss_sum = 0.0
        self.position.epoch += 1
        self.position.batches = 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What a run needs to go on that is no weight: plain values, so that nothing but these need be loaded."""
        checkpoint["geosurge"] = {
            "position": asdict(self.position),
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "loss_sum": self._loss_sum,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The inverse. The position is shared with the loader, so it is changed and not replaced."""
        kept = checkpoint["geosurge"]
        self.position.epoch, self.position.batches = kept["position"]["epoch"], kept["position"]["batches"]
        self.epochs = [Epoch(**epoch | {"validation": Accuracy(**epoch["validation"])}) for epoch in kept["epochs"]]
        self._loss_sum = kept["loss_sum"]

    def leaf_vectors(self) -> torch.Tensor:
        """G of `indexer.scoring` for the weights as they are: (leaves, D) float32."""
        total = torch.zeros((len(self.ancestors), self.encoder.config.projection_dim), device=self.ancestors.device)
        for level, cells in enumerate(self.geocells):
            total += normalize(cells.float(), dim=-1)[self.ancestors[:, level]] / self.temperatures[level]
        return total

    def geocell_vectors(self) -> Geocells:
        """The geographic representation as it is stored: unit rows."""
        return Geocells(
            [_unit_rows(cells) for cells in self.geocells],
            self.temperatures.detach().double().cpu().numpy(),
            np.ones(len(self.geocells)),
            self.hierarchy.digest,
            None,
        )

    def configure_optimizers(self) -> Any:
        """AdamW; matrices of the encoder decay, everything that is a direction, a scale or an offset does not."""
        options, schedule = self.config.optimizer, self.config.lr_scheduler
        decaying = [weight for weight in self.encoder.parameters() if weight.requires_grad and weight.ndim > 1]
        steady = [weight for weight in self.encoder.parameters() if weight.requires_grad and weight.ndim <= 1]
        groups: Sequence[dict[str, Any]] = [
            {"params": decaying, "lr": options.lr, "weight_decay": options.weight_decay},
            {"params": steady, "lr": options.lr, "weight_decay": 0.0},
            {
                "params": [*self.geocells, self.log_temperatures],
                "lr": options.geocell_lr,
                "weight_decay": 0.0,
            },
        ]
        optimizer = torch.optim.AdamW(groups)
        if schedule.name == "halving":
            halving = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": halving, "interval": "epoch"}}
        total = int(self.trainer.estimated_stepping_batches)
        cycle = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step, total, schedule.warm_up))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

    def _loss(
        self, vectors: torch.Tensor, targets: torch.Tensor, *, everyone: torch.Tensor | None = None, first: int = 0
    ) -> torch.Tensor:
        with torch.autocast(vectors.device.type, enabled=False):  # small differences of large logits: float32
            return hierarchy_loss(
                vectors,
                list(self.geocells),
                self.temperatures,
                targets,
                negatives=self.config.loss.negatives,
                everyone=everyone,
                first=first,
            )

    def _everyones(self, mine: tuple[np.ndarray, float, float]) -> list[tuple[np.ndarray, float, float]]:
        """The same of every process, in the order of their ranks."""
        if self.share.processes == 1:
            return [mine]
        gathered: list[Any] = [None] * self.share.processes
        torch.distributed.all_gather_object(gathered, mine)
        return gathered

    def _diverged(self, what: str, where: str) -> WorkError:
        return WorkError(
            f"{what} in epoch {self.position.epoch + 1}, {where}. Lower optimizer.lr, or set trainer.gradient_clip_val."
        )


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


def best_leaves(vectors: torch.Tensor, leaf_vectors: torch.Tensor, *, block: int = 1024) -> torch.Tensor:
    """The leaf with the highest product of similarities for each vector: (Q,) int64."""
    return torch.cat([(part.float() @ leaf_vectors.T).argmax(dim=1) for part in torch.split(vectors, block)])


def _unit_rows(cells: torch.Tensor) -> np.ndarray:
    # In float64, so that the rows that are stored have length 1 to the last bit of float32.
    return normalize(cells.detach().double(), dim=-1).float().cpu().numpy()
