"""The model under training: the encoder, the geocells of every level, one temperature per level (paper III-C)."""

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
from training.data import PhotoSet
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
        self.geocells = nn.ParameterList(
            nn.Parameter(torch.randn(len(level), width, generator=generator)) for level in hierarchy.levels
        )
        levels = len(hierarchy.levels)
        self.log_temperatures = nn.Parameter(torch.full((levels,), np.log(INITIAL_TEMPERATURE), dtype=torch.float32))
        self.register_buffer("ancestors", torch.from_numpy(hierarchy.ancestors), persistent=False)
        self.epochs: list[Epoch] = []
        self._losses: list[torch.Tensor] = []
        self._vectors: list[torch.Tensor] = []
        self._started = time.perf_counter()

    @property
    def temperatures(self) -> torch.Tensor:
        """(L,) positive, no smaller than 0.01."""
        return self.log_temperatures.exp().clamp(min=SMALLEST_TEMPERATURE)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_index: int) -> torch.Tensor:
        """Loss of one batch of pixels (B, 3, H, W) uint8 and targets (B, L)."""
        pixels, targets = batch
        changed = augment(pixels.float(), self.augmentation, self.generator)
        vectors = self.encoder(normalise(changed, self.encoder.preprocessing))
        with torch.autocast(vectors.device.type, enabled=False):  # small differences of large logits: float32
            negatives = self.optimisation.negatives
            loss = hierarchy_loss(vectors, list(self.geocells), self.temperatures, targets, negatives=negatives)
        if not torch.isfinite(loss):
            raise WorkError(
                f"The loss is {loss.item()} in epoch {self.current_epoch}, batch {batch_index}. "
                "Lower optimisation.learning_rate, or set optimisation.gradient_clip."
            )
        self._losses.append(loss.detach())
        return loss

    def on_train_start(self) -> None:
        """Start the clock of the epochs."""
        self._started = time.perf_counter()

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_index: int) -> None:
        """Vectors of one batch of validation photos."""
        self._vectors.append(self.encoder(normalise(batch[0], self.encoder.preprocessing)))

    def on_validation_epoch_end(self) -> None:
        """How far the answers to the validation photos are from the truth."""
        leaves = best_leaves(torch.cat(self._vectors), self.leaf_vectors()).cpu().numpy()
        points, truth = self.hierarchy.leaves, self.validation
        distance = haversine_km(truth.lat_deg, truth.lng_deg, points.lat_deg[leaves], points.lng_deg[leaves])
        loss = float(torch.stack(self._losses).mean()) if self._losses else float("nan")
        seconds = time.perf_counter() - self._started
        self.epochs.append(Epoch(self.current_epoch, loss, seconds, accuracy(distance)))
        self._losses.clear()
        self._vectors.clear()

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
        scheduler: torch.optim.lr_scheduler.LRScheduler
        if options.schedule == "halving":
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in groups],
            total_steps=int(self.trainer.estimated_stepping_batches),
            pct_start=options.warm_up,
            cycle_momentum=False,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def best_leaves(vectors: torch.Tensor, leaf_vectors: torch.Tensor, *, block: int = 1024) -> torch.Tensor:
    """The leaf with the highest product of similarities for each vector: (Q,) int64."""
    return torch.cat([(part.float() @ leaf_vectors.T).argmax(dim=1) for part in torch.split(vectors, block)])


def _unit_rows(cells: torch.Tensor) -> np.ndarray:
    # In float64, so that the rows that are stored have length 1 to the last bit of float32.
    return normalize(cells.detach().double(), dim=-1).float().cpu().numpy()
