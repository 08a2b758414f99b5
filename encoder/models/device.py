"""Choosing where the model runs, how precisely, and how many crops go through it at once; how busy that keeps it.

Asking for a GPU that is not there is an error, never a silent CPU run.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from encoder.config import MAX_SENT_PIXELS, DeviceName, PrecisionName
from indexer.choices import check_choice
from indexer.errors import InputError, WorkError
from indexer.jobs.stages import Line

if TYPE_CHECKING:
    from encoder.models.vision_model import PhotoModel

# On a CPU 4 and 8 crops are the fastest a piece (TinyCLIP ViT-8M/16 on two cores: 30 ms, and 42 ms with 16 or 32, whose
# buffers the allocator asks the kernel for anew each time); ViT-L/14-336 does not mind. A GPU needs more to be busy.
_ENOUGH = {"cpu": 8, "cuda": 256}
_SHARE = 0.5  # of the free memory
# Copies of a token's hidden state that are alive at once inside a block: its input, its norm, queries, keys, values,
# what attention gave, and what is added.
_HIDDEN_COPIES = 8
_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def choose_device(name: DeviceName) -> torch.device:
    """The device of a name; `auto` takes a GPU where there is one, `cuda` raises InputError where there is none."""
    check_choice("device", name, DeviceName)
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


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies matrices of bfloat16 faster than those of float32."""
    if device.type == "cuda":
        return True
    features = torch.cpu.get_capabilities()
    return any(features.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))  # the last one: ARM


def multiplies_bytes() -> bool:
    """Whether this processor multiplies matrices of bytes several times faster than those of float32."""
    features = torch.cpu.get_capabilities()
    return any(features.get(name, False) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))


@contextlib.contextmanager
def memory_explained(work: str, advice: str) -> Iterator[None]:
    """Raise WorkError where a device has too little memory for work, as in "for ten crops"; advice says what to do."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise WorkError(f"The device has too little memory {work}. {advice}") from error


def job_remarks(line: Line, known: int) -> list[str]:
    """What the progress line of a job says beside its stages: failures, and how busy the GPU is, where one knows.

    known: rows that failed in shards that were done before.
    """
    remarks = [f"{known + line.failed:,} failed"]
    if torch.cuda.is_available():
        with contextlib.suppress(ImportError, RuntimeError):  # the driver tells it through nvidia-ml-py, an extra
            remarks.append(f"GPU {torch.cuda.utilization()}%")
    return remarks


def fitting_batch_size(model: "PhotoModel") -> int:
    """The largest power of two that helps and fits, of crops in one forward pass without gradients."""
    need = bytes_per_crop(model)
    size = _ENOUGH["cuda" if model.device.type == "cuda" else "cpu"]
    free = _SHARE * free_bytes(model.device)
    while size > 1 and size * need > free:
        size //= 2
    return size


def bytes_per_crop(model: "PhotoModel") -> int:
    """What a forward pass without gradients takes for each crop, at its widest place; by arithmetic."""
    vision, fusion, edge = model.vision.config, model.fusion_config, model.preprocessing.crop
    tokens = 1 + (edge // vision.patch_size) ** 2
    inner = getattr(vision, "intermediate_size", None) or vision.mlp_ratio * vision.hidden_size  # DINOv2 has the second
    widest = _HIDDEN_COPIES * vision.hidden_size + 2 * inner
    pixels = 3 * edge**2 * 5  # as bytes and as float32
    photo = 3 * MAX_SENT_PIXELS  # what it is cut from, before it is resized
    gathered = 0 if fusion is None else 4 * edge**2 * 2  # row numbers, and what they come from
    return int(tokens * widest * model.dtype.itemsize + pixels + photo + gathered)


def free_bytes(device: torch.device) -> int:
    """What a device, or this machine for the CPU, can still give."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(_available(_MEMINFO), _left_to_container(_CGROUP))


def _available(meminfo: Path) -> int:
    """What Linux can give: free pages, and those that only hold copies of files."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, LookupError, ValueError):  # no Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _left_to_container(cgroup: Path) -> int:
    """What a container may still take; everything where there is no limit."""
    try:
        return int((cgroup / "memory.max").read_text()) - int((cgroup / "memory.current").read_text())
    except (OSError, ValueError):  # no container, or "max"
        return sys.maxsize
