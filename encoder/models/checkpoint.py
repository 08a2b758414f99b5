"""Encoders from disk: checkpoint folders, and any plain CLIP or pushed encoder as `hf:<hub id or folder>`.

Nothing here reads a pickle.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig
from transformers.initialization import no_init_weights
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from encoder.config import Preprocessing
from encoder.models.files import (
    CONFIG_FILE,
    HUB_PREFIX,
    PROCESSOR_FILES,
    WEIGHTS_FILE,
    digest_of,
    encoder_digest,
    fetch,
    read_json,
    settings_of,
    weights_of,
)
from encoder.models.model import GeoEncoder, GeoEncoderConfig
from indexer.disk.artifact import Draft, write_folder
from indexer.errors import ArtifactError, InputError
from indexer.vectors.geocells import CHECKPOINT_KIND, CHECKPOINT_SCHEMA_VERSION, Geocells, save_geocells

_BICUBIC = 3  # PIL.Image.Resampling.BICUBIC, as image processors write it


@dataclass(frozen=True, slots=True, eq=False)
class LoadedEncoder:
    """An encoder ready to use."""

    name: str  # as it was asked for
    model: GeoEncoder  # in eval mode, on its device
    digest: str  # SHA-256 over its configuration and weights as stored: what vectors and bundles are tied to

    @property
    def preprocessing(self) -> Preprocessing:
        """How photos must be prepared for it."""
        return self.model.preprocessing

    @property
    def width(self) -> int:
        """D, the number of dimensions of its vectors."""
        return int(self.model.config.projection_dim)

    @property
    def precision(self) -> str:
        """What it computes in: float32 or bfloat16."""
        return str(self.model.dtype).removeprefix("torch.")


def save_checkpoint(
    out: Path,
    *,
    encoder: GeoEncoder,
    geocells: Geocells | None,
    config: Mapping[str, Any],
    inputs: Mapping[str, str | None],
    finish: Callable[[Draft], None] = lambda draft: None,
) -> Path:
    """Write a checkpoint folder, whole or not at all, and return it.

    The geocells, where there are any, are written with the digest of this very encoder. finish: writes what else
    belongs into the folder.
    """
    with write_folder(
        out, kind=CHECKPOINT_KIND, schema_version=CHECKPOINT_SCHEMA_VERSION, config=config, inputs=inputs
    ) as draft:
        settings = copy.deepcopy(encoder.config)
        settings.architectures = [type(encoder).__name__]
        (draft.path / CONFIG_FILE).write_text(settings.to_json_string())
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
        save_file(weights, draft.path / WEIGHTS_FILE, metadata={"format": "pt"})
        digest = digest_of(draft.path / CONFIG_FILE, draft.path / WEIGHTS_FILE)
        draft.facts["encoder"] = digest
        if geocells is not None:
            save_geocells(draft, replace(geocells, encoder=digest))
        finish(draft)
    return out


def load_encoder(
    checkpoint: str | Path, *, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> LoadedEncoder:
    """Open an encoder: a checkpoint folder, or `hf:<hub id or folder>` for a plain CLIP or a pushed encoder.

    It computes in `dtype` whatever its weights are stored in. Torch's random state is left as it was.

    Raises:
        ArtifactError: not a checkpoint, one without an encoder, or damaged.
        InputError: the hub cannot be reached, or the model is neither.
    """
    name = str(checkpoint)
    if name.startswith(HUB_PREFIX):
        model, digest = _load_hub(name.removeprefix(HUB_PREFIX))
    else:
        digest = encoder_digest(Path(name))
        model = _load_pushed(Path(name) / CONFIG_FILE, Path(name) / WEIGHTS_FILE)
    return LoadedEncoder(name, model.eval().requires_grad_(False).to(device, dtype), digest)


def _load_pushed(config_file: Path, weights_file: Path) -> GeoEncoder:
    """An encoder of this project, from the two files that hold it in Hugging Face's layout."""
    config = GeoEncoderConfig.from_dict(read_json(config_file))
    with weights_of("encoder", weights_file):
        weights = load_file(weights_file)
    return _build(config, weights, weights_file)


def _build(config: GeoEncoderConfig, weights: Mapping[str, torch.Tensor], file: Path) -> GeoEncoder:
    """A GeoEncoder with exactly these weights; one missing, left over or of another shape is an error."""
    # Every weight is about to be replaced: random ones take seconds for a large model, and draws the caller did not ask
    # for would change what a seed gives.
    with no_init_weights(), torch.random.fork_rng(devices=[]):
        model = GeoEncoder(config)
    with weights_of("encoder", file):
        model.load_state_dict(weights)
    return model


def _load_hub(name: str) -> tuple[GeoEncoder, str]:
    config_file = fetch(name, CONFIG_FILE, prefix=HUB_PREFIX)
    raw = read_json(config_file)
    kind = raw.get("model_type")
    if kind not in (GeoEncoderConfig.model_type, "clip", "clip_vision_model"):
        raise InputError(
            f"hf:{name}: its model type is {kind!r}; a CLIP ('clip', 'clip_vision_model') or an encoder of this "
            f"project ({GeoEncoderConfig.model_type!r}) is needed."
        )
    weights_file = fetch(name, WEIGHTS_FILE, prefix=HUB_PREFIX)
    if kind == GeoEncoderConfig.model_type:
        return _load_pushed(config_file, weights_file), digest_of(config_file, weights_file)
    if kind == "clip_vision_model":  # the visual half alone, as CLIPVisionModelWithProjection saves it
        raw = {"vision_config": raw, "projection_dim": raw.get("projection_dim", 512)}
    processor_file = fetch(name, *PROCESSOR_FILES, prefix=HUB_PREFIX)
    processor = read_json(processor_file)
    with settings_of("a CLIP", HUB_PREFIX + name, config_file, processor_file):
        clip, preprocessing = CLIPConfig.from_dict(dict(raw)), _preprocessing(processor, processor_file)
    config = GeoEncoderConfig(
        vision_config=clip.vision_config, projection_dim=clip.projection_dim, preprocessing=preprocessing.to_dict()
    )
    with weights_of("encoder", weights_file):
        stored = load_file(weights_file)
    renamed = {"vision_model.": "vision.", "visual_projection.": "projection."}
    weights = {
        new + key.removeprefix(old): tensor
        for key, tensor in stored.items()
        for old, new in renamed.items()
        if key.startswith(old)
    }
    if "projection.weight" not in weights:
        raise ArtifactError(
            f"hf:{name}: {weights_file.name} cannot be loaded as the encoder's weights: it has no visual_projection. "
            "Save it with CLIPModel or CLIPVisionModelWithProjection of transformers."
        )
    weights.pop("vision.embeddings.position_ids", None)  # older checkpoints carry this range of integers
    return _build(config, weights, weights_file), digest_of(config_file, weights_file, processor_file)


def _preprocessing(values: Mapping[str, Any], file: Path) -> Preprocessing:
    """Sizes of a CLIP image processor, refused where it does anything this package does not."""
    processor = CLIPImageProcessorPil.from_dict(dict(values.get("image_processor", values)))
    size, crop = processor.size.shortest_edge, processor.crop_size
    steps = (processor.do_resize, processor.do_center_crop, processor.do_rescale, processor.do_normalize)
    known = all(steps) and processor.resample == _BICUBIC and abs(processor.rescale_factor * 255 - 1) < 1e-6
    if not known or size is None or crop.height is None or crop.height != crop.width:
        raise InputError(
            f"{file}: this image processor does not prepare photos as CLIP does (shortest edge resized with bicubic "
            "filter, square centre crop, values divided by 255, normalised). Its vectors would not be the model's."
        )
    return Preprocessing(size, crop.height, tuple(processor.image_mean), tuple(processor.image_std))
