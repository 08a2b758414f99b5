"""The visual encoder: a CLIP vision transformer whose class token becomes one unit vector (paper section III-B).

CLS token, after the fusion with a class map where there is one -> CLIP's post layer norm -> linear projection -> a head
where there is one -> unit length: for the weights of a published CLIP this is its own image embedding, and with
GeoCLIP's head on top it is GeoCLIP's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModel, CLIPVisionConfig, CLIPVisionModel, PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.initialization import no_init_weights

from encoder.config import FusionConfig, Preprocessing
from encoder.models.files import weights_of
from encoder.models.fusion import make_fusion
from indexer.errors import InputError

VIT_LARGE_336 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}


class GeoEncoderConfig(PreTrainedConfig):
    """Sizes of a GeoEncoder; the defaults are those of openai/clip-vit-large-patch14-336.

    Raises:
        InputError: the sizes do not make a vision transformer, or photos are not prepared in the size it sees.
    """

    model_type = "geosurge"
    sub_configs_defaults = {"vision_config": CLIPVisionConfig}  # noqa: RUF012 (transformers declares it a ClassVar)

    vision_config: Any = None  # a CLIPVisionConfig or a dict of its fields
    projection_dim: int = 768
    head: list[int] | None = None  # widths of linear layers after the projection, a ReLU between them; None: no head
    preprocessing: dict[str, Any] | None = None  # a Preprocessing as a dict
    fusion: dict[str, Any] | None = None  # a FusionConfig as a dict; None: photos alone, no class maps

    def __post_init__(self, **kwargs: Any) -> None:
        if not isinstance(self.vision_config, CLIPVisionConfig):
            try:
                self.vision_config = CLIPVisionConfig(**(self.vision_config or VIT_LARGE_336))
            except (StrictDataclassError, ZeroDivisionError) as error:  # the second: no attention heads at all
                raise InputError(f"These sizes do not make a vision transformer: {error}") from None
        size, patch = self.vision_config.image_size, self.vision_config.patch_size
        widths = [self.projection_dim, *(self.head or ())]
        if not 1 <= patch <= size or min(widths) < 1:
            raise InputError(
                f"Patches of {patch} pixels in an image of {size}, {min(widths)} dimensions: all must be at "
                "least 1, and a patch must fit into the image."
            )
        if self.vision_config.hidden_act not in ACT2FN:
            raise InputError(f"There is no activation {self.vision_config.hidden_act!r}; CLIP's is 'quick_gelu'.")
        if self.preprocessing is None:
            self.preprocessing = Preprocessing(size, size).to_dict()
        crop = Preprocessing.from_dict(self.preprocessing).crop
        if crop != size:
            raise InputError(f"The encoder sees {size} x {size} pixels, but photos are cut to {crop} x {crop}.")
        if self.fusion is not None:
            FusionConfig(**self.fusion).check(hidden_size=self.vision_config.hidden_size)
        super().__post_init__(**kwargs)


class GeoEncoder(PreTrainedModel):
    """Photos in, unit vectors out."""

    config_class = GeoEncoderConfig
    base_model_prefix = "vision"
    main_input_name = "pixels"
    _supports_sdpa = True

    def __init__(self, config: GeoEncoderConfig) -> None:
        super().__init__(config)
        vision = config.vision_config
        self.vision = CLIPVisionModel(vision)
        self.projection = nn.Linear(vision.hidden_size, config.projection_dim, bias=False)
        self.head = None if config.head is None else make_head(config.projection_dim, config.head)
        self.fusion = None if self.fusion_config is None else make_fusion(self.fusion_config, vision)
        self.post_init()

    @classmethod
    def with_weights(cls, config: GeoEncoderConfig, weights: Mapping[str, torch.Tensor], file: Path) -> Self:
        """One with exactly these weights, of a file; an ArtifactError for one missing, left over or of another shape.

        Torch's random state is left as it was.
        """
        # Every weight is about to be replaced: random ones take seconds for a large model, and draws the caller did not
        # ask for would change what a seed gives.
        with no_init_weights(), torch.random.fork_rng(devices=[]):
            model = cls(config)
        with weights_of("encoder", file):
            model.load_state_dict(weights)
        return model

    def forward(self, pixels: torch.Tensor, class_maps: torch.Tensor | None = None) -> torch.Tensor:
        """Normalised pixels (B, 3, H, W) and, for an encoder with fusion, maps (B, H, W) uint8 to unit vectors (B, D).

        Vectors are float32. Class ids are below `fusion_config.classes`, or 255 for none; this is not checked here.
        """
        return nn.functional.normalize(self.unscaled(pixels, class_maps), dim=-1)

    def unscaled(self, pixels: torch.Tensor, class_maps: torch.Tensor | None = None) -> torch.Tensor:
        """The same before vectors are scaled to length 1."""
        if (self.fusion is None) != (class_maps is None):
            raise ValueError("an encoder with fusion takes class maps, one without takes none")
        seen = self.vision(pixel_values=pixels)
        if self.fusion is None:
            pooled = seen.pooler_output
        else:
            pooled = self.vision.post_layernorm(self.fusion(seen.last_hidden_state, class_maps))
        projected = self.projection(pooled)
        return (projected if self.head is None else self.head(projected)).float()

    @property
    def width(self) -> int:
        """D, the number of dimensions of its vectors."""
        return int(self.config.head[-1] if self.config.head else self.config.projection_dim)

    @property
    def preprocessing(self) -> Preprocessing:
        """How photos must be prepared for this model."""
        return Preprocessing.from_dict(self.config.preprocessing)

    @property
    def fusion_config(self) -> FusionConfig | None:
        """Kind and sizes of the semantic fusion; None for an encoder that sees photos alone."""
        return None if self.config.fusion is None else FusionConfig(**self.config.fusion)

    def add_fusion(self, fusion: FusionConfig) -> None:
        """Put a new fusion in front of the projection. At first it changes nothing.

        Its weights come from torch's global generator.
        """
        self.fusion = make_fusion(fusion, self.config.vision_config)
        self.fusion.initialise()
        self.config.fusion = asdict(fusion)

    def add_head(self, head: nn.Sequential) -> None:
        """Put a head, as `make_head` makes it, upon the projection; an InputError where it takes another width."""
        linear = [layer for layer in head if isinstance(layer, nn.Linear)]
        if linear[0].in_features != self.width:
            raise InputError(f"A head for {linear[0].in_features} dimensions upon an encoder of {self.width}.")
        self.head = head
        self.config.head = [layer.out_features for layer in linear]

    def freeze(self, *, trainable_blocks: int) -> None:
        """Leave only the last blocks of the vision transformer to be learned, with all that comes after them.

        No part of a graph is built for the frozen blocks: nothing below the first learned block asks for a gradient.
        """
        blocks = self.vision.encoder.layers
        if not 0 <= trainable_blocks <= len(blocks):
            raise InputError(f"trainable_blocks must be from 0 to {len(blocks)}, not {trainable_blocks}.")
        frozen = (self.vision.embeddings, self.vision.pre_layrnorm, *blocks[: len(blocks) - trainable_blocks])
        for module in frozen:
            module.requires_grad_(False)

    def init_weights(self) -> None:
        """Draw all weights; transformers calls it when a model is made, and not for one that is loaded."""
        super().init_weights()
        if self.fusion is not None:  # `_init_weights` below sees only modules with weights of their own
            self.fusion.initialise()

    def _init_weights(self, module: nn.Module) -> None:
        if module is self.projection:
            nn.init.normal_(module.weight, std=self.config.vision_config.hidden_size**-0.5)
        else:
            super()._init_weights(module)


def make_head(width: int, widths: Sequence[int]) -> nn.Sequential:
    """Linear layers with biases and a ReLU between them: (B, width) to (B, widths[-1])."""
    layers: list[nn.Module] = []
    for begin, end in pairwise([width, *widths]):
        layers += [nn.ReLU(), nn.Linear(begin, end)]
    return nn.Sequential(*layers[1:])


# So that transformers' own `AutoModel.from_pretrained` opens a checkpoint folder wherever this module was imported.
AutoConfig.register(GeoEncoderConfig.model_type, GeoEncoderConfig)
AutoModel.register(GeoEncoderConfig, GeoEncoder)
