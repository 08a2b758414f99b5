"""Files that hold models: published ones of a local folder or of the hub, and checkpoint folders.

    model.safetensors, config.json     the encoder, in Hugging Face's layout (`encoder.models.checkpoint` loads it)
    geocells/level_<l>.safetensors     the geographic representation (`indexer.vectors.geocells`)
    manifest.json                      digests, temperatures, what made it

Only `model.safetensors` is taken for weights; nothing here reads a pickle, and nothing heavy is imported: who makes
geocells for an encoder need not wait for its libraries.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from indexer.disk.artifact import Draft
from indexer.disk.manifest import MANIFEST, file_digest, read_manifest
from indexer.errors import ArtifactError, InputError
from indexer.vectors.geocells import CHECKPOINT_KIND, CHECKPOINT_SCHEMA_VERSION

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")  # the second is how newer releases name it
TOKENIZER_FILE = "tokenizer.json"
HUB_PREFIX = "hf:"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def fetch(name: str, *choices: str, prefix: str = "") -> Path:
    """The first of some files that a local folder has, or a hub repository, of which `@revision` may name a commit.

    prefix: what users write before the name, for what errors tell them to write.

    Raises:
        InputError: none of the files is there, or the hub cannot be reached.
    """
    folder = Path(name)
    if folder.is_dir():
        for choice in choices:
            if (folder / choice).is_file():
                return folder / choice
        if WEIGHTS_FILE in choices and (folder / f"{WEIGHTS_FILE}.index.json").is_file():
            raise InputError(
                f"{prefix}{name}: its weights are in several files, which is not read. Save them in one: "
                "model.save_pretrained(folder, max_shard_size='1TB') in transformers."
            )
        raise InputError(f"{prefix}{name}: the folder has no {' or '.join(choices)}.{_hint(choices)}")
    if folder.is_absolute():
        raise InputError(f"{prefix}{name}: no such folder. Give one that exists, or a hub id: {prefix}<owner>/<name>.")
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    reason, (repository, _, commit) = "", name.partition("@")
    revision = commit or None
    for choice in choices:
        try:
            if not isinstance(try_to_load_from_cache(repository, choice, revision=revision), str):
                # It is asked once: of a file that is nowhere here the download asks six times, for half a minute.
                get_hf_file_metadata(hf_hub_url(repository, choice, revision=revision))
            return Path(hf_hub_download(repository, choice, revision=revision))
        except LocalEntryNotFoundError as error:  # nowhere, and there is no network
            reason = str(error)
            break
        except EntryNotFoundError as error:  # not in the repository
            reason = str(error)
        except Exception as error:  # noqa: BLE001 (the library that the hub's one asks with has changed twice)
            reason = str(error)
            break
    raise InputError(
        f"{prefix}{name}: {' or '.join(choices)} cannot be had ({one_line(reason)}). "
        f"Check the id and the network, or give a local folder: {prefix}<folder>.{_hint(choices)}"
    )


def read_json(file: Path) -> dict[str, Any]:
    """What a configuration file holds; raises InputError where that is no JSON object."""
    try:
        values = json.loads(file.read_bytes())
    except ValueError as error:
        raise InputError(f"{file}: not valid JSON ({error}). Download it again.") from None
    if not isinstance(values, dict):
        raise InputError(f"{file}: not a configuration file. Download it again.")
    return values


@contextlib.contextmanager
def settings_of(kind: str, name: str, *files: Path) -> Iterator[None]:
    """Say that files are not a model's of a kind where reading their values fails, in whatever way.

    What transformers raises for values of the wrong kind differs from field to field.
    """
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except (StrictDataclassError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        names = " or ".join(file.name for file in files)
        raise InputError(f"{name}: {names} is not {kind}'s ({one_line(error)}). Download them again.") from None


@contextlib.contextmanager
def weights_of(whose: str, file: Path) -> Iterator[None]:
    """Say that a file does not hold a model's weights where loading them fails, in whatever way."""
    try:
        yield
    except (SafetensorError, OSError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ArtifactError(f"{file}: cannot be loaded as the {whose}'s weights ({one_line(error)}).") from None


def one_line(problem: Exception | str) -> str:
    """What a library says, fit for a sentence of ours."""
    return " ".join(str(problem).split())[:300]


def digest_of(*files: Path) -> str:
    """SHA-256 over the SHA-256 of each file, in hex: what things made with a model are tied to."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(bytes.fromhex(file_digest(file)))
    return digest.hexdigest()


def copy_encoder(checkpoint: Path, draft: Draft) -> None:
    """Put a checkpoint folder's encoder into one that is being written, as it is, so that its digest stays."""
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        shutil.copyfile(checkpoint / name, draft.path / name)


def encoder_digest(folder: Path) -> str:
    """Digest of the encoder in a checkpoint folder, all of it checked; an ArtifactError where it holds no sound one."""
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
    config = read_json(folder / CONFIG_FILE)
    return int([config["projection_dim"], *(config.get("head") or ())][-1])


def _hint(choices: tuple[str, ...]) -> str:
    if WEIGHTS_FILE not in choices:
        return ""
    return (
        f" Weights that exist only as a pickle are not read: turn them into {WEIGHTS_FILE} once with python -m encoder "
        "convert, and give that folder."
    )


def _advice(folder: Path) -> str:
    """What to do about a folder of weights that is not one of ours."""
    if (folder / WEIGHTS_FILE).is_file() and (folder / CONFIG_FILE).is_file():
        return f"If it is a published model, write {HUB_PREFIX}{folder}."
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles:
        return f"{pickles[0]} may hold a pickle, which is never loaded. Convert it first: python -m encoder convert"
    return "Train one: python -m training fit"
