"""Random changes to crops of training photos, drawn anew each time: of their colours, and small moves of their content.

Which crop an epoch sees of a photo, and whether mirrored, was drawn before (`training.photos.windows`).
"""

import torch
from torch.nn.functional import affine_grid, grid_sample

from encoder.class_maps.class_map import NO_CLASS
from training.config import Augmentation


def draw_changes(n_photos: int, generator: torch.Generator) -> torch.Tensor:
    """What happens to each photo of a whole batch, whoever works on which part of it: (B, 9) uniform from -1 to 1."""
    # The lots for maps are drawn last: what photos themselves look like does not depend on them.
    return 2 * torch.cat([torch.rand((n_photos, n), generator=generator) for n in (8, 1)], dim=1) - 1


def augment(
    pixels: torch.Tensor,
    class_maps: torch.Tensor | None,
    augmentation: Augmentation,
    changes: torch.Tensor,
    *,
    leave_out: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Change each photo of a batch by itself; its class map moves with it and keeps its classes.

    pixels: (B, 3, H, W) float, 0 to 255. class_maps: (B, H, W) uint8 or None. changes: (B, 9), as they were drawn for
    these photos. leave_out: share of the maps that become as those of photos without one. Returns both in the same
    shapes, pixels clamped to the same range.
    """
    turn, zoom, right, down, light, *colours, lot = changes.to(pixels.device).T
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
    if class_maps is not None:
        class_maps = class_maps.masked_fill((lot < 2 * leave_out - 1)[:, None, None], NO_CLASS)
    bright = pixels * (1 + augmentation.brightness * light[:, None, None, None])
    colour = augmentation.colour * torch.stack(colours, dim=1)[:, :, None, None]
    return (bright + colour).clamp(0, 255), class_maps
