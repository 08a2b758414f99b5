"""Tiny worlds laid out as the pages take for granted, so that their commands and code run word for word."""

import importlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from transformers import CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.utils import logging

from benchmarks.world.generator import WorldConfig, generate
from encoder.models.checkpoint import save_checkpoint
from encoder.models.model import GeoEncoder, GeoEncoderConfig
from indexer.bundles.registry import Registry
from indexer.cli import main
from tests.benchmarks.conftest import SMALL_ENCODER
from tests.docs.markdown import ROOT
from tests.text_clips import save_text_clip

torch.set_num_threads(1)  # models this small lose more to handing work between threads than they gain

PLACES = np.array([(48.9, 2.4), (52.5, 13.4), (-33.9, 151.2), (40.7, -74.0), (35.7, 139.7), (-1.3, 36.8)])
COLOURS = np.array([(220, 40, 40), (40, 220, 40), (40, 40, 220), (220, 220, 40), (40, 220, 220), (220, 40, 220)])
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
# What makes a command small: no other processes, few steps. Nothing else is added to what a page says.
SMALL = {
    ("training", "fit"): (
        *("--trainer.max_epochs", "1", "--data.batch_size", "32", "--data.workers", "1"),
        *SMALL_ENCODER,
    ),
    ("training", "refit"): ("--epochs", "1"),
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    logging.disable_progress_bar()


def run(words: Sequence[str]) -> None:
    """Run a command of a page here; it must end with 0."""
    package, name, *rest = words
    commands = importlib.import_module(f"{package}.__main__").COMMANDS
    reads_photos = name in ("embed", "run") and "--photos" in rest
    small = SMALL.get((package, name), ("--workers", "0") if reads_photos else ())
    assert main(package, "", commands, argv=[name, *rest, *small]) == 0, words


@contextmanager
def inside(folder: Path) -> Iterator[Path]:
    """Work in a folder for a while, as a person at a terminal does."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield folder
    finally:
        os.chdir(before)


def write_photos(folder: Path, n: int) -> list[tuple[str, float, float]]:
    """JPEGs of one colour for each place, which their EXIF tells; one of them is called beach.jpg."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    rows = []
    for number in range(n):
        place = number % len(PLACES)
        lat, lng = PLACES[place] + rng.normal(0, 0.3, 2)
        pixels = np.clip(COLOURS[place] + rng.normal(0, 25, (40, 40, 3)), 0, 255).astype(np.uint8)
        exif = Image.Exif()
        exif.get_ifd(ExifTags.IFD.GPSInfo).update(
            {
                ExifTags.GPS.GPSLatitudeRef: "N" if lat >= 0 else "S",
                ExifTags.GPS.GPSLatitude: (abs(float(lat)), 0.0, 0.0),
                ExifTags.GPS.GPSLongitudeRef: "E" if lng >= 0 else "W",
                ExifTags.GPS.GPSLongitude: (abs(float(lng)), 0.0, 0.0),
            }
        )
        name = f"{number:04d}.jpg" if number else "beach.jpg"
        Image.fromarray(pixels).save(folder / name, exif=exif)
        rows.append((name, float(lat), float(lng)))
    return rows


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the checkout after `make demo`, but for a world of few photos and without what is trained."""
    home = tmp_path_factory.mktemp("demo")
    (home / "configs").symlink_to(ROOT / "configs")
    generate(WorldConfig(n_train=160, n_validation=110, n_test=10), home / "out/demo/world")
    return home


@pytest.fixture(scope="session")
def own_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `photos`, and CLIPs under the names that the tutorial gives to the hub's, one also as a pickle."""
    home = tmp_path_factory.mktemp("own")
    write_photos(home / "photos", 620)
    torch.manual_seed(1)
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = CLIPModel(CLIPConfig(text_config=text | {"vocab_size": 99}, vision_config=VISION, projection_dim=16))
    for name in ("openai/clip-vit-large-patch14", "openai/clip-vit-large-patch14-336"):
        model.save_pretrained(home / name)
        processor = CLIPImageProcessorPil(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32})
        processor.save_pretrained(home / name)
    (home / name / "model.safetensors").unlink()
    torch.save(model.state_dict(), home / name / "pytorch_model.bin")
    rng = np.random.default_rng(0)
    middles = rng.normal(size=(3, 16))
    for name, n in (("database", 90), ("queries", 12)):  # as a place-recognition model would leave them
        vectors = middles[np.arange(n) % 3] + rng.normal(0, 0.3, (n, 16))
        np.save(home / f"{name}.npy", vectors.astype(np.float32))
        photos = [f"@{5e5 + row:.2f}@{1e6 * (row % 3 + 1):.2f}@3{row % 3}@N@@@{row}@.jpg" for row in range(n)]
        (home / f"{name}.csv").write_text("\n".join(["photo", *photos]) + "\n")
    labels = [
        "photo,lat,lng,continent,country,city",
        *(f"{row}.jpg,48.9,{row},Europe,FR,c{row % 3}" for row in range(9)),
    ]
    (home / "labels.csv").write_text("\n".join(labels) + "\n")
    more = [f"more{row}.jpg,{48.9 + row / 100},{2.4}" for row in range(30)]
    (home / "more.csv").write_text("\n".join(["photo,lat,lng", *more]) + "\n")
    save_text_clip(home / "geolocal/StreetCLIP", context=160)
    huts = [f"land{row % 2},range{row % 3},hut{row},{lat},{lng}" for row, (lat, lng) in enumerate(PLACES.tolist())]
    (home / "huts.csv").write_text("\n".join(["country,range,hut,lat,lng", *huts]) + "\n")
    prompts = ["{country}", "Mountains in the {range}", "Near {hut} in the {range}, {country}.", "A hiker near {hut}."]
    (home / "prompts.txt").write_text("\n".join(prompts) + "\n")
    (home / "animals.csv").write_text("name\nibex\nchough\n")
    return home


@pytest.fixture(scope="session")
def letters_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pages call by one letter: checkpoint C, features F and V, registry R, predictions O; photos and tables."""
    home = tmp_path_factory.mktemp("letters")
    rows = [(f"p/{name}", lat, lng) for name, lat, lng in write_photos(home / "p", 260)]
    split = ["train", "validation"]
    lines = [
        "photo,lat,lng,split,user",
        *(
            f"{name},{lat},{lng},{split[row // len(PLACES) % 2]},u{row % 9}"
            for row, (name, lat, lng) in enumerate(rows)
        ),
    ]
    (home / "photos.csv").write_text("\n".join(lines) + "\n")
    (home / "train.csv").write_text("\n".join([lines[0], *lines[1::2]]) + "\n")
    (home / "test.csv").write_text("\n".join([lines[0], *lines[2::2]]) + "\n")
    shutil.copy(home / "p/beach.jpg", home / "photo.jpg")
    torch.manual_seed(0)
    encoder = GeoEncoder(GeoEncoderConfig(vision_config=VISION, projection_dim=16)).eval()
    save_checkpoint(home / "C", encoder=encoder, geocells=None, config={}, inputs={})
    with inside(home):
        import duckdb

        duckdb.sql("COPY (FROM 'photos.csv') TO 'photos.parquet'")
        run("encoder embed --photos photos.csv --checkpoint C --out F".split())
        run("encoder embed --photos photos.csv --split validation --checkpoint C --out V".split())
        learnt = "--features F --photos photos.csv --split train --tau-max 100,30 --tau-min 5 --owner-column user"
        run(f"indexer build {learnt} --registry R".split())
        run("search run --registry R --features F --out O".split())
    return home


@pytest.fixture
def letters(letters_world: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy to work in."""
    with inside(Path(shutil.copytree(letters_world, tmp_path / "letters", symlinks=True))) as home:
        yield home


def versions(registry: Path) -> tuple[str, str]:
    """The current version, and one that may go."""
    home = Registry(registry)
    current = home.current
    assert current is not None
    return current, next(path.name for path in home.versions_folder.iterdir() if path.name != current)
