"""Encoders on disk: checkpoint folders of this project, and any plain CLIP as `hf:<hub id or folder>`.

    model.safetensors, config.json     the encoder, in Hugging Face's layout
    geocells/level_<l>.safetensors     the geographic representation (`indexer.geocells`)
    manifest.json                      digests, temperatures, what made it

Nothing here reads a pickle.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig

from encoder.crops import Preprocessing
from encoder.model import GeoEncoder, GeoEncoderConfig
from indexer.artifact import read_manifest, write_folder
from indexer.errors import ArtifactError, InputError
from indexer.geocells import CHECKPOINT_KIND, CHECKPOINT_SCHEMA_VERSION, Geocells, save_geocells

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
_HUB_PREFIX = "hf:"


@dataclass(frozen=True, slots=True, eq=False)
class LoadedEncoder:
    """An encoder ready to use."""

    model: GeoEncoder  # in eval mode, on its device
    digest: str  # SHA-256 over its configuration and weights: what vectors and bundles are tied to

    @property
    def preprocessing(self) -> Preprocessing:
        """How photos must be prepared for it."""
        return self.model.preprocessing

    @property
    def width(self) -> int:
        """D, the number of dimensions of its vectors."""
        return int(self.model.config.projection_dim)


def save_checkpoint(
    out: Path,
    *,
    encoder: GeoEncoder,
    geocells: Geocells,
    config: Mapping[str, Any],
    inputs: Mapping[str, str | None],
    extra: Mapping[str, str] | None = None,
) -> Path:
    """Write a checkpoint folder, whole or not at all, and return it.

    The geocells are written with the digest of this very encoder. `extra` maps names of small text files to content.
    """
    with write_folder(
        out, kind=CHECKPOINT_KIND, schema_version=CHECKPOINT_SCHEMA_VERSION, config=config, inputs=inputs
    ) as draft:
        encoder.config.architectures = [type(encoder).__name__]
        (draft.path / CONFIG_FILE).write_text(encoder.config.to_json_string())
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
        save_file(weights, draft.path / WEIGHTS_FILE, metadata={"format": "pt"})
        save_geocells(draft, replace(geocells, encoder=_digest(draft.path / CONFIG_FILE, draft.path / WEIGHTS_FILE)))
        for name, text in (extra or {}).items():
            (draft.path / name).write_text(text)
    return out


def load_encoder(checkpoint: str, *, device: torch.device | None = None) -> LoadedEncoder:
    """Open an encoder: a checkpoint folder, or `hf:<hub id or folder>` for a plain CLIP.

    Raises:
        ArtifactError: not a checkpoint, one without an encoder, or damaged.
        InputError: the hub cannot be reached, or the model is not a CLIP.
    """
    if checkpoint.startswith(_HUB_PREFIX):
        loaded = _load_clip(checkpoint.removeprefix(_HUB_PREFIX))
    else:
        folder = Path(checkpoint)
        read_manifest(folder, kind=CHECKPOINT_KIND, schema_version=CHECKPOINT_SCHEMA_VERSION)
        if not (folder / WEIGHTS_FILE).is_file():
            raise ArtifactError(
                f"{folder}: this checkpoint holds geocells alone, no encoder. Give the one it came from."
            )
        model = _load_weights(GeoEncoder(GeoEncoderConfig.from_pretrained(folder)), folder / WEIGHTS_FILE)
        loaded = LoadedEncoder(model, _digest(folder / CONFIG_FILE, folder / WEIGHTS_FILE))
    loaded.model.eval().requires_grad_(False)
    if device is not None:
        loaded.model.to(device)
    return loaded


def _load_weights(model: GeoEncoder, file: Path, *, rename: Mapping[str, str] | None = None) -> GeoEncoder:
    try:
        state = load_file(file)
        if rename is not None:
            state = {
                new + name.removeprefix(old): tensor
                for name, tensor in state.items()
                for old, new in rename.items()
                if name.startswith(old)
            }
        # Older checkpoints carry this buffer; it is a range of integers.
        state.pop("vision.embeddings.position_ids", None)
        model.load_state_dict(state)
    except (SafetensorError, RuntimeError, OSError) as error:
        detail = " ".join(str(error).split())[:300]
        raise ArtifactError(f"{file}: cannot be loaded as the encoder's weights ({detail}).") from None
    return model


def _load_clip(name: str) -> LoadedEncoder:
    config_file, weights_file, processor_file = (
        _fetch(name, file) for file in (CONFIG_FILE, WEIGHTS_FILE, "preprocessor_config.json")
    )
    raw = json.loads(config_file.read_text())
    if raw.get("model_type") != "clip":
        raise InputError(f"hf:{name}: its model type is {raw.get('model_type')!r}; a CLIP model ('clip') is needed.")
    clip = CLIPConfig.from_dict(raw)
    config = GeoEncoderConfig(
        vision_config=clip.vision_config,
        projection_dim=clip.projection_dim,
        preprocessing=_preprocessing(json.loads(processor_file.read_text())).to_dict(),
    )
    rename = {"vision_model.": "vision.", "visual_projection.": "projection."}
    model = _load_weights(GeoEncoder(config), weights_file, rename=rename)
    return LoadedEncoder(model, _digest(config_file, weights_file, processor_file))


def _preprocessing(values: Mapping[str, Any]) -> Preprocessing:
    """Sizes of a CLIP image processor; older files write plain numbers, newer ones dicts."""
    values = values.get("image_processor", values)
    size, crop = values["size"], values["crop_size"]
    resize = size["shortest_edge"] if isinstance(size, dict) else size
    return Preprocessing(
        resize,
        crop["height"] if isinstance(crop, dict) else crop,
        tuple(values["image_mean"]),
        tuple(values["image_std"]),
    )


def _fetch(name: str, file: str) -> Path:
    """A file of a local folder or of a hub repository (cached by huggingface_hub)."""
    choices = [file, "processor_config.json"] if file == "preprocessor_config.json" else [file]
    for choice in choices:
        if (Path(name) / choice).is_file():
            return Path(name) / choice
    if Path(name).is_dir():
        hint = " Weights that exist only as a pickle are not read." if file == WEIGHTS_FILE else ""
        raise InputError(f"hf:{name}: the folder has no {' or '.join(choices)}.{hint}")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, file))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"hf:{name}: {file} cannot be had ({reason}). Check the id and the network, or give a local folder."
        ) from None


def _digest(*files: Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
