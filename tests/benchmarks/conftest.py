"""What tests of benchmarks share: pictures of the world that are read once, and a demo that is trained in no time."""

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from benchmarks.world import arms, generator

# Models this small lose more to handing work between threads than they gain, above all beside other processes.
torch.set_num_threads(1)

# Options of `training fit`. What makes a command small.
SMALL_ENCODER = tuple(
    word
    for name, value in {
        **{"patch_size": 24, "hidden_size": 32, "layers": 3, "heads": 2, "mlp_size": 32, "width": 16},
        **{"fusion.width": 8, "fusion.latent": 4, "fusion.heads": 2, "fusion.mlp_size": 8},
    }.items()
    for word in (f"--model.{name}", str(value))
)


@pytest.fixture(scope="session", autouse=True)
def pictures_read_once() -> Iterator[None]:
    """Decoding and classifying the pictures takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generator, "_load_pictures", functools.cache(generator._load_pictures))
        yield


@pytest.fixture(scope="module")
def small_demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The demo's settings, but for a smaller encoder and photos that are decoded in this process."""
    settings = yaml.safe_load(arms._CONFIG.read_text())
    settings["data"] |= {"workers": 0}
    settings["model"] |= {"patch_size": 24, "hidden_size": 32, "layers": 3, "heads": 2, "mlp_size": 32, "width": 16}
    settings["model"]["fusion"] |= {"width": 8, "latent": 4, "heads": 2, "mlp_size": 8}
    file: Path = tmp_path_factory.mktemp("small") / "demo.yaml"
    file.write_text(yaml.safe_dump(settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arms, "_CONFIG", file)
        yield
