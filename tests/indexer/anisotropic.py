"""Vectors as image encoders make them: one direction shared by all, strong directions that say nothing of the place."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from indexer.cells.hierarchy import Hierarchy, build_hierarchy, sorted_ids
from indexer.cells.partition import PartitionRule
from indexer.earth import geo

COMMON = 3.0  # length of the shared part; the part that tells the place has length 0.6
LOUD = 8  # directions that say nothing of the place, each with a standard deviation of 2
TELLING = 24  # directions that depend on the place: waves over the globe, at three scales


@dataclass(frozen=True, eq=False)
class World:
    """Photos, of which the first are known and the others unseen."""

    vectors: np.ndarray  # (N, D) float32, unit rows
    lat_deg: np.ndarray
    lng_deg: np.ndarray
    n_known: int
    hierarchy: Hierarchy  # of the known photos
    cells: np.ndarray  # (N, L)


def anisotropic_world(*, n_known: int, n_unseen: int, width: int, seed: int, noise: float = 0.1) -> World:
    """Draw 300 crowded cities, photos around them (about 30 km), and the photos' vectors."""
    rng = np.random.default_rng(seed)
    n = n_known + n_unseen
    centres = np.stack([np.degrees(np.arcsin(rng.uniform(-0.9, 0.9, 300))), rng.uniform(-180, 180, 300)], axis=1)
    city = rng.choice(300, n, p=rng.dirichlet(np.full(300, 0.7)))
    lat, lng = (centres[city] + rng.normal(0, 0.3, (n, 2))).T
    lng = (lng + 180) % 360 - 180
    waves = rng.normal(size=(3, TELLING)) * np.repeat([1.0, 4.0, 16.0], TELLING // 3)
    place = np.cos(geo.unit_vectors(lat, lng) @ waves + rng.uniform(0, 2 * np.pi, TELLING))
    axes = np.linalg.qr(rng.normal(size=(width, width)))[0]
    spread = np.exp(rng.normal(0, 0.7, width))  # the noise is not the same in all directions either
    vectors = (
        COMMON * axes[0]
        + 2.0 * rng.normal(size=(n, LOUD)) @ axes[1 : 1 + LOUD]
        + 0.25 * place @ axes[1 + LOUD : 1 + LOUD + TELLING]
        + noise * (rng.normal(size=(n, width)) * spread) @ axes.T
    )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rule = PartitionRule(tau_max=(n_known // 20, n_known // 60, n_known // 200), tau_min=5)
    hierarchy = build_hierarchy(sorted_ids([(lat[:n_known], lng[:n_known])]), rule=rule)
    return World(vectors.astype(np.float32), lat, lng, n_known, hierarchy, hierarchy.locate(lat, lng))


def write_world(world: World, out: Path) -> Path:
    """The known photos: `photos.parquet` (names, places) and `F.parquet` (names, vectors, in another order; some have
    none).
    """
    n = world.n_known
    names = [f"{row:05d}.jpg" for row in range(n)]
    columns = {"photo": names, "lat": world.lat_deg[:n], "lng": world.lng_deg[:n]}
    columns["country"] = [f"c{int(lng // 30)}" for lng in world.lng_deg[:n]]
    pyarrow.parquet.write_table(pa.table(columns), out / "photos.parquet")
    order = np.random.default_rng(0).permutation(n)
    table = pa.table(
        {
            "photo": [names[row] for row in order],
            "embedding": world.vectors[order].tolist(),
            "status": ["ok" if row % 50 else "damaged" for row in order],
        }
    )
    pyarrow.parquet.write_table(table, out / "F.parquet")
    return out
