"""What is learned beside the encoder, and how it answers: the geocells of the paper, or a baseline in their place.

A head is given the encoder's vectors before they are scaled to length 1, and where the photos were taken. It says what
a photo's loss is, and how photos are answered: every head has rows, each of which stands for a point of the Earth, and
the answer to a photo is the point of the row with the largest inner product. So the training loop, its logs and its
validation are the same for all of them.

    GeocellHead      learned unit vectors of all cells of a hierarchy, contrasted with photos (paper section III-C)
    ClassifierHead   a linear classifier for each level, as before there were geocell vectors (Table VI, arXiv v1)

`fit` learns one of these two (`model.head`), and both are stored as `Geocells`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

from indexer.cells.hierarchy import Hierarchy
from indexer.vectors.geocells import Geocells
from training.cells.losses import classification_losses, hierarchy_loss, level_loss, stored_geocells
from training.config import FitConfig, Negatives, OptimizerConfig
from training.photos.batches import Truth

# CLIP's own limits (Radford et al. 2021, section 2.5): 0.07 to begin with, and never a scale above 100.
INITIAL_TEMPERATURE = 0.07
SMALLEST_TEMPERATURE = 0.01


class Head(nn.Module, ABC):
    """A way to learn where photos were taken, and to say it.

    Args:
        lat_deg: (R,) float64, of the point that each row stands for.
        lng_deg: likewise.
    """

    def __init__(self, lat_deg: np.ndarray, lng_deg: np.ndarray) -> None:
        super().__init__()
        self.lat_deg, self.lng_deg = lat_deg, lng_deg

    @property
    def temperatures(self) -> torch.Tensor:
        """(T,) positive; empty where a head learns none."""
        return torch.empty(0)

    @abstractmethod
    def loss(self, vectors: torch.Tensor, truth: Truth) -> torch.Tensor:
        """These photos' share of the loss of their batch (`training.cells.losses`): a scalar.

        vectors: (b, D) float32, of any length.
        """

    def validation_sums(self, vectors: torch.Tensor, truth: Truth) -> torch.Tensor:
        """What a validation loss is made of: for each of its terms a sum over photos, and over how many: (T, 2).

        The loss is the sum over terms of sum / number, over all validation photos, however they came in batches.
        """
        n = (truth.targets >= 0).any(dim=1).sum()
        loss = self.loss(vectors, truth)
        return torch.stack([loss * n, n.to(loss.dtype)])[None]

    @abstractmethod
    def rows(self) -> torch.Tensor:
        """What photos are compared with, for the weights as they are: (R, W) float32."""

    @abstractmethod
    def queries(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors (Q, D) float32 of any length as they meet the rows: (Q, W)."""

    def groups(self, options: OptimizerConfig) -> Sequence[dict[str, Any]]:
        """The head's weights, as an optimiser takes them: by default they decay as the encoder's do."""
        return weight_groups(self, lr=options.geocell_lr, weight_decay=options.weight_decay)

    def end_step(self) -> None:
        """After a change of the weights."""

    def end_batch(self, truth: Truth) -> None:
        """After the last part of a batch; `truth` is that of any of its parts."""


class ContrastiveHead(Head):
    """A head that compares unit vectors, with temperatures that are learned: as many as it is made with."""

    def __init__(self, lat_deg: np.ndarray, lng_deg: np.ndarray, *, n_temperatures: int) -> None:
        super().__init__(lat_deg, lng_deg)
        begin = torch.full((n_temperatures,), np.log(INITIAL_TEMPERATURE), dtype=torch.float32)
        self.log_temperatures = nn.Parameter(begin)

    @property
    def temperatures(self) -> torch.Tensor:
        """(T,) no smaller than 0.01 after any training step."""
        return self.log_temperatures.exp()

    def groups(self, options: OptimizerConfig) -> Sequence[dict[str, Any]]:
        """Temperatures have a learning rate of their own, and do not decay."""
        rate = options.geocell_lr if options.temperature_lr is None else options.temperature_lr
        return [*self.other_groups(options), {"params": [self.log_temperatures], "lr": rate, "weight_decay": 0.0}]

    @abstractmethod
    def other_groups(self, options: OptimizerConfig) -> Sequence[dict[str, Any]]:
        """As `groups`, of all weights but the temperatures."""

    def queries(self, vectors: torch.Tensor) -> torch.Tensor:
        """Scaled to length 1."""
        return normalize(vectors, dim=-1)

    def end_step(self) -> None:
        """Keep temperatures from falling too far. The parameter itself is bounded, so that it can rise again."""
        with torch.no_grad():
            self.log_temperatures.clamp_(min=math.log(SMALLEST_TEMPERATURE))


class GeocellHead(ContrastiveHead):
    """The geographic representation (paper section III-A): a unit vector for each cell, a temperature for each level.

    Args:
        hierarchy: whose cells.
        width: D.
        negatives: the cells that a photo's own is compared with.
        seed: of the vectors to begin with.
    """

    ancestors: torch.Tensor  # (leaves, L) int64, as the hierarchy's

    def __init__(self, hierarchy: Hierarchy, width: int, *, negatives: Negatives, seed: int) -> None:
        leaves, levels = hierarchy.leaves, hierarchy.levels
        super().__init__(leaves.lat_deg, leaves.lng_deg, n_temperatures=len(levels))
        self.negatives = negatives
        self._hierarchy = hierarchy.digest
        generator = torch.Generator().manual_seed(seed)
        # Of length 1: an optimiser's step turns a longer vector less, and only its direction counts.
        self.cells = nn.ParameterList(
            nn.Parameter(normalize(torch.randn(len(level), width, generator=generator), dim=-1)) for level in levels
        )
        self.register_buffer("ancestors", torch.from_numpy(hierarchy.ancestors), persistent=False)

    def loss(self, vectors: torch.Tensor, truth: Truth) -> torch.Tensor:
        """The sum of the levels' losses (Equation 1)."""
        unit = normalize(vectors, dim=-1)
        return hierarchy_loss(unit, self.cells, self.temperatures, truth, negatives=self.negatives)

    def validation_sums(self, vectors: torch.Tensor, truth: Truth) -> torch.Tensor:
        """One term for each level: the full softmax, whatever cells a photo is compared with in training.

        It is what answers are normalised by, and knows nothing of batches: with negatives of the batch, a loss would
        say which photos came together, and end a run by it.
        """
        n = (truth.targets >= 0).sum(dim=0)
        unit, levels = normalize(vectors, dim=-1), zip(self.cells, self.temperatures, truth.targets.T, strict=True)
        losses = [level_loss(unit, cells, tau, targets, negatives="all") for cells, tau, targets in levels]
        return torch.stack([torch.stack(losses) * n, n.to(unit.dtype)], dim=1)

    def rows(self) -> torch.Tensor:
        """G of `indexer.vectors.scoring`: (leaves, D)."""
        total = torch.zeros((len(self.ancestors), self.cells[0].shape[1]), device=self.ancestors.device)
        for level, cells in enumerate(self.cells):
            total += normalize(cells.float(), dim=-1)[self.ancestors[:, level]] / self.temperatures[level]
        return total

    def other_groups(self, options: OptimizerConfig) -> Sequence[dict[str, Any]]:
        """Nothing decays: of a cell's vector only the direction counts."""
        return [{"params": list(self.cells), "lr": options.geocell_lr, "weight_decay": 0.0}]

    def geocells(self) -> Geocells:
        """The geographic representation as it is stored: unit rows."""
        return Geocells(
            [stored_geocells(cells).cpu().numpy() for cells in self.cells],
            self.temperatures.detach().double().cpu().numpy(),
            np.ones(len(self.cells)),
            self._hierarchy,
            None,
        )


class ClassifierHead(Head):
    """A linear classifier for each level; its product over the levels above a leaf is searched as that of geocells is.

    The logits of a photo are W v / 0.07 + b, where v is its vector at length 1, as it is in features, galleries and
    bundles. The 0.07 stays as it is: a step then changes logits as much as geocells' at their start. What it has not: a
    length of 1 for the rows of W, temperatures that are learned, negatives of a batch. It has a bias, which can learn
    how many photos a cell holds.

    Args:
        hierarchy: whose cells are the classes.
        width: D.
        seed: of the weights to begin with.
    """

    ancestors: torch.Tensor  # (leaves, L) int64, as the hierarchy's

    def __init__(self, hierarchy: Hierarchy, width: int, *, seed: int) -> None:
        leaves, levels = hierarchy.leaves, hierarchy.levels
        super().__init__(leaves.lat_deg, leaves.lng_deg)
        self._hierarchy = hierarchy.digest
        generator = torch.Generator().manual_seed(seed)

        def uniform(*shape: int) -> nn.Parameter:  # as torch begins a linear map
            return nn.Parameter((2 * torch.rand(shape, generator=generator) - 1) / math.sqrt(width))

        self.weights = nn.ParameterList(uniform(len(level), width) for level in levels)
        self.biases = nn.ParameterList(uniform(len(level)) for level in levels)
        self.register_buffer("ancestors", torch.from_numpy(hierarchy.ancestors), persistent=False)

    def loss(self, vectors: torch.Tensor, truth: Truth) -> torch.Tensor:
        """The sum of the levels' cross-entropies."""
        return classification_losses(_at_length_one(vectors), self.weights, self.biases, truth).sum()

    def validation_sums(self, vectors: torch.Tensor, truth: Truth) -> torch.Tensor:
        """One term for each level: its cross-entropies."""
        n = (truth.targets >= 0).sum(dim=0)
        losses = classification_losses(_at_length_one(vectors), self.weights, self.biases, truth)
        return torch.stack([losses * n, n.to(losses.dtype)], dim=1)

    def rows(self) -> torch.Tensor:
        """For each leaf the sum of the classes above it, the bias as the last column: (leaves, D + 1).

        A level's normaliser is the same for all leaves, so the largest inner product is the largest product of
        probabilities, as with geocells (`indexer.vectors.scoring`).
        """
        levels = zip(self.weights, self.biases, self.ancestors.T, strict=True)
        tau = INITIAL_TEMPERATURE
        parts = [torch.cat([weight / tau, bias[:, None]], dim=1)[cells] for weight, bias, cells in levels]
        return torch.stack(parts).sum(dim=0)

    def queries(self, vectors: torch.Tensor) -> torch.Tensor:
        """Scaled to length 1, with a 1 for the bias."""
        return torch.cat([normalize(vectors, dim=-1), vectors.new_ones((len(vectors), 1))], dim=1)

    def geocells(self) -> Geocells:
        """The classes as they are stored: class vectors of any length, and their biases."""
        levels = len(self.weights)
        return Geocells(
            [weight.detach().float().cpu().numpy() for weight in self.weights],
            np.full(levels, INITIAL_TEMPERATURE),
            np.ones(levels),
            self._hierarchy,
            None,
            biases=[bias.detach().float().cpu().numpy() for bias in self.biases],
        )


def head_for(config: FitConfig, hierarchy: Hierarchy, *, width: int) -> GeocellHead | ClassifierHead:
    """The head that a run learns. width: D."""
    seed = config.seed_everything
    if config.model.head == "classes":
        return ClassifierHead(hierarchy, width, seed=seed)
    return GeocellHead(hierarchy, width, negatives=config.loss.negatives, seed=seed)


def _at_length_one(vectors: torch.Tensor) -> torch.Tensor:
    """As classifiers meet them: of length 1, over the temperature that stays."""
    return normalize(vectors, dim=-1) / INITIAL_TEMPERATURE


def best_rows(queries: torch.Tensor, rows: torch.Tensor, *, block: int = 1024) -> torch.Tensor:
    """The row with the largest inner product with each query: (Q,) int64.

    queries: (Q, W). rows: (R, W) float32.
    """
    return torch.cat([(part.float() @ rows.T).argmax(dim=1) for part in torch.split(queries, block)])


def weight_groups(module: nn.Module, *, lr: float, weight_decay: float) -> Sequence[dict[str, Any]]:
    """What is learned of a module, as an optimiser takes it: matrices decay, offsets and scales do not."""
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    return [
        {"params": [weight for weight in weights if weight.ndim > 1], "lr": lr, "weight_decay": weight_decay},
        {"params": [weight for weight in weights if weight.ndim <= 1], "lr": lr, "weight_decay": 0.0},
    ]
