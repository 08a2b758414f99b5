"""Files of published models: from a local folder, or from the hub through huggingface_hub, which caches them.

Only `model.safetensors` is taken for weights; nothing here reads a pickle.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from indexer.errors import ArtifactError, InputError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")  # the second is how newer releases name it


def fetch(name: str, *choices: str, prefix: str = "") -> Path:
    """The first of some files that a local folder has, or a hub repository.

    prefix: what users write before the name, for what errors tell them to write.

    Raises:
        InputError: none of the files is there, or the hub cannot be reached.
    """
    if Path(name).is_absolute() and not Path(name).is_dir():
        raise InputError(f"{prefix}{name}: no such folder.")
    if Path(name).is_dir():
        found = [Path(name) / choice for choice in choices if (Path(name) / choice).is_file()]
        if not found:
            if WEIGHTS_FILE in choices and (Path(name) / f"{WEIGHTS_FILE}.index.json").is_file():
                raise InputError(
                    f"{prefix}{name}: its weights are in several files, which is not read. Save them in one: "
                    "model.save_pretrained(folder, max_shard_size='1TB') in transformers."
                )
            raise InputError(f"{prefix}{name}: the folder has no {' or '.join(choices)}.{_hint(choices)}")
        return found[0]
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    reason = ""
    for choice in choices:
        try:
            return Path(hf_hub_download(name, choice))
        except EntryNotFoundError as error:  # not in the repository; or nowhere, when there is no network
            reason = str(error)
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            reason = str(error)
            break
    raise InputError(
        f"{prefix}{name}: {' or '.join(choices)} cannot be had ({one_line(reason)}). "
        f"Check the id and the network, or give a local folder: {prefix}<folder>.{_hint(choices)}"
    )


def read_json(file: Path) -> dict[str, Any]:
    """What a configuration file holds.

    Raises:
        InputError: it is not a JSON object.
    """
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


def bad_weights(file: Path, whose: str, problem: Exception | str) -> ArtifactError:
    """The error for weights that cannot be a model's."""
    return ArtifactError(f"{file}: cannot be loaded as the {whose}'s weights ({one_line(problem)}).")


def one_line(problem: Exception | str) -> str:
    """What a library says, fit for a sentence of ours."""
    return " ".join(str(problem).split())[:300]


def digest_of(*files: Path) -> str:
    """SHA-256 over the SHA-256 of each file, in hex: what things made with a model are tied to."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _hint(choices: tuple[str, ...]) -> str:
    if WEIGHTS_FILE not in choices:
        return ""
    return (
        f" Weights that exist only as a pickle are not read: turn them into {WEIGHTS_FILE} once with python -m encoder "
        "convert, and give that folder."
    )
