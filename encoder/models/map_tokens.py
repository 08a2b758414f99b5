"""Tokens of class maps: what every kind of semantic fusion begins with (paper section III-B).

In: class maps (B, H, W) uint8. Out: a CLS token and one token for each patch, (B, 1 + T, width).
"""

import torch
from torch import nn
from torch.nn.functional import embedding_bag

from encoder.class_maps.class_map import NO_CLASS
from encoder.config import FusionConfig


class SegmentationTokens(nn.Module):
    """Class maps to tokens: each patch of P x P class ids is projected linearly, as one-hot pixels would be.

    The projection of a one-hot image is a sum of rows of its matrix, so it is done as that: a gather of P * P rows
    for each patch. The image of 150 channels never exists. Pixels of no class add nothing.
    """

    def __init__(self, config: FusionConfig, *, image_size: int, patch_size: int) -> None:
        super().__init__()
        self.classes, self.patch, self.grid = config.classes, patch_size, image_size // patch_size
        # The last row stands for "no class": never added, never learned.
        self.projection = nn.Parameter(torch.empty(patch_size**2 * config.classes + 1, config.width))
        self.cls = nn.Parameter(torch.empty(config.width))
        self.positions = nn.Parameter(torch.empty(1 + self.grid**2, config.width))

    def forward(self, class_maps: torch.Tensor) -> torch.Tensor:
        """Maps (B, H, W) uint8, ids below `classes` or 255, to tokens (B, 1 + T, width); CLS first."""
        n, edge = len(class_maps), self.grid * self.patch
        patches = class_maps[:, :edge, :edge].reshape(n, self.grid, self.patch, self.grid, self.patch)
        ids = patches.transpose(2, 3).reshape(n * self.grid**2, self.patch**2).int()
        pixel = torch.arange(self.patch**2, dtype=torch.int32, device=ids.device)
        nothing = self.patch**2 * self.classes
        rows = torch.where(ids == NO_CLASS, nothing, pixel * self.classes + ids)
        tokens = embedding_bag(rows, self.projection, mode="sum", padding_idx=nothing).view(n, self.grid**2, -1)
        return torch.cat([self.cls.expand(n, 1, -1), tokens], dim=1) + self.positions

    def initialise(self) -> None:
        """Draw the weights: a patch's sum, the CLS and each position have a spread of 1 per value."""
        nn.init.normal_(self.projection, std=1 / self.patch)
        nn.init.normal_(self.cls)
        nn.init.normal_(self.positions)
        with torch.no_grad():
            self.projection[-1] = 0
