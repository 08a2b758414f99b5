"""The model under training: the encoder, the geocells of every level, one temperature per level (paper III-C)."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
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
from training.augment import augment
from training.config import Augmentation, OptimisationConfig
from training.data import Batch, PhotoSet
from training.losses import hierarchy_loss

# CLIP's own limits (Radford et al. 2021, section 2.5): 0.07 to begin with, and never a scale above 100.
INITIAL_TEMPERATURE = 0.07
SMALLEST_TEMPERATURE = 0.01


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one pass over the photos came to."""

    epoch: int
    loss: float  # mean over the epoch's batches
    seconds: float  # since training began
    temperatures: Sequence[float]  # one per level
    validation_loss: float  # mean over the validation photos, in batches of the same size
    validation: Accuracy


class GeoModule(lightning.LightningModule):
    """Learns vectors of photos and of cells together. `epochs` fills as training goes."""

    def __init__(
        self,
        encoder: GeoEncoder,
        hierarchy: Hierarchy,
        *,
        optimisation: OptimisationConfig,
        augmentation: Augmentation,
        validation: PhotoSet,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.hierarchy = hierarchy
        self.optimisation = optimisation
        self.augmentation = augmentation
        self.validation = validation
        self.generator = generator
        width = encoder.config.projection_dim
        # Of length 1: an optimiser's step turns a longer vector less, and only its direction counts.
        self.geocells = nn.ParameterList(
            nn.Parameter(normalize(torch.randn(len(level), width, generator=generator), dim=-1))
            for level in hierarchy.levels
        )
        levels = len(hierarchy.levels)
        self.log_temperatures = nn.Parameter(torch.full((levels,), np.log(INITIAL_TEMPERATURE), dtype=torch.float32))
        self.register_buffer("ancestors", torch.from_numpy(hierarchy.ancestors), persistent=False)
        self.epochs: list[Epoch] = []
        self._losses: list[torch.Tensor] = []
        self._vectors: list[torch.Tensor] = []
        self._validation_losses: list[torch.Tensor] = []  # each times its number of photos
        self._started = time.perf_counter()

    @property
    def temperatures(self) -> torch.Tensor:
        """(L,) positive, no smaller than 0.01 after any training step."""
        return self.log_temperatures.exp()

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        """Loss of one batch of pixels (B, 3, H, W) uint8, class maps (B, H, W) uint8 or None, and targets (B, L)."""
        pixels, class_maps, targets = batch
        changed, moved = augment(pixels.float(), class_maps, self.augmentation, self.generator)
        vectors = self.encoder(normalise(changed, self.encoder.preprocessing), moved)
        loss = self._loss(vectors, targets)
        if not torch.isfinite(loss):
            raise self._diverged(f"The loss is {loss.item()}", f"batch {batch_index + 1}")
        self._losses.append(loss.detach())
        return loss

    def on_train_batch_end(self, *args: Any) -> None:
        """Keep temperatures from falling too far. The parameter itself is bounded, so that it can rise again."""
        with torch.no_grad():
            self.log_temperatures.clamp_(min=math.log(SMALLEST_TEMPERATURE))

    def on_train_start(self) -> None:
        """Start the clock of the epochs."""
        self._started = time.perf_counter()

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Vectors of one batch of validation photos."""
        pixels, class_maps, targets = batch
        vectors = self.encoder(normalise(pixels, self.encoder.preprocessing), class_maps)
        self._vectors.append(vectors)
        self._validation_losses.append(self._loss(vectors, targets) * len(targets))

    def on_validation_epoch_end(self) -> None:
        """How far the answers to the validation photos are from the truth."""
        vectors = torch.cat(self._vectors)
        if not torch.isfinite(vectors).all():  # the last step of an epoch is followed by no loss that would tell
            raise self._diverged("The encoder's vectors are no numbers", "after its last batch")
        leaves = best_leaves(vectors, self.leaf_vectors()).cpu().numpy()
        points, truth = self.hierarchy.leaves, self.validation
        distance = haversine_km(truth.lat_deg, truth.lng_deg, points.lat_deg[leaves], points.lng_deg[leaves])
        self.epochs.append(
            Epoch(
                self.current_epoch,
                float(torch.stack(self._losses).mean()),
                time.perf_counter() - self._started,
                self.temperatures.tolist(),
                float(torch.stack(self._validation_losses).sum()) / len(truth),
                accuracy(distance),
            )
        )
        for pile in (self._losses, self._vectors, self._validation_losses):
            pile.clear()

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
        options = self.optimisation
        decaying = [weight for weight in self.encoder.parameters() if weight.requires_grad and weight.ndim > 1]
        steady = [weight for weight in self.encoder.parameters() if weight.requires_grad and weight.ndim <= 1]
        groups: Sequence[dict[str, Any]] = [
            {"params": decaying, "lr": options.learning_rate, "weight_decay": options.weight_decay},
            {"params": steady, "lr": options.learning_rate, "weight_decay": 0.0},
            {
                "params": [*self.geocells, self.log_temperatures],
                "lr": options.geocell_learning_rate,
                "weight_decay": 0.0,
            },
        ]
        optimizer = torch.optim.AdamW(groups)
        if options.schedule == "halving":
            halving = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": halving, "interval": "epoch"}}
        total = int(self.trainer.estimated_stepping_batches)
        cycle = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step, total, options.warm_up))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

    def _loss(self, vectors: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.autocast(vectors.device.type, enabled=False):  # small differences of large logits: float32
            negatives = self.optimisation.negatives
            return hierarchy_loss(vectors, list(self.geocells), self.temperatures, targets, negatives=negatives)

    def _diverged(self, what: str, where: str) -> WorkError:
        return WorkError(
            f"{what} in epoch {self.current_epoch + 1}, {where}. "
            "Lower optimisation.learning_rate, or set optimisation.gradient_clip."
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
