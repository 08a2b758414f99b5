"""Choosing where the model runs, and how precisely.

Asking for a GPU that is not there is an error, never a silent CPU run.
"""

import torch

from encoder.config import DeviceName, PrecisionName
from indexer.errors import InputError


def choose_device(name: DeviceName) -> torch.device:
    """The device of a name; `auto` takes a GPU where there is one.

    Raises:
        InputError: `cuda` was asked for and torch sees no such device.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("`device` cuda: torch sees no CUDA device here. Use `device` cpu, or install a CUDA build.")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def choose_precision(name: PrecisionName, device: torch.device) -> torch.dtype:
    """The precision of a name; `auto` takes bfloat16 where the processor multiplies in it, else float32.

    Elsewhere CPUs emulate bfloat16, which takes several times as long as float32.
    """
    if name == "auto":
        name = "bfloat16" if multiplies_bfloat16(device) else "float32"
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def gpu_share() -> float | None:
    """How much of the time this process's GPU was at work of late, 0 to 1; None where there is none or nobody can say.

    The driver tells it through the package nvidia-ml-py, where that is installed.
    """
    if not torch.cuda.is_available():
        return None
    try:
        return torch.cuda.utilization() / 100
    except (ImportError, RuntimeError):
        return None


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies matrices of bfloat16 faster than those of float32."""
    if device.type == "cuda":
        return True
    features = torch.cpu.get_capabilities()
    return any(features.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))  # the last one: ARM
