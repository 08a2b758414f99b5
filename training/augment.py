"""Random changes to training photos, drawn anew each time. Never mirrored: writing and driving sides are geography."""

import torch
from torch.nn.functional import affine_grid, grid_sample

from training.config import Augmentation


def draw_changes(n_photos: int, generator: torch.Generator) -> torch.Tensor:
    """What happens to each photo of a whole batch, whoever works on which part of it: (B, 8) uniform from -1 to 1."""
    return 2 * torch.rand((n_photos, 8), generator=generator) - 1


def augment(
    pixels: torch.Tensor, class_maps: torch.Tensor | None, augmentation: Augmentation, changes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Change each photo of a batch by itself; its class map moves with it and keeps its classes.

    pixels: (B, 3, H, W) float, 0 to 255. class_maps: (B, H, W) uint8 or None. changes: (B, 8), as they were drawn for
    these photos. Returns both in the same shapes, pixels clamped to the same range.
    """
    turn, zoom, right, down, light, *colours = changes.to(pixels.device).T
    if augmentation.moves_pixels:
        angle = torch.deg2rad(augmentation.rotation_deg * turn)
        scale = 1 + augmentation.zoom * zoom
        # The image spans -1 to 1.
        across, along = 2 * augmentation.shift * right, 2 * augmentation.shift * down
        cosine, sine = scale * angle.cos(), scale * angle.sin()
        rows = torch.stack([cosine, -sine, across, sine, cosine, along], dim=1)
        grid = affine_grid(rows.view(-1, 2, 3), list(pixels.shape), align_corners=False)
        pixels = grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        if class_maps is not None:
            ids = class_maps[:, None].to(pixels.dtype)
            moved = grid_sample(ids, grid, mode="nearest", padding_mode="reflection", align_corners=False)
            class_maps = moved[:, 0].to(torch.uint8)
    bright = pixels * (1 + augmentation.brightness * light[:, None, None, None])
    colour = augmentation.colour * torch.stack(colours, dim=1)[:, :, None, None]
    return (bright + colour).clamp(0, 255), class_maps
