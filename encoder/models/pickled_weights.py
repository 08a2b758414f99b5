"""Weights that exist only as a pickle, turned into safetensors once, or read as they are.

Nowhere else is a foreign pickle read. `torch.load(weights_only=True)` refuses everything in it but tensors and plain
containers.
"""

import contextlib
import pickle
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from encoder.config import PICKLED_WEIGHTS
from encoder.models.files import CONFIG_FILE, PROCESSOR_FILES, TOKENIZER_FILE, WEIGHTS_FILE, fetch, one_line
from indexer.disk.artifact import check_target, write_folder
from indexer.disk.manifest import file_digest
from indexer.errors import InputError

KIND = "converted weights"
SCHEMA_VERSION = 1


def convert(model: str | Path, out: str | Path, *, weights: str = PICKLED_WEIGHTS) -> int:
    """Write a model folder with its pickled weights as safetensors, its settings as they are; how many tensors it has.

    Args:
        model: hub id or local folder, with config.json and perhaps an image processor's settings and a tokenizer.
        out: folder to write; afterwards it is what `hf:<folder>` names, or a segmenter.
        weights: the pickle's name in there.

    Raises:
        InputError: there is no such file, it holds more than tensors, or `out` exists.
    """
    model, out = str(model), Path(out)
    check_target(out)  # before gigabytes are fetched and loaded
    if not (Path(model) / weights).is_file() and (Path(model) / WEIGHTS_FILE).is_file():
        raise InputError(
            f"{model}: no {weights}, but {WEIGHTS_FILE}: there is nothing to convert. Use the folder as it is: "
            f"hf:{model}, or {model} as `segmenter`."
        )
    try:
        source = fetch(model, weights)
    except InputError as error:
        if Path(model).is_dir():
            raise
        nothing = f" If it has {WEIGHTS_FILE}, there is nothing to convert: use hf:{model}, or {model} as `segmenter`."
        raise InputError(f"{error}{nothing}") from None
    tensors = pickled_tensors(source)
    with write_folder(out, kind=KIND, schema_version=SCHEMA_VERSION, inputs={weights: file_digest(source)}) as draft:
        save_file(tensors, draft.path / WEIGHTS_FILE, metadata={"format": "pt"})
        shutil.copyfile(fetch(model, CONFIG_FILE), draft.path / CONFIG_FILE)
        for name in (*PROCESSOR_FILES, TOKENIZER_FILE):
            with contextlib.suppress(InputError):  # older models have one of the first two, and some have none
                shutil.copyfile(fetch(model, name), draft.path / name)
    return len(tensors)


def pickled_tensors(file: Path, *, single: str | None = None) -> dict[str, torch.Tensor]:
    """The tensors of a pickle by name; single: the name of one that may be stored without a table.

    Raises:
        InputError: it is damaged, or holds more than tensors.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # whose text would advise to load it all the same
        raise InputError(
            f"{file}: holds more than weights, which could be harmful, and is not loaded. Ask its makers for "
            "safetensors, or for the weights alone."
        ) from None
    except Exception as error:  # noqa: BLE001 (a damaged file makes torch raise nearly anything)
        raise InputError(f"{file}: cannot be read as weights ({one_line(error)}). Download it again.") from None
    if single is not None and isinstance(content, torch.Tensor):
        content = {single: content}
    named = content.get("state_dict", content) if isinstance(content, dict) else {}
    if not named or not all(isinstance(value, torch.Tensor) for value in named.values()):
        raise InputError(f"{file}: no table of named tensors. Give the file that holds the model's weights alone.")
    # Tensors that share memory would be refused: each becomes one of its own.
    return {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in named.items()}
