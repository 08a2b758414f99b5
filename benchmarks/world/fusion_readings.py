"""Ways to read the paper's semantic fusion, and ideas of our own, that are compared and that no product offers.

Each is one class behind the interface of `encoder.models.fusion`, whose formulas these change: s are segmentation
tokens, x the photo's tokens. Of what a reading does not use it has no weights. Not among them is `gather` without
attention among s, which hears nothing of the map at all.

    carried        steer, whose s take up what photo tokens became: s = s + W LN(x) after each block but the last
    added_once     steer, with x = x + W LN(s) before the first block
    added          the same before each block
    mixed          gather, whose tokens are mixed by an MLP over their number in place of attention among them
    whole          gather, of which all tokens are read at the end as `concatenate` reads those of the map
    asked          whole without attention among segmentation tokens: each asks the photo, and nothing else
    exchange       gather, whose photo tokens ask the map's in turn in each block, and are what is read
"""

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.functional import gelu
from transformers import CLIPVisionConfig

from encoder.config import FusionConfig
from encoder.models.attention import attended
from encoder.models.fusion import Gather, GatherBlock, SemanticFusion, Steer


class Carried(Steer):
    """Queries that take up what photo tokens became."""

    def __init__(self, config: FusionConfig, vision: CLIPVisionConfig) -> None:
        super().__init__(config, vision)
        size, passes = vision.hidden_size, range(config.blocks - 1)
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in passes)
        self.taken_up = nn.ModuleList(nn.Linear(size, config.width, bias=False) for _ in passes)

    def forward(self, photo: torch.Tensor, class_maps: torch.Tensor) -> torch.Tensor:
        """As SemanticFusion."""
        segmentation = self.tokens(class_maps)
        for block, norm, taken_up in zip(self.blocks, self.norms, self.taken_up, strict=False):  # all but the last
            photo = block(photo, segmentation)
            segmentation = segmentation + taken_up(norm(photo))
        return self.blocks[-1](photo, segmentation[:, :1])[:, 0]


class Added(Steer):
    """Segmentation tokens that are also added to the photo's, before each block."""

    def __init__(self, config: FusionConfig, vision: CLIPVisionConfig) -> None:
        super().__init__(config, vision)
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(self.times(config)))
        self.adding = nn.ModuleList(
            nn.Linear(config.width, vision.hidden_size, bias=False) for _ in range(self.times(config))
        )

    def times(self, config: FusionConfig) -> int:
        """Before how many blocks, from the first on."""
        return config.blocks

    def forward(self, photo: torch.Tensor, class_maps: torch.Tensor) -> torch.Tensor:
        """As SemanticFusion."""
        segmentation = self.tokens(class_maps)
        for number, block in enumerate(self.blocks):
            if number < len(self.adding):
                photo = photo + self.adding[number](self.norms[number](segmentation))
            photo = block(photo, segmentation if number + 1 < len(self.blocks) else segmentation[:, :1])
        return photo[:, 0]

    def added(self) -> Iterator[nn.Linear]:
        """As SemanticFusion."""
        yield from super().added()
        for linear in self.adding:
            assert isinstance(linear, nn.Linear)
            yield linear


class AddedOnce(Added):
    """The same before the first block alone."""

    def times(self, config: FusionConfig) -> int:
        """Once."""
        return 1


class TokenMlp(nn.Module):
    """An MLP over the number of a token, for each of its dimensions by itself (MLP-Mixer, Tolstikhin et al. 2021)."""

    def __init__(self, n_tokens: int) -> None:
        super().__init__()
        self.mlp_in = nn.Linear(n_tokens, 2 * n_tokens)
        self.mlp_out = nn.Linear(2 * n_tokens, n_tokens)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, T, width) to the same shape."""
        return self.mlp_out(gelu(self.mlp_in(tokens.mT))).mT


class Mixed(Gather):
    """Segmentation tokens that are mixed by an MLP in place of attention."""

    def __init__(self, config: FusionConfig, vision: CLIPVisionConfig) -> None:
        super().__init__(config, vision)
        for block in self.blocks:
            assert isinstance(block, GatherBlock)
            block.own = TokenMlp(len(self.tokens.positions))


class Whole(SemanticFusion):
    """All segmentation tokens that gathered are read, one behind the other."""

    def __init__(self, config: FusionConfig, vision: CLIPVisionConfig) -> None:
        super().__init__(config, vision)
        self.blocks = nn.ModuleList(GatherBlock(config, hidden_size=vision.hidden_size) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)
        self.mlp_in = nn.Linear(self.tokens.positions.numel(), config.mlp_size)
        self.mlp_out = nn.Linear(config.mlp_size, vision.hidden_size)

    def forward(self, photo: torch.Tensor, class_maps: torch.Tensor) -> torch.Tensor:
        """As SemanticFusion."""
        segmentation = self.tokens(class_maps)
        for block in self.blocks:
            segmentation = block(segmentation, photo)
        return photo[:, 0] + self.mlp_out(gelu(self.mlp_in(self.norm(segmentation).flatten(1))))

    def added(self) -> Iterator[nn.Linear]:
        """As SemanticFusion."""
        yield self.mlp_out


class Nothing(nn.Module):
    """In place of attention among tokens."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Zeros."""
        return torch.zeros_like(tokens)


class Asked(Whole):
    """Segmentation tokens that do not hear one another."""

    def __init__(self, config: FusionConfig, vision: CLIPVisionConfig) -> None:
        super().__init__(config, vision)
        for block in self.blocks:
            assert isinstance(block, GatherBlock)
            block.own, block.norm_own = Nothing(), nn.Identity()  # type: ignore[assignment]


class ExchangeBlock(nn.Module):
    """One block: segmentation tokens gather, then photo tokens ask them, then an MLP of the photo's."""

    def __init__(self, config: FusionConfig, *, hidden_size: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.gathering = GatherBlock(config, hidden_size=hidden_size)
        self.norm_photo = nn.LayerNorm(hidden_size)
        self.norm_map = nn.LayerNorm(config.width)
        self.query = nn.Linear(hidden_size, config.width, bias=False)
        self.key_value = nn.Linear(config.width, 2 * config.width, bias=False)
        self.out = nn.Linear(config.width, hidden_size)
        self.norm_mlp = nn.LayerNorm(hidden_size)
        self.mlp_in = nn.Linear(hidden_size, config.mlp_size)
        self.mlp_out = nn.Linear(config.mlp_size, hidden_size)

    def forward(self, segmentation: torch.Tensor, photo: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Segmentation tokens (B, Q, width) and photo tokens (B, T, hidden) to both, changed."""
        segmentation = self.gathering(segmentation, photo)
        key, value = self.key_value(self.norm_map(segmentation)).chunk(2, -1)
        photo = photo + self.out(attended(self.query(self.norm_photo(photo)), key, value, heads=self.heads))
        return segmentation, photo + self.mlp_out(gelu(self.mlp_in(self.norm_mlp(photo))))


class Exchange(SemanticFusion):
    """Both streams are kept, and each asks the other."""

    def __init__(self, config: FusionConfig, vision: CLIPVisionConfig) -> None:
        super().__init__(config, vision)
        self.blocks = nn.ModuleList(ExchangeBlock(config, hidden_size=vision.hidden_size) for _ in range(config.blocks))

    def forward(self, photo: torch.Tensor, class_maps: torch.Tensor) -> torch.Tensor:
        """As SemanticFusion."""
        segmentation = self.tokens(class_maps)
        for block in self.blocks:
            segmentation, photo = block(segmentation, photo)
        return photo[:, 0]

    def added(self) -> Iterator[nn.Linear]:
        """As SemanticFusion."""
        for block in self.blocks:
            assert isinstance(block, ExchangeBlock)
            yield from (block.out, block.mlp_out)


READINGS: dict[str, type[SemanticFusion]] = {
    "carried": Carried,
    "added_once": AddedOnce,
    "added": Added,
    "mixed": Mixed,
    "whole": Whole,
    "asked": Asked,
    "exchange": Exchange,
}
