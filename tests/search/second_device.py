"""A second device that is not there: tensors on it have values, but meet no others, and numpy cannot see them.

What a GPU refuses, this refuses too, on any machine: an operation on tensors of both devices, or a look at one through
numpy before `.cpu()`. It goes by the name of `meta`, the one device of torch that needs no hardware. A tensor of one
number may come from anywhere, as on a GPU.
"""

from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

THERE = torch.device("meta")
_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class Elsewhere(torch.Tensor):
    """A tensor on the second device; `held` are its values."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls: type["Elsewhere"], held: torch.Tensor) -> "Elsewhere":
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), dtype=held.dtype, device=THERE
        )
        made.held = held
        return made

    def numpy(self, *, force: bool = False) -> np.ndarray:
        """As on a GPU, refused."""
        raise TypeError("a tensor of the second device is no array of numpy's; use .cpu() first")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class SecondDevice(TorchDispatchMode):
    """While it is open, tensors can be made on and moved to `THERE`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
    there = [each for each in tensors if isinstance(each, Elsewhere)]
    if there and func not in _COPIES and any(each.dim() for each in tensors if not isinstance(each, Elsewhere)):
        raise RuntimeError(f"{func}: tensors of two devices meet")
    device = kwargs.get("device")
    stays = bool(there) if device is None else torch.device(device) == THERE
    if device is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    held_args, held_kwargs = tree_map_only(Elsewhere, lambda each: each.held, (args, kwargs))
    result = func(*held_args, **held_kwargs)
    if not stays:
        return result
    for each in there:  # what was changed in place is the tensor that it was
        if result is each.held:
            return each
    return tree_map_only(torch.Tensor, Elsewhere, result)
