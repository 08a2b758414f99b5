"""GeoCLIP as it is published: its package, or a release; neither is imported, and nothing in them is run.

In: the package `geoclip` 1.3, installed or as a folder (its image head, location encoder and logit scale as `.pth`
files, 100,000 coordinates as CSV); or a release, a folder or hub id with `config.json` (`model_type`
geoclip-geolocation, `format_version` 1), `model.safetensors` and a CSV of coordinates. Out: one dataclass. CLIP itself
is in neither: they name the one whose image embeddings the head was trained on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from encoder.models.files import CONFIG_FILE, HUB_PREFIX, WEIGHTS_FILE, fetch, read_json, weights_of
from encoder.models.model import make_head
from encoder.models.pickled_weights import pickled_tensors
from indexer.disk.manifest import file_digest
from indexer.errors import InputError
from indexer.photos.tables import coordinates_of, read_columns
from training.adopted.location_encoder import LocationEncoder

PACKAGE = "geoclip"
MODEL_TYPE = "geoclip-geolocation"
FORMAT_VERSION = 1
CLIP = "openai/clip-vit-large-patch14"  # what the package loads
_HEAD_FILE = "model/weights/image_encoder_mlp_weights.pth"
_LOCATION_FILE = "model/weights/location_encoder_weights.pth"
_SCALE_FILE = "model/weights/logit_scale_weights.pth"
_GALLERY_FILE = "model/gps_gallery/coordinates_100K.csv"
_SCALE = "logit_scale"
_HEAD, _LOCATIONS = "image_encoder.mlp.", "location_encoder."  # how names of a release begin


@dataclass(frozen=True, slots=True, eq=False)
class GeoClip:
    """What is published of GeoCLIP."""

    source: str  # for people
    head: torch.nn.Sequential  # what a CLIP's image embedding passes, in float32
    location_encoder: LocationEncoder
    temperature: float  # what cosines of photos and places are divided by
    lat_deg: np.ndarray  # (N,) float64, of its gallery
    lng_deg: np.ndarray  # (N,) float64
    clip: str  # hub id of the CLIP, with a revision where one is named
    digests: Mapping[str, str]  # SHA-256 of each file that was read

    @property
    def widths(self) -> list[int]:
        """Of the vectors before the head, and after each of its linear layers."""
        linear = [layer for layer in self.head if isinstance(layer, torch.nn.Linear)]
        return [linear[0].in_features, *(layer.out_features for layer in linear)]


def read_geoclip(source: str | Path | None = None) -> GeoClip:
    """Read what is published.

    Args:
        source: folder of the unpacked package or of a release, or the hub id of a release; None: the package that is
            installed.

    Raises:
        InputError: it is not there, is none of these, or the hub cannot be reached.
        ArtifactError: its weights are damaged, or not those of a GeoCLIP.
    """
    if source is None:
        return _of_package(_installed(), f"the package {PACKAGE}")
    for folder in (Path(source), Path(source) / PACKAGE):
        if (folder / _HEAD_FILE).is_file():
            return _of_package(folder, str(source))
    return _of_release(str(source).removeprefix(HUB_PREFIX))


def _installed() -> Path:
    """The folder of the package; it is found by what pip wrote of it."""
    try:
        files = distribution(PACKAGE).files or ()
    except PackageNotFoundError:
        raise InputError(
            f"The package {PACKAGE} is not installed. Install it without what it asks for (pip install with "
            f"no-deps; `make geoclip` does), or give with `from_` a folder it was unpacked into, or a release."
        ) from None
    for file in files:
        if file.as_posix() == f"{PACKAGE}/{_HEAD_FILE}":
            return Path(str(file.locate())).parents[2]
    raise InputError(
        f"The package {PACKAGE} {distribution(PACKAGE).version} is installed, but holds no {_HEAD_FILE}. Install 1.3."
    )


def _of_package(folder: Path, name: str) -> GeoClip:
    files = [folder / each for each in (_HEAD_FILE, _LOCATION_FILE, _SCALE_FILE, _GALLERY_FILE)]
    missing = [str(file.relative_to(folder)) for file in files if not file.is_file()]
    if missing:
        raise InputError(f"{name}: {', '.join(missing)} is missing. Install {PACKAGE} 1.3 again.")
    head, locations, scale, gallery = files
    return _made(
        name,
        pickled_tensors(head),
        pickled_tensors(locations),
        pickled_tensors(scale, single=_SCALE),
        weights=(head, locations, scale),
        gallery=gallery,
        clip=CLIP,
        digests={file.name: file_digest(file) for file in files},
    )


def _of_release(name: str) -> GeoClip:
    config_file = fetch(name, CONFIG_FILE)
    config = read_json(config_file)
    kind, version = config.get("model_type"), config.get("format_version")
    if (kind, version) != (MODEL_TYPE, FORMAT_VERSION) or isinstance(version, bool):
        raise InputError(
            f"{name}: {CONFIG_FILE} says model_type {kind!r}, format_version {version!r}; a release of GeoCLIP has "
            f"{MODEL_TYPE!r} and {FORMAT_VERSION}. Give such a release, or the unpacked package."
        )
    gallery_name, clip = _gallery_file(name, config), _clip_of(name, config)
    weights_file, gallery = fetch(name, WEIGHTS_FILE), fetch(name, gallery_name)
    with weights_of("GeoCLIP", weights_file):
        weights = load_file(weights_file)
    head, locations = (
        {key.removeprefix(begin): tensor for key, tensor in weights.items() if key.startswith(begin)}
        for begin in (_HEAD, _LOCATIONS)
    )
    rest = {key: tensor for key, tensor in weights.items() if not key.startswith((_HEAD, _LOCATIONS))}
    return _made(
        name,
        head,
        locations,
        rest,
        weights=(weights_file,) * 3,
        gallery=gallery,
        clip=clip,
        digests={file.name: file_digest(file) for file in (config_file, weights_file, gallery)},
    )


def _gallery_file(name: str, config: Mapping[str, Any]) -> str:
    file = config.get("gallery_file")
    if not isinstance(file, str) or not file.endswith(".csv") or Path(file).name != file:
        raise InputError(f"{name}: gallery_file of {CONFIG_FILE} must name a CSV beside it, not {file!r}.")
    return file


def _clip_of(name: str, config: Mapping[str, Any]) -> str:
    backbone = config.get("backbone")
    repository = backbone.get("repo_id") if isinstance(backbone, dict) else None
    revision = backbone.get("revision") if isinstance(backbone, dict) else None
    if not isinstance(repository, str) or not (revision is None or isinstance(revision, str)):
        raise InputError(f"{name}: {CONFIG_FILE} does not name the CLIP it goes with (backbone: repo_id, revision).")
    return f"{repository}@{revision}" if revision else repository


def _made(
    name: str,
    head: Mapping[str, torch.Tensor],
    locations: Mapping[str, torch.Tensor],
    scale: Mapping[str, torch.Tensor],
    *,
    weights: tuple[Path, Path, Path],
    gallery: Path,
    clip: str,
    digests: Mapping[str, str],
) -> GeoClip:
    """All of it, checked. weights: the files of head, location encoder and logit scale."""
    head_file, location_file, scale_file = weights
    with weights_of("image head", head_file):
        layers = _head(head)
    with weights_of("location encoder", location_file):
        encoder = LocationEncoder(locations)
        if encoder.width != layers[-1].out_features:
            raise ValueError(f"places in {encoder.width} dimensions, photos in {layers[-1].out_features}")
    with weights_of("logit scale", scale_file):
        (value,) = (tensor for key, tensor in scale.items() if key == _SCALE)
        if set(scale) != {_SCALE} or not torch.isfinite(value).all():
            raise ValueError(f"{', '.join(sorted(scale))} in place of one finite {_SCALE}")
        temperature = 1 / float(value.exp())
    lat_deg, lng_deg = read_places(gallery)
    return GeoClip(name, layers, encoder, temperature, lat_deg, lng_deg, clip, digests)


def _head(weights: Mapping[str, torch.Tensor]) -> torch.nn.Sequential:
    """The layers of an image head, in the sizes of its weights."""
    shapes = [weights[f"{number}.weight"].shape for number in range(0, len(weights), 2)]
    head = make_head(shapes[0][1], [shape[0] for shape in shapes])
    head.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return head.eval().requires_grad_(False)


def read_places(table: Path) -> tuple[np.ndarray, np.ndarray]:
    """Latitudes and longitudes (N,) float64 of a table (.csv or .parquet), each row of which has a place.

    Raises:
        InputError: it has no such columns, no row, or a row without a place on Earth.
    """
    return coordinates_of(read_columns(table, ["lat", "lng"]), table, required=True)
