"""Attention against plain formulas, head by head, and against torch's own module."""

import torch
from torch import nn

from encoder.config import FusionConfig
from encoder.models.attention import LatentAttention, SelfAttention

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


def test_self_attention_is_torchs() -> None:
    torch.manual_seed(0)
    attention, tokens = SelfAttention(12, heads=4).double(), torch.randn(2, 5, 12).double()
    theirs = nn.MultiheadAttention(12, 4, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(attention.query_key_value.weight)
        theirs.in_proj_bias.zero_()
        theirs.out_proj.load_state_dict(attention.out.state_dict())
    torch.testing.assert_close(attention(tokens), theirs(tokens, tokens, tokens, need_weights=False)[0])
