"""The contrastive loss between photos and geocells (paper section III-C, Equation 1), one level at a time.

For a photo i with unit vector v_i in cell y_i of a level with unit geocell vectors g and temperature tau,

    L_i = - log( exp(v_i . g_{y_i} / tau) / sum over c in C_i of exp(v_i . g_c / tau) )

The named option `negatives` says which cells C_i holds:

    batch            the cells of all photos of the batch, each as often as it occurs: the paper's Equation 1 to the
                     letter, where another photo's cell is a negative even when it is the same cell
    batch_distinct   the same without the photos that share cell y_i, apart from i itself
    all              every cell of the level once: the full softmax, which is also what inference normalises by

A level's loss is the mean over its photos; the objective is the sum over levels. A photo without a cell at a level
(target -1) has no part in that level's loss and trains the others.

Beside it stands the loss of the method that came before: a linear classifier for each level (`classification_losses`).

A batch may be worked in parts, by several processes or one after another: a part has some of the batch's photos, and
`everyone` holds the cells of all of them. A part's loss is its share of the batch's: the losses of the parts add up to
the loss of the batch, and so do their gradients. Only cell numbers need to be known of the other parts, because a
geocell is a parameter that every process has.
"""

from collections.abc import Iterable

import torch
from torch.nn.functional import cross_entropy, normalize

from training.config import Negatives
from training.photos.batches import Truth


def level_loss(
    vectors: torch.Tensor,
    geocells: torch.Tensor,
    temperature: torch.Tensor,
    targets: torch.Tensor,
    *,
    negatives: Negatives,
    everyone: torch.Tensor | None = None,
    first: int = 0,
) -> torch.Tensor:
    """Loss of one level: a scalar, 0 when no photo has a cell.

    vectors: (b, D) unit rows. geocells: (N, D), any length; they are normalised here. temperature: scalar, positive.
    targets: (b,) int64, the cell of each photo or -1. everyone: (B,) int64, the cells of the whole batch, where these
    photos are those from `first` on; None: these are all.
    """
    everyone = targets if everyone is None else everyone
    present = targets >= 0
    if not present.any():
        # A zero that still belongs to the graph: each process must have a gradient for each parameter.
        return vectors.sum() * 0.0 + geocells.sum() * 0.0 + temperature * 0.0
    in_batch = (everyone >= 0).nonzero()[:, 0]
    # Divided before they are multiplied: there are fewer vectors than logits, here and on the way back.
    vectors, targets = vectors[present] / temperature, targets[present]
    if negatives == "all":
        logits = vectors @ normalize(geocells, dim=-1).T
        return cross_entropy(logits, targets, reduction="sum") / len(in_batch)
    rivals = everyone[in_batch]
    logits = vectors @ normalize(geocells[rivals], dim=-1).T
    own = torch.searchsorted(in_batch, first + present.nonzero()[:, 0])
    if negatives == "batch_distinct":
        shared = targets[:, None] == rivals[None, :]
        itself = own[:, None] == torch.arange(len(rivals), device=own.device)[None, :]
        logits = logits.masked_fill(shared & ~itself, float("-inf"))
    return cross_entropy(logits, own, reduction="sum") / len(in_batch)


def stored_geocells(geocells: torch.Tensor) -> torch.Tensor:
    """Geocells (N, D) as they are stored: of length 1 to the last bit of float32, so computed in float64."""
    return normalize(geocells.detach().double(), dim=-1).float()


def hierarchy_loss(
    vectors: torch.Tensor,
    geocells: Iterable[torch.Tensor],
    temperatures: torch.Tensor,
    truth: Truth,
    *,
    negatives: Negatives,
) -> torch.Tensor:
    """The complete objective: the sum of the levels' losses.

    vectors: (b, D) unit rows. geocells: per level (N_l, D). temperatures: (L,).
    """
    levels = zip(geocells, temperatures, truth.targets.T, truth.everyone.T, strict=True)
    losses = [
        level_loss(vectors, cells, tau, targets, negatives=negatives, everyone=everyone, first=truth.first)
        for cells, tau, targets, everyone in levels
    ]
    return torch.stack(losses).sum()


def classification_losses(
    vectors: torch.Tensor, weights: Iterable[torch.Tensor], biases: Iterable[torch.Tensor], truth: Truth
) -> torch.Tensor:
    """For each level the mean of - log softmax(W_l v_i + b_l)[y_i], which is its cross-entropy: (L,).

    vectors: (b, D). weights: per level (N_l, D). biases: per level (N_l,).
    """
    levels = zip(weights, biases, truth.targets.T, truth.everyone.T, strict=True)
    losses = [
        cross_entropy(vectors @ weight.T + bias, targets, ignore_index=-1, reduction="sum")
        / (everyone >= 0).sum().clamp(min=1)
        for weight, bias, targets, everyone in levels
    ]
    return torch.stack(losses)
