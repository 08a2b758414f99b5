"""A published registry over the small world's hierarchy, with random geocells; and one with a tiny real encoder."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from encoder.models.checkpoint import save_checkpoint
from encoder.models.model import GeoEncoder, GeoEncoderConfig
from indexer.bundles.bundle import DEFAULT_INDEX, Bundle, build_bundle, calibrated_bundle, open_bundle
from indexer.bundles.leaf_index import IndexChoice
from indexer.bundles.registry import Registry
from indexer.cells.hierarchy import Hierarchy
from indexer.vectors.calibration import Calibration
from indexer.vectors.features import FeatureBatch
from indexer.vectors.geocells import Geocells, load_geocells
from indexer.vectors.prototypes import Placed
from indexer.vectors.scoring import ScoringModel, log_product
from search.answers.engine import Engine
from search.answers.options import ModeName, SearchOptions
from tests.conftest import random_geocells, unit_rows, write_features
from tests.search.gallery_oracle import bundle_with_photos, photos_near_cells

WIDTH = 12
MODES: list[ModeName] = ["exact", "beam", "adaptive"]
MakeBundle = Callable[[IndexChoice, float], Bundle]  # with a prior exponent
_INDICES = [IndexChoice(kind, precision) for kind in ("flat", "ivf") for precision in ("fp32", "fp16", "int8")]


def make_bundle(
    hierarchy: Hierarchy, folder: Path, versions: Path, *, index: IndexChoice = DEFAULT_INDEX, prior: float = 0.0
) -> Bundle:
    """A bundle of random geocells; folder: of the hierarchy."""
    geocells = replace(random_geocells(hierarchy, WIDTH, seed=0), prior_exponent=prior)
    return open_bundle(build_bundle(folder, geocells, versions, config={}, inputs={}, index=index))


@pytest.fixture(scope="session")
def registry(hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    home = Registry(tmp_path_factory.mktemp("registry") / "R")
    geocells = random_geocells(hierarchy, WIDTH, seed=0)
    home.publish(build_bundle(hierarchy_folder, geocells, home.versions_folder, config={}, inputs={}).name)
    return home


@pytest.fixture(scope="session")
def engine(registry: Registry) -> Engine:
    return Engine.open(registry.path)


@pytest.fixture(scope="session")
def encoder_world(hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint C and a registry R published from it. Who publishes more does so in a copy."""
    home = tmp_path_factory.mktemp("world")
    torch.manual_seed(0)
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = GeoEncoderConfig(vision_config=vision | {"image_size": 32, "patch_size": 8}, projection_dim=WIDTH)
    geocells = random_geocells(hierarchy, WIDTH, seed=0)
    save_checkpoint(home / "C", encoder=GeoEncoder(config).eval(), geocells=geocells, config={}, inputs={})
    home_of = Registry(home / "R")
    loaded = load_geocells(home / "C")
    home_of.publish(build_bundle(hierarchy_folder, loaded, home_of.versions_folder, config={}, inputs={}).name)
    return home


@pytest.fixture(scope="module")
def world(encoder_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint C, a registry R published from it, five photos (the fourth no image), and their table."""
    home = Path(shutil.copytree(encoder_world, tmp_path_factory.mktemp("search") / "world", symlinks=True))
    pixels = np.random.default_rng(0).integers(0, 255, (5, 40, 50, 3), np.uint8)
    for row, picture in enumerate(pixels):
        Image.fromarray(picture).save(home / f"{row}.png")
    (home / "3.png").write_text("no image")
    lines = [f"{row}.png,{10 * row},{20 * row},{'a' if row < 4 else 'b'}" for row in range(5)]
    (home / "photos.csv").write_text("\n".join(["photo,lat,lng,split", *lines]) + "\n")
    return home


@pytest.fixture(scope="module")
def checkable(world: Path) -> Path:
    """A registry Q in that folder with the same bundle, calibrated: a claim's p-value tells its nonconformity."""
    home = Registry(world / "Q")
    known = tuple((np.arange(101) / 100).tolist())
    numbers = Calibration(1.0, 0.0, 1.0, {"cell": (0.5, 0.9)}, 40.0, 0.0, 200, nonconformities=known)
    bundle = open_bundle(Registry(world / "R").resolve(None))
    home.publish(calibrated_bundle(bundle, home.versions_folder, {"one": numbers}, config={}, inputs={}).name)
    return world


def features(out: Path, sizes: list[int], *, encoder: str | None = "e" * 64, bad: set[int] = frozenset()) -> Path:
    """A features folder of random vectors, a shard for each size; bad: rows that have none."""
    vectors = unit_rows(sum(sizes), WIDTH, seed=0)
    vectors[list(bad)] = 0
    batches, start = [], 0
    for size in sizes:
        rows = range(start, start + size)
        status = ["truncated" if row in bad else "ok" for row in rows]
        reason = ["ends early" if row in bad else "" for row in rows]
        unknown = np.full(size, np.nan)
        names = [f"p{row % 7}" for row in rows]
        batches.append(FeatureBatch(names, vectors[start : start + size], status, reason, unknown, unknown))
        start += size
    return write_features(out, *batches, encoder=encoder)


@pytest.fixture(scope="session")
def made(hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeBundle:
    """Bundles of `make_bundle`, each made once."""
    versions = tmp_path_factory.mktemp("versions")
    return cache(lambda index, prior: make_bundle(hierarchy, hierarchy_folder, versions, index=index, prior=prior))


@pytest.fixture(
    params=[(index, prior) for prior in (0.0, 1.5) for index in _INDICES],
    ids=lambda case: f"{case[0].kind}-{case[0].precision}-{case[1]:g}",
)
def bundle(request: pytest.FixtureRequest, made: MakeBundle) -> Bundle:
    """A bundle with each kind of leaf index, with and without a prior."""
    return made(*request.param)


def opened(bundle: Bundle, mode: ModeName, **options: int) -> Engine:
    return Engine(bundle, options=SearchOptions(mode=mode, **options))


def best_of(model: ScoringModel, queries: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-log_product(model, queries), axis=1, kind="stable")[:, :k]


def small_model(seed: int, *, n_leaves: int = 60, n_levels: int = 3, width: int = 8) -> ScoringModel:
    """A random hierarchy with random unit vectors; leaves of a cell are next to each other."""
    rng = np.random.default_rng(seed)
    sizes = [*sorted(rng.integers(2, n_leaves, n_levels - 1).tolist()), n_leaves]
    ancestors = np.arange(n_leaves)[:, None]
    for size in reversed(sizes[:-1]):
        _, grouped = np.unique(ancestors[:, 0] * size // ancestors[-1, 0].clip(1), return_inverse=True)
        ancestors = np.concatenate([grouped[:, None], ancestors], axis=1)
    sizes = [int(column.max()) + 1 for column in ancestors.T]
    vectors = [unit_rows(size, width, seed + number) for number, size in enumerate(sizes)]
    weights = rng.uniform(0.2, 1.5, n_levels)
    geocells = Geocells(vectors, rng.uniform(0.03, 0.2, n_levels), weights, "h", None)
    return ScoringModel(geocells, ancestors, rng.integers(1, 50, n_leaves))


@pytest.fixture(scope="session")
def placed(hierarchy: Hierarchy) -> Placed:
    """Photos for the gallery of the small world's hierarchy."""
    return photos_near_cells(hierarchy, random_geocells(hierarchy, WIDTH, seed=0), 700, seed=11)


@pytest.fixture(scope="session")
def photo_bundle(
    hierarchy: Hierarchy, hierarchy_folder: Path, placed: Placed, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """The bundle of `registry`, with a gallery."""
    geocells, versions = random_geocells(hierarchy, WIDTH, seed=0), tmp_path_factory.mktemp("photos")
    return bundle_with_photos(hierarchy, hierarchy_folder, geocells, placed, versions)
