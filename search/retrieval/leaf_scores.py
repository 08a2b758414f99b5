"""Scores in float64 of chosen leaves: what decides between candidates, on the device where they were found."""

import warnings
from collections.abc import Iterator

import numpy as np
import torch

from indexer.vectors.scoring import ScoringModel

# Numbers gathered at once: on a CPU 32 MB of float64, which stays in its cache; on a GPU what keeps it busy.
_NUMBERS = {"cpu": 1 << 22, "cuda": 1 << 28}


class LeafScores:
    """v . G_r + b_r from the level vectors themselves (`indexer.vectors.scoring.scores_of` is the same in numpy)."""

    def __init__(self, model: ScoringModel, device: torch.device) -> None:
        self.n_leaves = model.n_leaves
        self.device = device
        self._levels = [tensor_of(vectors).to(device) for vectors in model.geocells.vectors]
        self._ancestors = tensor_of(model.ancestors).to(device)
        self._scales = model.scales.tolist()
        self._bias = None if model.bias is None else torch.from_numpy(model.bias).to(device)

    def __call__(self, queries: torch.Tensor, row: torch.Tensor, leaf: torch.Tensor) -> torch.Tensor:
        """Scores of pairs of a query and a leaf.

        queries: (Q, D) float32. row, leaf: (P,) int64. Returns (P,) float64; a pair's score is the same in any company.
        """
        return torch.cat([self._block(queries, *part) for part in pair_blocks(row, leaf, width=queries.shape[1])])

    def _block(self, queries: torch.Tensor, row: torch.Tensor, leaf: torch.Tensor) -> torch.Tensor:
        wide = queries.index_select(0, row).double()
        total = torch.zeros(len(leaf), dtype=torch.float64, device=self.device)
        for level, (vectors, scale) in enumerate(zip(self._levels, self._scales, strict=True)):
            cells = vectors.index_select(0, self._ancestors[:, level].index_select(0, leaf))
            total += scale * (wide * cells).sum(dim=1)
        return total if self._bias is None else total + self._bias[leaf]


def pair_blocks(row: torch.Tensor, leaf: torch.Tensor, *, width: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Pairs of a query and a leaf, (P,) int64 each, as many at a time as vectors of them fit."""
    step = max(1, _NUMBERS[row.device.type] // width)
    return zip(torch.split(row, step), torch.split(leaf, step), strict=True)


def tensor_of(array: np.ndarray) -> torch.Tensor:
    """An array as a tensor that shares its memory; not to be written to."""
    with warnings.catch_warnings():
        # Bundles keep their arrays read-only, which torch has no word for.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
