"""Random changes to training photos, drawn anew each time. Never mirrored: writing and driving sides are geography."""

import torch
from torch.nn.functional import affine_grid, grid_sample

from training.config import Augmentation


def augment(
    pixels: torch.Tensor, class_maps: torch.Tensor | None, augmentation: Augmentation, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Change each photo of a batch by itself; its class map moves with it and keeps its classes.

    pixels: (B, 3, H, W) float, 0 to 255. class_maps: (B, H, W) uint8 or None. Returns both in the same shapes, pixels
    clamped to the same range.
    """
    n = len(pixels)

    def draw(*shape: int) -> torch.Tensor:  # uniform from -1 to 1
        return 2 * torch.rand(shape, generator=generator).to(pixels.device) - 1

    if augmentation.moves_pixels:
        angle = torch.deg2rad(augmentation.rotation_deg * draw(n))
        scale = 1 + augmentation.zoom * draw(n)
        offset = 2 * augmentation.shift * draw(n, 2)  # the picture spans -1 to 1
        cosine, sine = scale * angle.cos(), scale * angle.sin()
        rows = torch.stack([cosine, -sine, offset[:, 0], sine, cosine, offset[:, 1]], dim=1)
        grid = affine_grid(rows.view(n, 2, 3), list(pixels.shape), align_corners=False)
        pixels = grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        if class_maps is not None:
            ids = class_maps[:, None].to(pixels.dtype)
            moved = grid_sample(ids, grid, mode="nearest", padding_mode="reflection", align_corners=False)
            class_maps = moved[:, 0].to(torch.uint8)
    bright = pixels * (1 + augmentation.brightness * draw(n, 1, 1, 1))
    return (bright + augmentation.colour * draw(n, 3, 1, 1)).clamp(0, 255), class_maps
