"""GeoCLIP's location encoder: a place on Earth to a vector in the space of its photos (Vivanco Cepeda et al., 2023).

In: latitude and longitude in degrees. Out: unit vectors. A place is drawn on the map of the equal-earth projection. At
each of some scales (published: frequencies with a standard deviation of 1, 16 and 256) it becomes random Fourier
features, cos and sin of 2 pi B x, whose B was drawn once and is stored with the weights; they pass four linear layers
with a ReLU after each but the last. The vectors of all scales are added up.

It is another one than that of the ablations (`benchmarks.world.location_encoder`), which learns beside a classifier.
"""

import re
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

# Of Savric, Patterson and Jenny, The Equal Earth map projection (2018).
_A1, _A2, _A3, _A4 = 1.340264, -0.081106, 0.000893, 0.003796
_SCALE = 66.50336  # of the map; divided by 180 about 1 from its middle to its left edge
_ONE_SCALE = re.compile(r"LocEnc(\d+)\.(capsule|head)\.(\d+)\.(\w+)")
_PLACES = 1024  # encoded at once: 4 MB of each layer


class LocationEncoder(nn.Module):
    """Places in, unit vectors out."""

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        """weights: by their published names, of any number of scales.

        Raises:
            LookupError, RuntimeError, ValueError: they are none of a location encoder.
        """
        super().__init__()
        named = {_own_name(name): tensor.float() for name, tensor in weights.items()}
        n_scales = 1 + max(int(name.split(".")[1]) for name in named)
        self.scales = nn.ModuleList(_one_scale(named, f"scales.{number}") for number in range(n_scales))
        self.load_state_dict(named)
        widths = {len(named[f"scales.{number}.7.bias"]) for number in range(n_scales)}
        self.width = min(widths)  # D, the number of dimensions of its vectors
        if len(widths) != 1:
            raise ValueError("vectors of scales have different numbers of dimensions and cannot be added up")
        self.eval().requires_grad_(False)

    def forward(self, places: torch.Tensor) -> torch.Tensor:
        """Latitudes and longitudes (N, 2) float32 in degrees to unit vectors (N, D) float32."""
        return nn.functional.normalize(self.unscaled(places), dim=-1)

    def unscaled(self, places: torch.Tensor) -> torch.Tensor:
        """The same before vectors are scaled to length 1: those of the published weights have 0.15 to 0.52."""
        drawn = equal_earth(places)
        return torch.stack([scale(drawn) for scale in self.scales]).sum(dim=0)

    @torch.inference_mode()
    def vectors(self, lat_deg: np.ndarray, lng_deg: np.ndarray) -> np.ndarray:
        """Unit vectors (N, D) float32 of latitudes and longitudes (N,), some thousand at a time."""
        places = torch.from_numpy(np.stack([lat_deg, lng_deg], axis=1).astype(np.float32))
        result = np.empty((len(places), self.width), np.float32)
        for begin in range(0, len(places), _PLACES):
            result[begin : begin + _PLACES] = self(places[begin : begin + _PLACES]).numpy()
        return result


class _FourierFeatures(nn.Module):
    """Places on a map (N, 2) to cos and sin of their products with frequencies that were drawn once: (N, 2 F)."""

    frequencies: torch.Tensor

    def __init__(self, number: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.empty(number, 2))

    def forward(self, drawn: torch.Tensor) -> torch.Tensor:
        """The features."""
        turns = 2 * np.pi * drawn @ self.frequencies.T
        return torch.cat([turns.cos(), turns.sin()], dim=-1)


def equal_earth(places: torch.Tensor) -> torch.Tensor:
    """Latitudes and longitudes (N, 2) in degrees as x and y (N, 2) on the map of the equal-earth projection.

    Step for step as it is published: the last bit of a float32, a metre on the ground, turns the features of the finest
    scale enough to change which of two near places comes first.
    """
    lat, lng = places.deg2rad().unbind(dim=1)
    root = torch.tensor(3.0).sqrt()
    theta = torch.asin(root / 2 * lat.sin())
    slope = 9 * _A4 * theta**8 + 7 * _A3 * theta**6 + 3 * _A2 * theta**2 + _A1
    x = 2 * root * lng * theta.cos() / (3 * slope)
    y = _A4 * theta**9 + _A3 * theta**7 + _A2 * theta**3 + _A1 * theta
    return torch.stack([x, y], dim=1) * _SCALE / 180


def _own_name(name: str) -> str:
    """The name that a published weight has here: layers of a scale are counted on from `capsule` into `head`."""
    found = _ONE_SCALE.fullmatch(name)
    if found is None:
        raise ValueError(f"{name} is no weight of a location encoder")
    scale, part, layer, kind = found.groups()
    if kind == "b":
        return f"scales.{scale}.0.frequencies"
    return f"scales.{scale}.{7 if part == 'head' else layer}.{kind}"


def _one_scale(named: Mapping[str, torch.Tensor], prefix: str) -> nn.Sequential:
    """The layers of a scale, in the sizes of its weights."""
    number = len(named[f"{prefix}.0.frequencies"])
    layers: list[nn.Module] = [_FourierFeatures(number)]
    width = 2 * number
    for position in (1, 3, 5, 7):
        end = len(named[f"{prefix}.{position}.weight"])
        layers += [nn.Linear(width, end), nn.ReLU()]
        width = end
    return nn.Sequential(*layers[:-1])
