"""Checkpoint folders, but for the model in them: whose encoder it is, and copies of it for new geocells.

    model.safetensors, config.json     the encoder, in Hugging Face's layout (`encoder.checkpoint` loads it)
    geocells/level_<l>.safetensors     the geographic representation (`indexer.vectors.geocells`)
    manifest.json                      digests, temperatures, what made it

Nothing heavy is imported here: who makes geocells for an encoder need not wait for its libraries.
"""

import shutil
from pathlib import Path

from encoder.hub import CONFIG_FILE, WEIGHTS_FILE, digest_of, read_json
from indexer.disk.artifact import Draft
from indexer.disk.manifest import MANIFEST, read_manifest
from indexer.errors import ArtifactError
from indexer.vectors.geocells import CHECKPOINT_KIND, CHECKPOINT_SCHEMA_VERSION

HUB_PREFIX = "hf:"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def copy_encoder(checkpoint: Path, draft: Draft) -> None:
    """Put a checkpoint folder's encoder into one that is being written, as it is, so that its digest stays."""
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        shutil.copyfile(checkpoint / name, draft.path / name)


def encoder_digest(folder: Path) -> str:
    """Digest of the encoder in a checkpoint folder, after a look at every byte of it.

    Raises:
        ArtifactError: it is no checkpoint, holds no encoder, or is damaged.
    """
    if folder.is_dir() and not (folder / MANIFEST).is_file():
        raise ArtifactError(f"{folder}: not a checkpoint folder (it has no {MANIFEST}). {_advice(folder)}")
    try:
        manifest = read_manifest(folder, kind=CHECKPOINT_KIND, schema_version=CHECKPOINT_SCHEMA_VERSION)
    except ArtifactError as error:
        if (folder / WEIGHTS_FILE).is_file() and (folder / CONFIG_FILE).is_file():  # such as convert makes
            raise ArtifactError(f"{error} {_advice(folder)}") from None
        raise
    config_file, weights_file = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    if WEIGHTS_FILE not in manifest.files:
        raise ArtifactError(f"{folder}: this checkpoint holds geocells alone, no encoder. Give the one it came from.")
    digest = digest_of(config_file, weights_file)
    if digest != manifest.facts.get("encoder"):
        raise ArtifactError(
            f"{folder}: {CONFIG_FILE} or {WEIGHTS_FILE} is not what was written (encoder {digest[:8]}, the manifest "
            f"says {str(manifest.facts.get('encoder'))[:8]}). Restore the folder from a copy."
        )
    return digest


def encoder_width(folder: Path) -> int:
    """D of the vectors of a checkpoint folder's encoder, of which `encoder_digest` found nothing wrong."""
    return int(read_json(folder / CONFIG_FILE)["projection_dim"])


def _advice(folder: Path) -> str:
    """What to do about a folder of weights that is not one of ours."""
    if (folder / WEIGHTS_FILE).is_file() and (folder / CONFIG_FILE).is_file():
        return f"If it is a plain CLIP, write {HUB_PREFIX}{folder}."
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles:
        return f"{pickles[0]} may hold a pickle, which is never loaded. Convert it first: python -m encoder convert"
    return "Train one: python -m training fit"
