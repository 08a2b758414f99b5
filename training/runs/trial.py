"""One part of a batch, forward and backward, with nothing learned of it: how much memory a run takes, and how long.

In: the encoder and the head of a run. Out: bytes and seconds as a straight line over the photos that go through at
once, from passes with few photos; so a GPU that is too small is known before its memory is full, and on machines that
have none. It is an estimate: workspaces of libraries, and what the allocator leaves unused, come on top.
"""

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device

from encoder.models.device import bytes_per_crop
from encoder.models.model import GeoEncoder
from training.cells.heads import Head
from training.config import FitConfig
from training.photos.batches import BatchPart, Share, Truth, places_of
from training.runs.module import GeoModule

_FEW = (2, 4)  # photos of the passes that memory is measured with
_MOST_ON_CPU = 8  # photos at once that time is measured with: of a large encoder one takes seconds
_MOMENTS = 2  # AdamW keeps two numbers of each weight that is learned


@dataclass(frozen=True, slots=True)
class Trial:
    """What a training step takes of a device."""

    weight_bytes: int  # of encoder and head
    learnt_bytes: int  # of the weights among them that are learned
    processes: int  # of the run
    pass_bytes: float  # what a pass takes, whatever the number of photos
    photo_bytes: float  # and for each photo
    photo_seconds: float  # forward and backward, in passes of `timed` photos
    timed: int

    @property
    def fixed_bytes(self) -> int:
        """Weights, gradients, the optimiser's moments; and gradients once more where processes exchange them."""
        return self.weight_bytes + self.learnt_bytes * (1 + _MOMENTS + (self.processes > 1))

    def bytes_for(self, photos: int) -> int:
        """What a process takes to work on so many photos at once."""
        return int(self.fixed_bytes + self.pass_bytes + photos * self.photo_bytes)

    def photos_in(self, n_bytes: int) -> int:
        """The most photos at once that so much memory holds, none if it does not hold a run."""
        return max(0, int((n_bytes - self.fixed_bytes - self.pass_bytes) // self.photo_bytes))


def made_up_part(encoder: GeoEncoder, cells: Sequence[int], *, photos: int, batch_size: int, seed: int) -> BatchPart:
    """A part of a batch of noise, where no photo is to be had. cells: how many each level has."""
    rng = np.random.default_rng(seed)
    edge = encoder.preprocessing.crop
    everyone = torch.from_numpy(np.stack([rng.integers(0, n, batch_size) for n in cells], axis=1))
    places = places_of(rng.uniform(-90, 90, batch_size), rng.uniform(-180, 180, batch_size))
    pixels = torch.from_numpy(rng.integers(0, 256, (photos, 3, edge, edge), np.uint8))
    maps = None if encoder.fusion is None else torch.zeros((photos, edge, edge), dtype=torch.uint8)
    return BatchPart(pixels, maps, Truth(everyone[:photos], everyone, places, 0), ends_batch=False)


def try_part(
    encoder: GeoEncoder, head: Head, part: BatchPart, *, config: FitConfig, device: torch.device, most_bytes: int
) -> Trial:
    """Work on a part of a batch as training does, on this device, and on all of it at once if it fits in `most_bytes`.

    Weights stay as they are. Raises WorkError where the loss is no number, and as torch where memory runs out.
    """
    options = config.trainer
    share = Share(0, options.devices * options.num_nodes, options.accumulate_grad_batches)
    module = GeoModule(encoder, head, config=config, share=share).to(device)
    learnt = [weight for weight in module.parameters() if weight.requires_grad]
    few, more = (min(n, len(part.pixels)) for n in _FEW)
    saved = [_pass(module, part, photos) for photos in (few, more)]
    photo_bytes = (saved[1].n_bytes - saved[0].n_bytes) / (more - few) if more > few else saved[0].n_bytes / few
    trial = Trial(
        weight_bytes=sum(weight.nbytes for weight in module.parameters()),
        learnt_bytes=sum(weight.nbytes for weight in learnt),
        processes=share.processes,
        pass_bytes=max(0.0, saved[1].n_bytes - more * photo_bytes),
        # Between what is saved for the way back, a block needs more while it works.
        photo_bytes=photo_bytes + bytes_per_crop(encoder),
        photo_seconds=saved[1].seconds / more,
        timed=more,
    )
    most = len(part.pixels) if device.type == "cuda" else min(len(part.pixels), _MOST_ON_CPU)
    timed = min(most, trial.photos_in(most_bytes))
    if timed <= more:
        return trial
    _pass(module, part, timed)  # warm
    return Trial(
        **{name: getattr(trial, name) for name in trial.__slots__ if name not in ("photo_seconds", "timed")},
        photo_seconds=_pass(module, part, timed).seconds / timed,
        timed=timed,
    )


@dataclass(frozen=True, slots=True)
class _Pass:
    n_bytes: int  # that were kept for the way back, weights left out
    seconds: float


def _pass(module: GeoModule, part: BatchPart, photos: int) -> _Pass:
    """Forward and backward with the first photos of a part; gradients are thrown away."""
    device = module.device
    moved: BatchPart = move_data_to_device(_first(part, photos), device)
    weights = {weight.untyped_storage().data_ptr() for weight in (*module.parameters(), *module.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    _wait(device)
    started = time.perf_counter()
    low = module.config.trainer.precision == "bf16-mixed"
    with warnings.catch_warnings(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        warnings.filterwarnings("ignore", "You are trying to `self.log\\(\\)`")  # there is no log
        with torch.autocast(device.type, torch.bfloat16, enabled=low):
            loss = module.training_step(moved, 0)
    torch.autograd.backward(loss)
    _wait(device)
    seconds = time.perf_counter() - started
    module.zero_grad(set_to_none=True)
    return _Pass(sum(kept.values()), seconds)


def _first(part: BatchPart, photos: int) -> BatchPart:
    maps = None if part.class_maps is None else part.class_maps[:photos]
    truth = part.truth._replace(targets=part.truth.targets[:photos])
    return BatchPart(part.pixels[:photos], maps, truth, ends_batch=False)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
