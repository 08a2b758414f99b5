"""Photos for galleries: some in leaves, some in none, some of them alike."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from indexer.bundles.build_config import GalleryConfig
from indexer.bundles.gallery import Gallery, gallery_facts, open_gallery
from indexer.bundles.gallery_builds import Written, write_gallery
from indexer.cells.hierarchy import Hierarchy
from indexer.earth.geo import haversine_km
from indexer.vectors.geocells import Geocells
from indexer.vectors.prototypes import Placed
from tests.conftest import random_geocells, unit_rows

WIDTH = 12


@dataclass(frozen=True, eq=False)
class Photos:
    """A world of photos: what the product is given, and in which leaf each belongs by brute force."""

    geocells: Geocells
    placed: Placed
    leaf: np.ndarray


def photos(hierarchy: Hierarchy, n: int = 600, seed: int = 0, *, alike: int = 60, prefix: str = "") -> Photos:
    """Photos at and beside the points of leaves; the vectors of the last `alike` are nearly those of the first."""
    rng = np.random.default_rng(seed)
    leaves = hierarchy.leaves
    near = rng.integers(0, len(leaves) - 1, n)  # the last leaf has no photo of its own
    lat = np.clip(leaves.lat_deg[near] + rng.normal(0, 0.2, n), -90, 90)
    lng = (leaves.lng_deg[near] + rng.normal(0, 0.2, n) + 180) % 360 - 180
    lat[:20], lng[:20] = np.degrees(np.arcsin(rng.uniform(-1, 1, 20))), rng.uniform(-180, 180, 20)
    vectors = unit_rows(n, WIDTH, seed + 1)
    if alike:
        vectors[-alike:] = vectors[20 : 20 + alike] + 0.01 * unit_rows(alike, WIDTH, seed + 2)
        lat[-alike:], lng[-alike:] = lat[20 : 20 + alike], lng[20 : 20 + alike]
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    cells = hierarchy.locate(lat, lng)
    names = np.array([f"{prefix}{row:04d}.jpg" for row in rng.permutation(n)], object)
    leaf = cells[:, -1].copy()
    for row in np.flatnonzero(leaf < 0):
        leaf[row] = np.argmin(haversine_km(lat[row], lng[row], leaves.lat_deg, leaves.lng_deg))
    placed = Placed(vectors, cells, lat, lng, names, np.full(n, -1))
    return Photos(random_geocells(hierarchy, WIDTH, seed=0), placed, leaf)


def write(
    folder: Path, world: Photos, hierarchy: Hierarchy, config: GalleryConfig | None = None, batches: int = 3
) -> tuple[Written, Gallery]:
    """A gallery of all photos of a world, given in batches; opened."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [world.placed.take(rows) for rows in np.array_split(np.arange(len(world.leaf)), batches)]
    written = write_gallery(folder, parts, world.geocells, hierarchy, config or GalleryConfig())
    gallery = open_gallery(folder, gallery_facts(written.facts), n_leaves=len(hierarchy.leaves), width=WIDTH)
    assert gallery is not None
    return written, gallery


def all_names(gallery: Gallery) -> list[str]:
    return gallery.names(np.arange(len(gallery))).tolist()
