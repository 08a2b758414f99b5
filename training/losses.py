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
"""

import torch
from torch.nn.functional import cross_entropy, normalize

from training.config import Negatives


def level_loss(
    vectors: torch.Tensor,
    geocells: torch.Tensor,
    temperature: torch.Tensor,
    targets: torch.Tensor,
    *,
    negatives: Negatives,
) -> torch.Tensor:
    """Loss of one level: a scalar, 0 when no photo of the batch has a cell.

    vectors: (B, D) unit rows. geocells: (N, D), any length; they are normalised here. temperature: scalar, positive.
    targets: (B,) int64, the cell of each photo or -1.
    """
    present = targets >= 0
    if not present.any():
        return vectors.sum() * 0.0  # a zero that still belongs to the graph
    vectors, targets = vectors[present], targets[present]
    if negatives == "all":
        return cross_entropy(vectors @ normalize(geocells, dim=-1).T / temperature, targets)
    logits = vectors @ normalize(geocells[targets], dim=-1).T / temperature
    own = torch.arange(len(targets), device=targets.device)
    if negatives == "batch_distinct":
        shared = targets[:, None] == targets[None, :]
        logits = logits.masked_fill(shared & (own[:, None] != own[None, :]), float("-inf"))
    return cross_entropy(logits, own)


def hierarchy_loss(
    vectors: torch.Tensor,
    geocells: list[torch.Tensor],
    temperatures: torch.Tensor,
    targets: torch.Tensor,
    *,
    negatives: Negatives,
) -> torch.Tensor:
    """The complete objective: the sum of the levels' losses.

    vectors: (B, D) unit rows. geocells: per level (N_l, D). temperatures: (L,). targets: (B, L) int64, -1 for no cell.
    """
    losses = [
        level_loss(vectors, cells, temperatures[level], targets[:, level], negatives=negatives)
        for level, cells in enumerate(geocells)
    ]
    return torch.stack(losses).sum()
