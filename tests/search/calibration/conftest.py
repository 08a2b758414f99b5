"""Photos drawn from a posterior of known temperature, and folders of such photos."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from indexer.bundles.build_config import BuildConfig
from indexer.bundles.builds import build
from indexer.bundles.bundle import Bundle, build_bundle, open_bundle
from indexer.bundles.leaf_index import stand_ins
from indexer.bundles.registry import Registry
from indexer.cells.hierarchy import Hierarchy
from indexer.earth.geo import lat_lng, unit_vectors
from indexer.vectors.features import FeatureBatch
from indexer.vectors.scoring import log_product, log_softmax
from search.answers.engine import Engine
from search.answers.radii import LeafDiscs
from search.calibration.held_out import HeldOutQueries, named
from tests.conftest import random_geocells, write_features
from tests.search.conftest import WIDTH


def drawn(engine: Engine, temperature: float, *, n: int, seed: int) -> HeldOutQueries:
    """Photos taken where a posterior of this temperature has it, each evenly over the distances within its leaf."""
    model, leaves = engine.bundle.model, engine.bundle.hierarchy.leaves
    rng = np.random.default_rng(seed)
    queries = stand_ins(model, n=n, seed=seed)
    share = np.exp(log_softmax(log_product(model, queries) / temperature))
    leaf = np.array([rng.choice(model.n_leaves, p=row) for row in share])
    around = LeafDiscs.of(leaves)
    aside = rng.normal(size=(n, 3))
    point = around.points[leaf]
    aside -= (aside * point).sum(axis=1, keepdims=True) * point
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    angle = (rng.uniform(0, 1, n) * around.radius_km[leaf] / 6371.0)[:, None]
    names = named((f"{row}.jpg",) for row in range(n))
    lat, lng = lat_lng(np.cos(angle) * point + np.sin(angle) * aside)
    return HeldOutQueries(names, queries, np.ones(n, np.int64), lat, lng, leaf)


@pytest.fixture
def home(published: Path, tmp_path: Path) -> Path:
    """A copy of what was published, to publish more in."""
    return Path(shutil.copytree(published, tmp_path / "home", symlinks=True))


@pytest.fixture(scope="session")
def published(hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry R; features F of 400 photos drawn at temperature 3, and their truth, of two splits and 80 albums."""
    folder = tmp_path_factory.mktemp("calibrate")
    registry = Registry(folder / "R")
    geocells = random_geocells(hierarchy, WIDTH, seed=0)
    registry.publish(build_bundle(hierarchy_folder, geocells, registry.versions_folder, config={}, inputs={}).name)
    sample = drawn(Engine.open(registry.path), 3.0, n=400, seed=4)
    names = [f"{row}.jpg" for row in range(400)]
    unknown = np.full(400, np.nan)
    batch = FeatureBatch(names, sample.queries, ["ok"] * 400, [""] * 400, unknown, unknown)
    write_features(folder / "F", batch, encoder="e" * 64)
    columns = {"photo": names, "lat": sample.lat_deg, "lng": sample.lng_deg}
    columns |= {
        "split": ["val" if row < 300 else "test" for row in range(400)],
        "trip": [row // 5 for row in range(400)],
    }
    pa.parquet.write_table(pa.table(columns), folder / "truth.parquet")
    return folder


@dataclass(frozen=True, eq=False)
class PhotoWorld:
    """A bundle with a gallery of 1,500 photos, and the means to draw more photos like them."""

    bundle: Bundle
    vectors_of: Callable[[np.ndarray, int], np.ndarray]  # of places (N, 3) and a seed

    def sample(self, n: int, *, seed: int) -> HeldOutQueries:
        """Photos that are not in the gallery."""
        lat, lng = places_near_leaves(self.bundle.hierarchy, n, seed)
        queries = self.bundle.model.geocells.compared(self.vectors_of(unit_vectors(lat, lng), seed))
        names = named((f"q{seed}-{row:05d}.jpg",) for row in range(n))
        leaf = self.bundle.hierarchy.locate(lat, lng)[:, -1]
        return HeldOutQueries(names, queries, np.ones(n, np.int64), lat, lng, leaf)


def places_near_leaves(hierarchy: Hierarchy, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Places around every third leaf; a few lie in none."""
    rng, leaves = np.random.default_rng(seed), hierarchy.leaves
    leaf = rng.choice(np.arange(0, len(leaves), 3), n)
    lat = np.clip(leaves.lat_deg[leaf] + rng.normal(0, 0.4, n), -90, 90)
    return lat, (leaves.lng_deg[leaf] + rng.normal(0, 0.4, n) + 180) % 360 - 180


@pytest.fixture(scope="session")
def photo_world(hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> PhotoWorld:
    rng = np.random.default_rng(0)
    waves, shifts = rng.normal(size=(3, 24)) * np.repeat([1.5, 8.0, 40.0], 8), rng.uniform(0, 2 * np.pi, 24)

    def vectors_of(points: np.ndarray, seed: int) -> np.ndarray:
        telling = np.cos(points @ waves + shifts) + 0.35 * np.random.default_rng(seed + 1).normal(
            size=(len(points), 24)
        )
        return (telling / np.linalg.norm(telling, axis=1, keepdims=True)).astype(np.float32)

    lat, lng = places_near_leaves(hierarchy, 1500, seed=1)
    n, folder = len(lat), tmp_path_factory.mktemp("photo-world")
    names = [f"g{row:05d}.jpg" for row in range(n)]
    batch = FeatureBatch(names, vectors_of(unit_vectors(lat, lng), 2), ["ok"] * n, [""] * n, lat, lng)
    features = write_features(folder / "F", batch, encoder="e" * 64, width=24)
    config = BuildConfig(shrinkage=0.1, keep_duplicates=True)
    made = build(folder / "R", hierarchy=hierarchy_folder, features=features, config=config)
    return PhotoWorld(open_bundle(made.folder), vectors_of)
