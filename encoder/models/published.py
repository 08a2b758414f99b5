"""Published models as encoders: for each model type of transformers, how its files are read.

CLIP's become a `GeoEncoder`, which can be trained and given a fusion. Of all others the vision half is taken as it is,
with the pooled output that its own feature call gives. Nothing in a model's files is run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import transformers
from safetensors.torch import load_file
from transformers import CLIPConfig, PreTrainedModel

from encoder.config import Preprocessing
from encoder.models.files import (
    HUB_PREFIX,
    PROCESSOR_FILES,
    WEIGHTS_FILE,
    digest_of,
    fetch,
    read_json,
    settings_of,
    weights_of,
)
from encoder.models.image_processor import preprocessing_of
from encoder.models.model import GeoEncoder, GeoEncoderConfig
from encoder.models.vision_model import PhotoModel, VisionModel
from encoder.models.weights import Misfits, open_weights
from indexer.errors import ArtifactError, InputError

# Weights that have no part in a model's vectors, so that they may be missing or left over.
_NO_PART = (".mask_token", ".position_ids")


@dataclass(frozen=True, slots=True, eq=False)
class ModelFiles:
    """What a published model is read from."""

    name: str  # as it was asked for
    config: Path
    weights: Path
    processor: Path
    settings: Mapping[str, Any]  # what `config` holds

    @classmethod
    def find(cls, name: str, config_file: Path, settings: Mapping[str, Any]) -> "ModelFiles":
        """Those of a hub id or folder whose configuration is known; an InputError where one cannot be had."""
        weights_file = fetch(name, WEIGHTS_FILE, prefix=HUB_PREFIX)
        processor_file = fetch(name, *PROCESSOR_FILES, prefix=HUB_PREFIX)
        return cls(HUB_PREFIX + name, config_file, weights_file, processor_file, settings)

    @property
    def digest(self) -> str:
        """What vectors are tied to: of photos, and of texts where the model has both halves."""
        return digest_of(self.config, self.weights, self.processor)


class Reader(Protocol):
    """How models of a type are read."""

    def read(self, files: ModelFiles) -> PhotoModel:
        """The model in float32. InputError or ArtifactError where the files are not what they should be."""


@dataclass(frozen=True, slots=True)
class _ClipReader:
    """A CLIP becomes a GeoEncoder."""

    half: bool = False  # the visual half alone, as CLIPVisionModelWithProjection saves it

    def read(self, files: ModelFiles) -> GeoEncoder:
        settings = files.settings
        if self.half:
            settings = {"vision_config": settings, "projection_dim": settings.get("projection_dim", 512)}
        with settings_of("a CLIP", files.name, files.config, files.processor):
            vision = dict(settings.get("vision_config") or {}) | {"model_type": "clip_vision_model"}
            clip = CLIPConfig.from_dict(dict(settings) | {"model_type": "clip", "vision_config": vision})
            preprocessing = preprocessing_of(read_json(files.processor), files.processor, usual="CLIP")
        config = GeoEncoderConfig(
            vision_config=clip.vision_config, projection_dim=clip.projection_dim, preprocessing=preprocessing.to_dict()
        )
        with weights_of("encoder", files.weights):
            stored = load_file(files.weights)
        renamed = {"vision_model.": "vision.", "visual_projection.": "projection."}
        weights = {
            new + key.removeprefix(old): tensor
            for key, tensor in stored.items()
            for old, new in renamed.items()
            if key.startswith(old)
        }
        if "projection.weight" not in weights:
            raise ArtifactError(
                f"{files.name}: {files.weights.name} cannot be loaded as the encoder's weights: it has no "
                "visual_projection. Save it with CLIPModel or CLIPVisionModelWithProjection of transformers."
            )
        weights.pop("vision.embeddings.position_ids", None)  # older checkpoints carry this range of integers
        return GeoEncoder.with_weights(config, weights, files.weights)


@dataclass(frozen=True, slots=True)
class _PooledReader:
    """A model whose pooled output is its vector."""

    kind: str  # as messages call it
    model: str  # its class in transformers, without text and without what is trained on top
    pooling: str  # the module in it that makes the pooled output
    processor: str  # the image processor that its kind has
    any_size: bool = False  # whether photos may have another size than the one it learned from

    def read(self, files: ModelFiles) -> VisionModel:
        model_class: type[PreTrainedModel] = getattr(transformers, self.model)
        with settings_of(self.kind, files.name, files.config, files.processor):
            own = files.settings.get("vision_config", files.settings)
            config = model_class.config_class.from_dict(dict(own))
            preprocessing = preprocessing_of(read_json(files.processor), files.processor, usual=self.processor)
            self._check_sizes(config, preprocessing)
        with weights_of("encoder", files.weights):
            model, misfits = open_weights(model_class, config, files.weights)
            self._check_pooling(files.name, model, misfits)
            _check_weights(model, misfits)
        return VisionModel(model, preprocessing)

    def _check_sizes(self, config: Any, preprocessing: Preprocessing) -> None:
        size, patch, crop = config.image_size, config.patch_size, preprocessing.crop
        if not (isinstance(size, int) and isinstance(patch, int)) or config.num_channels != 3:
            raise ValueError("images must be squares of three channels, and so must patches")
        if not 1 <= patch <= crop:
            raise InputError(f"Patches of {patch} pixels in an image of {crop}: a patch must fit into the image.")
        if size != crop and not self.any_size:
            raise InputError(f"The encoder sees {size} x {size} pixels, but photos are cut to {crop} x {crop}.")

    def _check_pooling(self, name: str, model: PreTrainedModel, misfits: Misfits) -> None:
        """Raise InputError for a model that was published without what makes one vector of a photo."""
        has_none = getattr(model, self.pooling, None) is None
        if has_none or any(key.startswith(f"{self.pooling}.") for key in misfits.missing):
            raise InputError(
                f"{name}: this is {self.kind} without pooled output (it has no weights of `{self.pooling}`), so that "
                "no vector of a photo is its own. Take a release of it that has one, or another model."
            )


def _check_weights(model: PreTrainedModel, misfits: Misfits) -> None:
    """Raise ValueError where a model is not made of exactly its weights.

    What is stored beside it, such as a text tower or a classifier, is no part of it.
    """
    inside = {name for name, _ in model.named_children()}
    missing = [key for key in misfits.missing if not key.endswith(_NO_PART)]
    left_over = [key for key in misfits.left_over if key.split(".")[0] in inside and not key.endswith(_NO_PART)]
    if missing or left_over or misfits.changed:
        wrong = {"missing": missing, "left over": left_over, "of another shape": misfits.changed}
        raise ValueError("; ".join(f"{how}: {', '.join(keys[:3])}" for how, keys in wrong.items() if keys))


_CLIP, _CLIP_HALF = _ClipReader(), _ClipReader(half=True)
_SIGLIP = _PooledReader("a SigLIP", "SiglipVisionModel", "head", "Siglip")
_READERS: Mapping[str, Reader] = {
    "clip": _CLIP,
    "clip_vision_model": _CLIP_HALF,
    "metaclip_2": _CLIP,  # the same layers under the same names
    "metaclip_2_vision_model": _CLIP_HALF,
    "siglip": _SIGLIP,  # SigLIP 2 of a fixed size, too
    "siglip_vision_model": _SIGLIP,
    "dinov2": _PooledReader("a DINOv2", "Dinov2Model", "layernorm", "Bit", any_size=True),
    "dinov2_with_registers": _PooledReader("a DINOv2", "Dinov2WithRegistersModel", "layernorm", "Bit", any_size=True),
    "dinov3_vit": _PooledReader("a DINOv3", "DINOv3ViTModel", "norm", "DINOv3ViT", any_size=True),
    "vit": _PooledReader("a ViT", "ViTModel", "pooler", "ViT"),
}
_NO_POOLING = "it has no pooled output, so that no vector of a photo is its own"
_REFUSED: Mapping[str, str] = {
    "siglip2": "it sees each photo in a shape of its own, which is not done here. SigLIP 2 of a fixed size is read",
    "vit_mae": _NO_POOLING,
    "vit_msn": _NO_POOLING,
    "ijepa": _NO_POOLING,
}


def read_published(name: str, config_file: Path, settings: Mapping[str, Any]) -> tuple[PhotoModel, str]:
    """A published model in float32, and the digest of its files.

    Args:
        name: hub id or folder.
        config_file: its configuration.
        settings: what that holds.

    Raises:
        InputError: its model type is none that is read; a file cannot be had or holds values that no such model has;
            or it has no pooled output.
        ArtifactError: its weights are not those of the model.
    """
    kind = str(settings.get("model_type"))
    if kind in _REFUSED:
        raise InputError(f"{HUB_PREFIX}{name}: its model type is {kind!r}: {_REFUSED[kind]}. Take another model.")
    if kind not in _READERS:
        raise InputError(
            f"{HUB_PREFIX}{name}: its model type is {kind!r}, which is not read. Read are {', '.join(_READERS)}, and "
            f"encoders of this project ({GeoEncoderConfig.model_type!r})."
        )
    files = ModelFiles.find(name, config_file, settings)
    return _READERS[kind].read(files), files.digest
