"""Attention against a plain formula, head by head."""

import torch

from encoder.config import FusionConfig
from encoder.models.attention import LatentAttention

SIZES = FusionConfig(width=12, latent=6, heads=4)
HIDDEN = 32


def test_latent_attention_is_its_formula_head_by_head() -> None:
    torch.manual_seed(0)
    attention = LatentAttention(SIZES, hidden_size=HIDDEN, out_size=20).double()
    segmentation, photo = torch.randn(2, 5, 12).double(), torch.randn(2, 9, HIDDEN).double()
    latent = photo @ attention.latent.weight.T
    keys, values = (latent @ part.T for part in attention.key_value.weight.chunk(2))
    queries = segmentation @ attention.query.weight.T
    heads = []
    for head in range(4):
        columns = slice(head * 8, (head + 1) * 8)
        scores = queries[..., columns] @ keys[..., columns].transpose(1, 2) / 8**0.5
        heads.append(scores.softmax(dim=-1) @ values[..., columns])
    result = attention(segmentation, photo)
    assert result.shape == (2, 5, 20)
    torch.testing.assert_close(result, attention.out(torch.cat(heads, dim=-1)))
