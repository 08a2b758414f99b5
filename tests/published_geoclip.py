"""GeoCLIP in the forms it is published in, with few and random weights: its package unpacked, and a release."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

IN, OUT = 16, 8  # dimensions of a CLIP's image embedding, and of the vectors
LOGIT_SCALE = 3.0


def small_weights(seed: int = 0, *, scales: int = 2) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Those of an image head, and of a location encoder, by their published names."""
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random) / shape[-1] ** 0.5

    head = {"0.weight": draw(IN, IN), "0.bias": draw(IN), "2.weight": draw(OUT, IN), "2.bias": draw(OUT)}
    places = {}
    for scale in range(scales):
        places[f"LocEnc{scale}.capsule.0.b"] = 4**scale * torch.randn(6, 2, generator=random)
        for position, (end, begin) in {1: (14, 12), 3: (14, 14), 5: (14, 14)}.items():
            places[f"LocEnc{scale}.capsule.{position}.weight"] = draw(end, begin)
            places[f"LocEnc{scale}.capsule.{position}.bias"] = draw(end)
        places[f"LocEnc{scale}.head.0.weight"], places[f"LocEnc{scale}.head.0.bias"] = draw(OUT, 14), draw(OUT)
    return head, places


def places_on_earth(n: int, seed: int = 0) -> np.ndarray:
    """Latitudes and longitudes (n, 2) around a few centres, to six digits, a tenth of them twice."""
    rng = np.random.default_rng(seed)
    centres = np.array([(48.9, 2.4), (52.5, 13.4), (-33.9, 151.2), (40.7, -74.0), (35.7, 139.7), (-1.3, 36.8)])
    places = centres[rng.integers(0, len(centres), n)] + rng.normal(0, 1.5, (n, 2))
    places[: n // 10] = places[-(n // 10) :]
    return places.round(6)


def write_places(file: Path, places: np.ndarray) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{lat:.6f},{lng:.6f}" for lat, lng in places.tolist()]
    file.write_text("\n".join(["LAT,LON", *lines, ""]))
    return file


def write_package(folder: Path, *, n: int = 600, seed: int = 0) -> Path:
    """As a wheel has it, unpacked."""
    weights = folder / "geoclip/model/weights"
    weights.mkdir(parents=True)
    head, places = small_weights(seed)
    torch.save(head, weights / "image_encoder_mlp_weights.pth")
    torch.save(places, weights / "location_encoder_weights.pth")
    torch.save(torch.nn.Parameter(torch.tensor(LOGIT_SCALE)), weights / "logit_scale_weights.pth")
    write_places(folder / "geoclip/model/gps_gallery/coordinates_100K.csv", places_on_earth(n, seed))
    return folder


def write_release(folder: Path, *, clip: str, n: int = 600, seed: int = 0) -> Path:
    """As `GeoCLIP.from_pretrained` reads it."""
    folder.mkdir(parents=True)
    head, places = small_weights(seed)
    named = {f"image_encoder.mlp.{name}": tensor for name, tensor in head.items()}
    named |= {f"location_encoder.{name}": tensor for name, tensor in places.items()}
    save_file({**named, "logit_scale": torch.tensor(LOGIT_SCALE)}, folder / "model.safetensors")
    write_places(folder / "places.csv", places_on_earth(n, seed))
    config = {
        "model_type": "geoclip-geolocation",
        "format_version": 1,
        "gallery_file": "places.csv",
        "backbone": {"repo_id": clip, "revision": "abc"},
        "sigma": [1, 4],
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_clip(folder: Path, *, width: int = IN, edge: int = 32) -> Path:
    """A CLIP of random weights as the hub has them, whose image embeddings have so many dimensions."""
    torch.manual_seed(1)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "projection_dim": width}
    text = small | {"num_hidden_layers": 1, "vocab_size": 99, "bos_token_id": 0, "eos_token_id": 2}
    vision = small | {"num_hidden_layers": 2, "image_size": edge, "patch_size": edge // 4}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=width)).save_pretrained(folder)
    size = {"shortest_edge": edge}
    CLIPImageProcessorPil(size=size, crop_size={"height": edge, "width": edge}).save_pretrained(folder)
    return folder
