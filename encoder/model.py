"""The visual encoder: a CLIP vision transformer whose class token becomes one unit vector (paper section III-B).

CLS token -> CLIP's post layer norm -> linear projection -> unit length: for the weights of a published CLIP this is its
own image embedding.
"""

from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN

from encoder.crops import Preprocessing
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
    preprocessing: dict[str, Any] | None = None  # a Preprocessing as a dict

    def __post_init__(self, **kwargs: Any) -> None:
        if not isinstance(self.vision_config, CLIPVisionConfig):
            try:
                self.vision_config = CLIPVisionConfig(**(self.vision_config or VIT_LARGE_336))
            except (StrictDataclassError, ZeroDivisionError) as error:  # the second: no attention heads at all
                raise InputError(f"These sizes do not make a vision transformer: {error}") from None
        size, patch = self.vision_config.image_size, self.vision_config.patch_size
        if not 1 <= patch <= size or self.projection_dim < 1:
            raise InputError(
                f"Patches of {patch} pixels in a picture of {size}, {self.projection_dim} dimensions: all must be at "
                "least 1, and a patch must fit into the picture."
            )
        if self.vision_config.hidden_act not in ACT2FN:
            raise InputError(f"There is no activation {self.vision_config.hidden_act!r}; CLIP's is 'quick_gelu'.")
        if self.preprocessing is None:
            self.preprocessing = Preprocessing(size, size).to_dict()
        crop = Preprocessing.from_dict(self.preprocessing).crop
        if crop != size:
            raise InputError(f"The encoder sees {size} x {size} pixels, but photos are cut to {crop} x {crop}.")
        super().__post_init__(**kwargs)


class GeoEncoder(PreTrainedModel):
    """Photos in, unit vectors out."""

    config_class = GeoEncoderConfig
    base_model_prefix = "vision"
    main_input_name = "pixels"
    _supports_sdpa = True

    def __init__(self, config: GeoEncoderConfig) -> None:
        super().__init__(config)
        self.vision = CLIPVisionModel(config.vision_config)
        self.projection = nn.Linear(config.vision_config.hidden_size, config.projection_dim, bias=False)
        self.post_init()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised pixels (B, 3, H, W) to unit vectors (B, D) float32."""
        pooled = self.vision(pixel_values=pixels).pooler_output
        return nn.functional.normalize(self.projection(pooled).float(), dim=-1)

    @property
    def preprocessing(self) -> Preprocessing:
        """How photos must be prepared for this model."""
        return Preprocessing.from_dict(self.config.preprocessing)

    def _init_weights(self, module: nn.Module) -> None:
        if module is self.projection:
            nn.init.normal_(module.weight, std=self.config.vision_config.hidden_size**-0.5)
        else:
            super()._init_weights(module)
