"""From decoded photos to what the model sees: resize, cut, mirror, normalise, on tensors and on any device.

Photos are resized and cut as an encoder's own image processor does, class maps like their photos.

    one    the square in the middle; where photos are squashed to a square, all of it
    five   the four corners and the middle of an image 8/7 of the square's size
    ten    those, and their mirror images: the protocol of the paper's tables (section IV, after GeoDecoder)
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch.nn.functional import interpolate

from encoder.config import CropName, FilterName, Preprocessing, Resizing

_RESIZED = 1 << 24  # pixels resized at once: as floats, with what is between the two passes, 400 MB

N_CROPS: dict[CropName, int] = {"one": 1, "five": 5, "ten": 10}


def crop_photos(photos: Sequence[torch.Tensor], preprocessing: Preprocessing, *, crops: CropName) -> torch.Tensor:
    """Photos (H, W, 3) uint8 of any sizes, on one device, to crops (N, V, 3, S, S) uint8; V crops a photo.

    A photo that has the right size already keeps its exact pixels.
    """
    resizing, square = preprocessing.resizing(crops), preprocessing.crop
    out = photos[0].new_empty((len(photos), N_CROPS[crops], 3, square, square))
    for rows, resized in resized_photos(photos, resizing):
        out[rows] = _cut(resized, square, crops)
    return out


def crop_maps(
    class_maps: Sequence[torch.Tensor],
    photo_shapes: Sequence[tuple[int, int]],
    preprocessing: Preprocessing,
    *,
    crops: CropName,
) -> torch.Tensor:
    """Class maps (h, w) uint8 of photos with these heights and widths to crops (N, V, S, S) uint8, as the photos are.

    A map may be smaller or larger than its photo; it is resized, by the nearest pixel, to what its photo is resized to.
    """
    resizing, square = preprocessing.resizing(crops), preprocessing.crop
    out = class_maps[0].new_empty((len(class_maps), N_CROPS[crops], square, square))
    for rows, resized in resized_maps(class_maps, photo_shapes, resizing):
        out[rows] = _cut(resized, square, crops)[:, :, 0]
    return out


def resized_photos(photos: Sequence[torch.Tensor], resizing: Resizing) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Photos (H, W, 3) uint8 whole, resized: which ones, and these, (n, 3, h, w) uint8; all that come have one shape.

    A photo that has the right size already keeps its exact pixels.
    """
    for (height, width, _), same in groups([tuple(photo.shape) for photo in photos]).items():
        step = max(1, _RESIZED // (height * width))
        for rows in (same[start : start + step] for start in range(0, len(same), step)):
            batch = torch.stack([photos[row] for row in rows]).permute(0, 3, 1, 2)
            yield rows, _resized(batch, resizing.shape(height, width), resizing.filter)


def resized_maps(
    class_maps: Sequence[torch.Tensor], photo_shapes: Sequence[tuple[int, int]], resizing: Resizing
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """The same of class maps (h, w) uint8, each resized to what its photo, of one of these shapes, is: (n, 1, h, w)."""
    targets = [resizing.shape(*shape) for shape in photo_shapes]
    keys = [(*target, *class_map.shape) for target, class_map in zip(targets, class_maps, strict=True)]
    for key, rows in groups(keys).items():
        batch = torch.stack([class_maps[row] for row in rows])[:, None]
        yield rows, batch if key[:2] == key[2:] else resize_maps(batch, key[:2])


def resize_maps(batch: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Class maps (B, 1, h, w) uint8 to (B, 1, *shape): each pixel is the nearest one, no class is made up."""
    return interpolate(batch, shape, mode="nearest-exact")


def normalise(pixels: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """Pixels (B, 3, H, W) from 0 to 255, uint8 or float, to model input: float32 on the same device."""
    mean, std = (
        torch.tensor(values, device=pixels.device).view(1, 3, 1, 1)
        for values in (preprocessing.mean, preprocessing.std)
    )
    return (pixels.float() / 255 - mean) / std


def _resized(batch: torch.Tensor, shape: tuple[int, int], filter_name: FilterName) -> torch.Tensor:
    """Photos (B, 3, H, W) uint8 to (B, 3, *shape) uint8, with a filter as Pillow has it, antialiased."""
    if tuple(batch.shape[2:]) == shape:
        return batch
    if batch.device.type == "cpu":  # whole numbers, several times faster than floats; only CPUs have it
        return interpolate(batch, shape, mode=filter_name, antialias=True)
    values = interpolate(batch.float(), shape, mode=filter_name, antialias=True)
    return values.round_().clamp_(0, 255).to(torch.uint8)


def _cut(batch: torch.Tensor, square: int, crops: CropName) -> torch.Tensor:
    """(B, C, H, W) to its crops (B, V, C, S, S)."""
    down, right = batch.shape[2] - square, batch.shape[3] - square
    middle = (down // 2, right // 2)
    corners = [] if crops == "one" else [(0, 0), (0, right), (down, 0), (down, right)]
    cuts = [batch[:, :, top : top + square, left : left + square] for top, left in [*corners, middle]]
    if crops == "ten":
        cuts += [cut.flip(-1) for cut in cuts]
    return torch.stack(cuts, dim=1)


def groups(keys: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], list[int]]:
    """The positions of each key, in the order of the keys' first ones."""
    groups = defaultdict(list)
    for position, key in enumerate(keys):
        groups[key].append(position)
    return dict(groups)
