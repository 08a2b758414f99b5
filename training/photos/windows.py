"""Which crop an epoch of training sees of a photo: a window, drawn anew in every epoch.

It is drawn from the seed, the epoch and the photo's name alone. So a photo is cut in the same way whether photos are in
memory or a stream, whatever batch it comes in, and whichever process works on it.
"""

import hashlib
import struct
from collections.abc import Sequence
from typing import NamedTuple

import torch

from training.config import Augmentation


class Window(NamedTuple):
    """A square of an image, as shares of what the image has beyond it: from 0, at the top or left, to below 1."""

    down: float
    right: float
    mirrored: bool


def draw_windows(names: Sequence[str], augmentation: Augmentation, *, seed: int, epoch: int) -> list[Window]:
    """A window for each photo; what is not to be drawn does not change it.

    seed, epoch: not negative, below 2^64.
    """
    key, windows = struct.pack("<QQ", seed, epoch), []
    for name in names:
        digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), key=key, digest_size=17).digest()
        down, right, side = struct.unpack("<QQB", digest)
        # By 53 bits: a float holds no more, and must not become 1.
        shares = (down >> 11) / 2**53, (right >> 11) / 2**53
        windows.append(Window(*shares, mirrored=augmentation.mirror and side < 128))
    return windows


def cut_windows(images: Sequence[torch.Tensor], windows: Sequence[Window], square: int) -> torch.Tensor:
    """The windows of images (..., h, w), whose edges are at least `square`: (N, ..., square, square).

    Every place that a square can have in an image is as likely. A mirrored one is turned around, left for right.
    """
    cuts = []
    for image, window in zip(images, windows, strict=True):
        down, right = image.shape[-2] - square, image.shape[-1] - square
        top, left = int(window.down * (down + 1)), int(window.right * (right + 1))
        cut = image[..., top : top + square, left : left + square]
        cuts.append(cut.flip(-1) if window.mirrored else cut)
    return torch.stack(cuts)
