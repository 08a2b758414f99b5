"""Image to GPS: places have vectors of their own, made by a network from their coordinates (GeoCLIP's idea).

Vivanco Cepeda, Nayak and Shah, "GeoCLIP: Clip-Inspired Alignment between Locations and Images for Effective Worldwide
Geo-localization", NeurIPS 2023. Coordinates alone are too smooth for a network to tell neighbours apart, so they pass
random Fourier features (Tancik et al. 2020) of several scales, each with a network of its own, whose outputs are added.
A photo's vector is contrasted with the vector of its own place, against those of other photos of the batch and of a
queue. An answer is the place of a gallery whose vector is nearest; here the gallery is the training photos' places.

Where GeoCLIP flattens the Earth by an equal-area projection first, a place here is a unit vector in three dimensions:
it has no seam at the 180th meridian and none at the poles. A scale of s means waves about 6,400 km / s long.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from training.cells.heads import ContrastiveHead, weight_groups
from training.config import OptimizerConfig
from training.photos.batches import Truth, places_of

SCALES = (1.0, 16.0, 256.0)  # GeoCLIP's 2^0, 2^4 and 2^8
_GALLERY_BLOCK = 8192  # places encoded at once


class LocationEncoder(nn.Module):
    """Places in, unit vectors out.

    Args:
        width: D, of the vectors.
        scales: standard deviations of the frequencies, each with a network of its own.
        frequencies: of each scale.
        hidden: width of the networks' two inner layers.
        seed: of frequencies and weights.
    """

    frequencies: torch.Tensor  # (S, 3, F), never learned

    def __init__(
        self,
        width: int,
        *,
        scales: tuple[float, ...] = SCALES,
        frequencies: int = 256,
        hidden: int = 512,
        seed: int = 0,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.stack([scale * torch.randn((3, frequencies), generator=generator) for scale in scales])
        self.register_buffer("frequencies", drawn)
        self.networks = nn.ModuleList(
            nn.Sequential(
                nn.Linear(2 * frequencies, hidden),
                nn.ReLU(),
                nn.Linear(hidden, hidden),
                nn.ReLU(),
                nn.Linear(hidden, width),
            )
            for _ in scales
        )
        for layer in self.networks.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=math.sqrt(2 / layer.in_features), generator=generator)
                nn.init.zeros_(layer.bias)

    def forward(self, places: torch.Tensor) -> torch.Tensor:
        """Unit vectors towards places (N, 3) to unit vectors (N, D)."""
        outputs = []
        for frequencies, network in zip(self.frequencies, self.networks, strict=True):
            angles = 2 * math.pi * (places @ frequencies)
            outputs.append(network(torch.cat([angles.cos(), angles.sin()], dim=1)))
        return normalize(torch.stack(outputs).sum(dim=0), dim=-1)


class LocationHead(ContrastiveHead):
    """Contrasts photos with encoded places, and answers with the nearest place of a gallery.

    Args:
        encoder: of places.
        lat_deg: (G,) of the gallery, which also fills the queue to begin with.
        lng_deg: likewise.
        queue: places of earlier batches that a photo's own is compared with as well.
        seed: of the places that begin the queue.
    """

    gallery: torch.Tensor  # (G, 3) float32
    queue: torch.Tensor  # (Q, 3) float32, the latest first; kept with the weights, so that a killed run goes on with it

    def __init__(
        self, encoder: LocationEncoder, lat_deg: np.ndarray, lng_deg: np.ndarray, *, queue: int = 4096, seed: int = 0
    ) -> None:
        super().__init__(lat_deg, lng_deg, n_temperatures=1)
        self.encoder = encoder
        gallery = places_of(lat_deg, lng_deg)
        self.register_buffer("gallery", gallery, persistent=False)
        first = torch.randint(len(gallery), (queue,), generator=torch.Generator().manual_seed(seed))
        self.register_buffer("queue", gallery[first])

    def loss(self, vectors: torch.Tensor, truth: Truth) -> torch.Tensor:
        """Photos against the places of the batch and of the queue, which are encoded anew."""
        candidates = self.encoder(torch.cat([truth.places, self.queue]))
        return place_loss(normalize(vectors, dim=-1), candidates, self.temperatures[0], truth)

    def rows(self) -> torch.Tensor:
        """The gallery, encoded: (G, D)."""
        return torch.cat([self.encoder(places) for places in torch.split(self.gallery, _GALLERY_BLOCK)])

    def other_groups(self, options: OptimizerConfig) -> Sequence[dict[str, Any]]:
        """The location encoder's weights decay as the photo encoder's do."""
        return weight_groups(self.encoder, lr=options.geocell_lr, weight_decay=options.weight_decay)

    def end_batch(self, truth: Truth) -> None:
        """The batch's places go into the queue, and the oldest leave it."""
        self.queue.copy_(torch.cat([truth.places, self.queue])[: len(self.queue)])


def place_loss(
    vectors: torch.Tensor, candidates: torch.Tensor, temperature: torch.Tensor, truth: Truth
) -> torch.Tensor:
    """The mean of - log softmax(v_i . c / tau)[i] over candidates: the batch's own places, then others.

    Another photo's place is a negative even where it is the same place, as in GeoCLIP. A photo without a cell at any
    level has no part in it, so that all heads learn from the same photos.

    vectors: (b, D) unit rows. candidates: (B + Q, D) unit rows, the batch's first. temperature: scalar, positive.
    """
    present = (truth.targets >= 0).any(dim=1)
    own = truth.first + torch.arange(len(vectors), device=vectors.device)
    logits = vectors @ candidates.T / temperature
    summed = cross_entropy(logits, own.masked_fill(~present, -1), ignore_index=-1, reduction="sum")
    return summed / (truth.everyone >= 0).any(dim=1).sum().clamp(min=1)
