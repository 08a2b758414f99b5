"""Semantic fusion: a photo's tokens and its class map become one token (paper section III-B).

The paper says that tokens of the map ask and tokens of the photo answer, in blocks of attention and an MLP with
residual connections, and that a fused CLS token is read at the end. It leaves open which stream the residual
connections keep: the 128 numbers of a map's token or the 1024 of a photo's. `FusionConfig.kind` says which way it
goes. In all of them

    s = patches of the class map, each linearly projected, + CLS + positions              (B, 1 + T, width)
    x = the photo's tokens, CLS first, as the vision transformer leaves them              (B, 1 + T, hidden)

and what comes out stands in the place of x's CLS token, (B, hidden). An untrained fusion of any kind changes nothing of
CLIP: what is added to x begins at zero.

A photo without a map has a map of no class all over: s is then CLS and positions, with nothing added. An encoder that
was trained with `leave_out` has seen many of these, and takes them.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.functional import gelu
from transformers import CLIPVisionConfig

from encoder.config import FusionConfig, FusionKind
from encoder.models.attention import LatentAttention
from encoder.models.map_tokens import SegmentationTokens


class SemanticFusion(nn.Module, ABC):
    """What every kind is."""

    def __init__(self, config: FusionConfig, vision: CLIPVisionConfig) -> None:
        super().__init__()
        self.tokens = SegmentationTokens(config, image_size=vision.image_size, patch_size=vision.patch_size)

    @abstractmethod
    def forward(self, photo: torch.Tensor, class_maps: torch.Tensor) -> torch.Tensor:
        """Photo tokens (B, 1 + T, hidden), CLS first, and maps (B, H, W) uint8 to the fused CLS (B, hidden)."""

    @abstractmethod
    def added(self) -> Iterator[nn.Linear]:
        """The maps whose results are added to the photo's tokens."""

    def initialise(self) -> None:
        """Draw the weights. What is added to the photo's tokens is zero: they pass unchanged."""
        self.tokens.initialise()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for linear in self.added():
            nn.init.zeros_(linear.weight)


class SteerBlock(nn.Module):
    """One block: latent attention, then an MLP, each added to the photo's tokens."""

    def __init__(self, config: FusionConfig, *, hidden_size: int) -> None:
        super().__init__()
        self.norm_map = nn.LayerNorm(config.width)
        self.norm_photo = nn.LayerNorm(hidden_size)
        self.attention = LatentAttention(config, hidden_size=hidden_size, out_size=hidden_size)
        self.norm_mlp = nn.LayerNorm(hidden_size)
        self.mlp_in = nn.Linear(hidden_size, config.mlp_size)
        self.mlp_out = nn.Linear(config.mlp_size, hidden_size)

    def forward(self, photo: torch.Tensor, segmentation: torch.Tensor) -> torch.Tensor:
        """Photo tokens (B, T, hidden) to their first Q tokens, changed: Q is how many segmentation tokens there are."""
        seen = self.attention(self.norm_map(segmentation), self.norm_photo(photo))
        changed = photo[:, : segmentation.shape[1]] + seen
        return changed + self.mlp_out(gelu(self.mlp_in(self.norm_mlp(changed))))


class Steer(SemanticFusion):
    """The map steers where the photo's tokens look; the stream is the photo's.

        each block:  x = x + W_o attention(queries from LN(s), keys and values from LN(x))
                     x = x + MLP(LN(x))
        out: x's CLS token

    The one reading under which all of the paper's sizes fit: a query of 128, the rest of 1024, fused tokens for every
    patch, and a fused CLS that CLIP's own norm and projection take. Of a single block the map decides nothing: patches
    of it change the tokens of patches, which only a further block hands on to the CLS token.
    """

    def __init__(self, config: FusionConfig, vision: CLIPVisionConfig) -> None:
        super().__init__(config, vision)
        self.blocks = nn.ModuleList(SteerBlock(config, hidden_size=vision.hidden_size) for _ in range(config.blocks))

    def forward(self, photo: torch.Tensor, class_maps: torch.Tensor) -> torch.Tensor:
        """As SemanticFusion."""
        segmentation = self.tokens(class_maps)
        for block in self.blocks[:-1]:
            photo = block(photo, segmentation)
        # Nobody reads what the last block makes of the other tokens.
        return self.blocks[-1](photo, segmentation[:, :1])[:, 0]

    def added(self) -> Iterator[nn.Linear]:
        """As SemanticFusion."""
        for block in self.blocks:
            assert isinstance(block, SteerBlock)
            yield from (block.attention.out, block.mlp_out)


class GatherBlock(nn.Module):
    """One block: segmentation tokens ask the photo, then pass an MLP; both are added to them."""

    def __init__(self, config: FusionConfig, *, hidden_size: int) -> None:
        super().__init__()
        self.norm_map = nn.LayerNorm(config.width)
        self.norm_photo = nn.LayerNorm(hidden_size)
        self.attention = LatentAttention(config, hidden_size=hidden_size, out_size=config.width)
        self.norm_mlp = nn.LayerNorm(config.width)
        self.mlp_in = nn.Linear(config.width, config.mlp_size)
        self.mlp_out = nn.Linear(config.mlp_size, config.width)

    def forward(self, segmentation: torch.Tensor, photo: torch.Tensor) -> torch.Tensor:
        """Segmentation tokens (B, Q, width), changed, from photo tokens (B, T, hidden)."""
        segmentation = segmentation + self.attention(self.norm_map(segmentation), self.norm_photo(photo))
        return segmentation + self.mlp_out(gelu(self.mlp_in(self.norm_mlp(segmentation))))


class Gather(SemanticFusion):
    """Tokens of the map gather from the photo what they need; the stream is the map's, and all of it is read.

        each block:  s = s + W_o attention(queries from LN(s), keys and values from LN(x))
                     s = s + MLP(LN(s))
        out: x's CLS token + MLP(LN(s)), of all tokens of s, one behind the other

    The other reading of the residual connections. What is read is not in the text, whose fused CLS token would never
    hear the map: it asks the photo and nothing else, of however many blocks. The photo's own CLS token stays, for a
    fused one alone would confine all photo vectors to as many dimensions as a segmentation token has. Of a single block
    the map already decides.
    """

    def __init__(self, config: FusionConfig, vision: CLIPVisionConfig) -> None:
        super().__init__(config, vision)
        self.blocks = nn.ModuleList(GatherBlock(config, hidden_size=vision.hidden_size) for _ in range(config.blocks))
        self.reading = TokenReader(config, n_tokens=len(self.tokens.positions), hidden_size=vision.hidden_size)

    def forward(self, photo: torch.Tensor, class_maps: torch.Tensor) -> torch.Tensor:
        """As SemanticFusion."""
        segmentation = self.tokens(class_maps)
        for block in self.blocks:
            segmentation = block(segmentation, photo)
        return photo[:, 0] + self.reading(segmentation)

    def added(self) -> Iterator[nn.Linear]:
        """As SemanticFusion."""
        yield self.reading.mlp_out


class TokenReader(nn.Module):
    """An MLP over all segmentation tokens, one behind the other."""

    def __init__(self, config: FusionConfig, *, n_tokens: int, hidden_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.mlp_in = nn.Linear(n_tokens * config.width, config.mlp_size)
        self.mlp_out = nn.Linear(config.mlp_size, hidden_size)

    def forward(self, segmentation: torch.Tensor) -> torch.Tensor:
        """Tokens (B, Q, width) to (B, hidden)."""
        return self.mlp_out(gelu(self.mlp_in(self.norm(segmentation).flatten(1))))


class Concatenate(SemanticFusion):
    """Map and photo each by itself, no attention: all tokens of the map, one behind the other, through an MLP.

        out: x's CLS token + MLP(LN(s))

    The sum is a linear map of both, one behind the other. `latent`, `heads` and `blocks` say nothing.
    """

    def __init__(self, config: FusionConfig, vision: CLIPVisionConfig) -> None:
        super().__init__(config, vision)
        self.reading = TokenReader(config, n_tokens=len(self.tokens.positions), hidden_size=vision.hidden_size)

    def forward(self, photo: torch.Tensor, class_maps: torch.Tensor) -> torch.Tensor:
        """As SemanticFusion."""
        return photo[:, 0] + self.reading(self.tokens(class_maps))

    def added(self) -> Iterator[nn.Linear]:
        """As SemanticFusion."""
        yield self.reading.mlp_out


KINDS: dict[FusionKind, type[SemanticFusion]] = {"steer": Steer, "gather": Gather, "concatenate": Concatenate}


def make_fusion(config: FusionConfig, vision: CLIPVisionConfig) -> SemanticFusion:
    """The fusion that a configuration describes, its weights not drawn yet.

    Raises:
        InputError: no fusion can have these sizes, before such a vision transformer.
    """
    config.check(hidden_size=vision.hidden_size)
    return KINDS[config.kind](config, vision)
