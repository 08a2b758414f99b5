"""Attention from tokens of one width to tokens of another, for semantic fusion (paper section III-B)."""

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from encoder.config import FusionConfig


class LatentAttention(nn.Module):
    """Multi-head attention of segmentation tokens to a photo's, whose keys and values pass through a narrow latent.

    As in DeepSeek's multi-head latent attention, without rotary positions.
    """

    def __init__(self, config: FusionConfig, *, hidden_size: int, out_size: int) -> None:
        """hidden_size: of the photo's tokens, and of all heads together. out_size: of what comes out."""
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.width, hidden_size, bias=False)
        self.latent = nn.Linear(hidden_size, config.latent, bias=False)
        self.key_value = nn.Linear(config.latent, 2 * hidden_size, bias=False)
        self.out = nn.Linear(hidden_size, out_size)

    def forward(self, segmentation: torch.Tensor, photo: torch.Tensor) -> torch.Tensor:
        """Tokens that queries come from (B, Q, width), and keys and values (B, T, hidden), to (B, Q, out)."""
        key, value = self.key_value(self.latent(photo)).chunk(2, dim=-1)
        query, key, value = (
            tokens.view(*tokens.shape[:2], self.heads, -1).transpose(1, 2)
            for tokens in (self.query(segmentation), key, value)
        )
        return self.out(scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
