"""A vision model of others as an encoder: its own pooled output, scaled to length 1.

It answers to what a `GeoEncoder` answers to, but for training and class maps: semantic fusion is that of CLIP's
transformer alone.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from encoder.config import Preprocessing
from encoder.models.model import GeoEncoder


class VisionModel(nn.Module):
    """Photos in, unit vectors out."""

    fusion = None
    fusion_config = None

    def __init__(self, vision: PreTrainedModel, preprocessing: Preprocessing) -> None:
        """vision: one whose output has `pooler_output` (B, D)."""
        super().__init__()
        self.vision = vision
        self.preprocessing = preprocessing

    def forward(self, pixels: torch.Tensor, class_maps: None = None) -> torch.Tensor:
        """Normalised pixels (B, 3, H, W) to unit vectors (B, D) float32."""
        if class_maps is not None:
            raise ValueError("an encoder without fusion takes no class maps")
        return nn.functional.normalize(self.vision(pixel_values=pixels).pooler_output.float(), dim=-1)

    @property
    def width(self) -> int:
        """D, the number of dimensions of its vectors."""
        config: Any = self.vision.config
        return int(getattr(config, "pooler_output_size", config.hidden_size))

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self.vision.dtype

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.vision.device


PhotoModel = GeoEncoder | VisionModel  # what makes vectors of photos
