"""Choosing where the model runs; asking for a GPU that is not there is an error, never a silent CPU run."""

from typing import Literal

import torch

from indexer.errors import InputError

DeviceName = Literal["auto", "cpu", "cuda"]


def choose_device(name: DeviceName) -> torch.device:
    """The device of a name; `auto` takes a GPU where there is one.

    Raises:
        InputError: `cuda` was asked for and torch sees no such device.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no CUDA device here. Use --device cpu, or install a CUDA build.")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
