"""Semantic fusion: tokens of a class map look at the tokens of the photo (paper section III-B).

    s  = patches of the class map, each linearly projected, + CLS + positions             (B, 1 + T, 128)
    each block:  x = x + W_o attention(queries from LN(s), keys and values from LN(x))     (B, 1 + T, 1024)
                 x = x + MLP(LN(x))
    out: x's CLS token

Keys and values pass through a narrow latent first, as in DeepSeek's multi-head latent attention, without rotary
positions. The paper leaves open where 128-wide queries meet the 1024-wide residual stream; here the segmentation tokens
only ask, and what is learned is added to the photo's own tokens: the one reading under which all of its sizes fit. It
has a use, too: output projections begin at zero, so an untrained fusion changes nothing of CLIP.

A photo without a map has a map of no class all over: s is then CLS and positions, with nothing added. An encoder that
was trained with `leave_out` has seen many of these, and takes them.
"""

import torch
from torch import nn
from torch.nn.functional import embedding_bag, scaled_dot_product_attention
from transformers import CLIPVisionConfig

from encoder.class_maps import NO_CLASS
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


class LatentAttention(nn.Module):
    """Multi-head attention whose keys and values are made from a narrow latent of the tokens attended to."""

    def __init__(self, config: FusionConfig, *, hidden_size: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.width, hidden_size, bias=False)
        self.latent = nn.Linear(hidden_size, config.latent, bias=False)
        self.key_value = nn.Linear(config.latent, 2 * hidden_size, bias=False)
        self.out = nn.Linear(hidden_size, hidden_size)

    def forward(self, segmentation: torch.Tensor, photo: torch.Tensor) -> torch.Tensor:
        """Tokens that queries come from (B, Q, width), and keys and values (B, T, hidden), to (B, Q, hidden)."""
        query = self._by_head(self.query(segmentation))
        key, value = (self._by_head(part) for part in self.key_value(self.latent(photo)).chunk(2, dim=-1))
        return self.out(scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))

    def _by_head(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.view(*tokens.shape[:2], self.heads, -1).transpose(1, 2)


class FusionBlock(nn.Module):
    """One block: latent attention, then an MLP, each added to the photo's tokens."""

    def __init__(self, config: FusionConfig, *, hidden_size: int) -> None:
        super().__init__()
        self.norm_map = nn.LayerNorm(config.width)
        self.norm_photo = nn.LayerNorm(hidden_size)
        self.attention = LatentAttention(config, hidden_size=hidden_size)
        self.norm_mlp = nn.LayerNorm(hidden_size)
        self.mlp_in = nn.Linear(hidden_size, config.mlp_size)
        self.mlp_out = nn.Linear(config.mlp_size, hidden_size)

    def forward(self, photo: torch.Tensor, segmentation: torch.Tensor) -> torch.Tensor:
        """Photo tokens (B, T, hidden) to their first Q tokens, changed: Q is how many segmentation tokens there are."""
        seen = self.attention(self.norm_map(segmentation), self.norm_photo(photo))
        changed = photo[:, : segmentation.shape[1]] + seen
        return changed + self.mlp_out(nn.functional.gelu(self.mlp_in(self.norm_mlp(changed))))


class SemanticFusion(nn.Module):
    """The fusion as a whole: a photo's tokens and its class map to one fused token."""

    def __init__(self, config: FusionConfig, vision: CLIPVisionConfig) -> None:
        """Raises InputError where no fusion can have these sizes, before such a vision transformer."""
        super().__init__()
        config.check(hidden_size=vision.hidden_size)
        self.tokens = SegmentationTokens(config, image_size=vision.image_size, patch_size=vision.patch_size)
        self.blocks = nn.ModuleList(FusionBlock(config, hidden_size=vision.hidden_size) for _ in range(config.blocks))

    def forward(self, photo: torch.Tensor, class_maps: torch.Tensor) -> torch.Tensor:
        """Photo tokens (B, 1 + T, hidden), CLS first, and maps (B, H, W) uint8 to the fused CLS (B, hidden)."""
        segmentation = self.tokens(class_maps)
        for block in self.blocks[:-1]:
            photo = block(photo, segmentation)
        # Nobody reads what the last block makes of the other tokens.
        return self.blocks[-1](photo, segmentation[:, :1])[:, 0]

    def initialise(self) -> None:
        """Draw the weights. Output projections are zero: the photo's tokens pass unchanged."""
        self.tokens.initialise()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, FusionBlock):
                nn.init.zeros_(module.attention.out.weight)
                nn.init.zeros_(module.mlp_out.weight)
