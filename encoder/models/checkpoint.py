"""Encoders from disk: checkpoint folders, and published vision models or pushed encoders as `hf:<hub id or folder>`.

Nothing here reads a pickle.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from encoder.config import Preprocessing
from encoder.models.files import (
    CONFIG_FILE,
    HUB_PREFIX,
    WEIGHTS_FILE,
    digest_of,
    encoder_digest,
    fetch,
    read_json,
    weights_of,
)
from encoder.models.model import GeoEncoder, GeoEncoderConfig
from encoder.models.published import read_published
from encoder.models.vision_model import PhotoModel
from indexer.disk.artifact import Draft, write_folder
from indexer.vectors.geocells import CHECKPOINT_KIND, CHECKPOINT_SCHEMA_VERSION, Geocells, save_geocells


@dataclass(frozen=True, slots=True, eq=False)
class LoadedEncoder:
    """An encoder ready to use."""

    name: str  # as it was asked for
    model: PhotoModel  # in eval mode, on its device
    digest: str  # SHA-256 over its configuration and weights as stored: what vectors and bundles are tied to

    @property
    def preprocessing(self) -> Preprocessing:
        """How photos must be prepared for it."""
        return self.model.preprocessing

    @property
    def width(self) -> int:
        """D, the number of dimensions of its vectors."""
        return self.model.width

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
    """Open an encoder: a checkpoint folder, or `hf:<hub id or folder>` for a published model or a pushed encoder.

    It computes in `dtype` whatever its weights are stored in. Torch's random state is left as it was.

    Raises:
        ArtifactError: not a checkpoint, one without an encoder, or damaged.
        InputError: the hub cannot be reached, or the model is none that is read.
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
    return GeoEncoder.with_weights(config, weights, weights_file)


def _load_hub(name: str) -> tuple[PhotoModel, str]:
    config_file = fetch(name, CONFIG_FILE, prefix=HUB_PREFIX)
    settings = read_json(config_file)
    if settings.get("model_type") != GeoEncoderConfig.model_type:
        return read_published(name, config_file, settings)
    weights_file = fetch(name, WEIGHTS_FILE, prefix=HUB_PREFIX)
    return _load_pushed(config_file, weights_file), digest_of(config_file, weights_file)
