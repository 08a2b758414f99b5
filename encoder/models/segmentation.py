"""Semantic segmentation with OneFormer: photos in, class maps out (`encoder.class_maps.class_map`).

What transformers' own processor does before the model is done here in the same arithmetic, without a tokenizer, and
with the photo resized where it is decoded and the rest on the model's device.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import OneFormerConfig, OneFormerForUniversalSegmentation
from transformers.models.oneformer.image_processing_pil_oneformer import OneFormerImageProcessorPil

from encoder.config import MAX_CLASSES, SEGMENT_BATCH
from encoder.models.files import (
    CONFIG_FILE,
    PROCESSOR_FILES,
    WEIGHTS_FILE,
    digest_of,
    fetch,
    one_line,
    read_json,
    settings_of,
    weights_of,
)
from encoder.models.weights import open_weights
from encoder.photos.crops import groups
from encoder.photos.photo_reader import PreparedPhoto, SegmenterInput
from indexer.errors import InputError, MissingBackend

# "the task is semantic" as CLIP's tokenizer writes it, start and end included; zeros fill it up, because OneFormer's
# processor multiplies token ids by their mask.
_SEMANTIC_TASK = (49406, 518, 10549, 533, 29119, 1550, 49407)
# What an image processor's file may hold beyond its settings: it would fetch the classes' names for training texts.
_METADATA = ("class_info_file", "repo_path", "metadata")


@dataclass(frozen=True, slots=True, eq=False)
class Segmenter:
    """A OneFormer ready to use for semantic segmentation."""

    model: OneFormerForUniversalSegmentation  # in eval mode, on its device
    input: SegmenterInput
    class_names: tuple[str, ...]  # by class number
    name: str  # hub id or folder
    digest: str  # SHA-256 over its configuration, weights and processor settings: what maps are tied to

    @property
    def n_classes(self) -> int:
        """Classes are numbered from 0 to one less than this."""
        return len(self.class_names)

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return torch.device(self.model.device)

    def maps(self, photos: Sequence[PreparedPhoto]) -> list[np.ndarray]:
        """Class maps (h, w) uint8 of photos that were prepared to one size, in one pass through the model.

        One size only: OneFormer takes no notice of the mask over padding, and a padded photo gets another map.
        """
        pixels = torch.stack([torch.as_tensor(photo.pixels) for photo in photos]).to(self.device)
        low = self.device.type == "cuda"  # bfloat16 where it is fast for certain; on CPUs float32 is the reference
        with torch.inference_mode():
            batch = self._normalised(pixels)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
                output = self.model(pixel_values=batch, task_inputs=batch.new_zeros(len(batch), 1))  # see _TaskToken
            maps = OneFormerImageProcessorPil().post_process_semantic_segmentation(
                SimpleNamespace(  # as float32
                    class_queries_logits=output.class_queries_logits.float(),
                    masks_queries_logits=output.masks_queries_logits.float(),
                ),
                [photo.map_shape for photo in photos],
            )
        return [classes.to(torch.uint8).cpu().numpy() for classes in maps]

    def segment(self, photos: Sequence[PreparedPhoto]) -> list[np.ndarray]:
        """Class maps (h, w) uint8 of prepared photos of any sizes, a few of one size in one pass."""
        maps: dict[int, np.ndarray] = {}
        for rows in groups([tuple(photo.pixels.shape) for photo in photos]).values():
            for first in range(0, len(rows), SEGMENT_BATCH):
                batch = rows[first : first + SEGMENT_BATCH]
                maps |= zip(batch, self.maps([photos[row] for row in batch]), strict=True)
        return [maps[row] for row in range(len(photos))]

    def _normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, H, W, 3) uint8 to model input (B, 3, H, W) float32."""
        mean, std = (torch.tensor(values, device=pixels.device) for values in (self.input.mean, self.input.std))
        # Rescaled in double precision and rounded then, as transformers does.
        rescaled = (pixels.double() * self.input.rescale_factor).float()
        return ((rescaled - mean) / std).permute(0, 3, 1, 2).contiguous()


def load_segmenter(name: str, *, device: torch.device | None = None) -> Segmenter:
    """Open a OneFormer: a hub id such as `shi-labs/oneformer_ade20k_swin_large`, or a folder in its layout.

    Torch's random state is left as it was.

    Raises:
        InputError: the hub cannot be reached, it is no OneFormer, or it has more classes than a map can hold.
        ArtifactError: the weights are damaged, or not those of its configuration.
        MissingBackend: its backbone needs a package that is not installed.
    """
    config_file = fetch(name, CONFIG_FILE)
    raw = read_json(config_file)
    if raw.get("model_type") != "oneformer":
        raise InputError(f"{name}: its model type is {raw.get('model_type')!r}; a OneFormer ('oneformer') is needed.")
    weights_file, processor_file = fetch(name, WEIGHTS_FILE), fetch(name, *PROCESSOR_FILES)
    processor = read_json(processor_file)
    with settings_of("a OneFormer", name, config_file, processor_file):
        config = OneFormerConfig.from_dict(raw | {"is_training": False, "use_auxiliary_loss": False})
        names = tuple(str(config.id2label[number]) for number in range(config.num_labels))
        unfilled = config.task_seq_len - len(_SEMANTIC_TASK)
        if unfilled < 0:
            raise ValueError(f"task_seq_len is {config.task_seq_len}; the task takes {len(_SEMANTIC_TASK)} tokens")
        task = torch.tensor(
            [[*_SEMANTIC_TASK, *[0] * unfilled]], dtype=torch.float32
        )  # (1, length), as OneFormer has it
        settings = _input(processor.get("image_processor", processor), str(processor_file))
    if len(names) > MAX_CLASSES:
        raise InputError(
            f"{name}: {len(names)} classes; a class map holds at most {MAX_CLASSES}. Use a model of fewer classes."
        )
    if config.conv_dim != config.hidden_dim or config.enforce_input_proj:
        raise InputError(
            f"{name}: conv_dim {config.conv_dim} and hidden_dim {config.hidden_dim} must be equal, without "
            "enforce_input_proj: transformers does not save the layers between them."
        )
    model = _model(name, config, weights_file)
    model.model.task_encoder = _TaskToken(model.model.task_encoder(task))
    if device is not None:
        model.to(device)
    return Segmenter(model, settings, names, name, digest_of(config_file, weights_file, processor_file))


def _input(values: dict[str, Any], file: str) -> SegmenterInput:
    """Settings of a OneFormer image processor, refused where it does anything this module does not."""
    processor = OneFormerImageProcessorPil.from_dict({k: v for k, v in values.items() if k not in _METADATA})
    shortest, longest = processor.size.shortest_edge, processor.size.longest_edge or values.get("max_size")
    if not (processor.do_resize and processor.do_rescale and processor.do_normalize and shortest and longest):
        raise InputError(
            f"{file}: this image processor does not prepare photos as OneFormer does (resized by shortest_edge and "
            "longest_edge, rescaled, normalised). Its maps would not be the model's."
        )
    mean, std = (tuple(float(value) for value in values) for values in (processor.image_mean, processor.image_std))
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(f"three means and three stds above 0 are needed, not {mean}, {std}")
    resample = Image.Resampling(processor.resample)
    return SegmenterInput(int(shortest), int(longest), resample, float(processor.rescale_factor), mean, std)


def _model(name: str, config: OneFormerConfig, weights_file: Path) -> OneFormerForUniversalSegmentation:
    """A OneFormer in eval mode with exactly these weights; what only training needs may be missing or left over."""
    with weights_of("segmenter", weights_file):
        try:
            model, misfits = open_weights(OneFormerForUniversalSegmentation, config, weights_file)
        except ImportError as error:
            raise MissingBackend(f"{name}: {one_line(error)}") from None
        missing = [key for key in misfits.missing if not key.startswith("criterion.")]
        if missing or misfits.changed:
            missed, changed = (", ".join(keys[:3]) or "none" for keys in (missing, misfits.changed))
            raise ValueError(f"missing: {missed}; of another shape: {changed}")
    return model


class _TaskToken(nn.Module):
    """The task's token (1, hidden), worked out once in float32, in place of the layers that make it.

    OneFormer feeds token ids as numbers into a linear layer, and of 49,406 bfloat16 keeps eight bits.
    """

    token: torch.Tensor

    def __init__(self, token: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("token", token, persistent=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The token for each row of `inputs` (B, any), whatever these hold: (B, hidden)."""
        return self.token.expand(len(inputs), -1)
