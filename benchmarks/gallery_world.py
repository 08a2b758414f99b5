"""`python -m benchmarks.gallery_world`: a registry whose bundle has as many leaves and photos as MP-16, and its shape.

A photo is the sum of two vectors, scaled to length 1: what is seen at the point of its leaf, plane waves over the globe
(`benchmarks.place_vectors`) of which long ones are stronger, so that neighbouring leaves are easily confused and far
ones are not; and noise of its own. It was taken around that point, within the leaf's radius or so. A leaf's vector is
the mean of its photos', those above it are means of theirs. One photo in LOOK_ALIKE has something of a photo elsewhere;
queries are new photos. So it is with the demo's satellite tiles, whose figures the numbers below were chosen by: of
24,000 leaves the best photo's is the first for two in five queries, and a hundredth of the lists holds nearly all of
the weight.

Photos are made 16,384 at a time, in no order of place, and pass `indexer.bundles.gallery_builds` as those of a build
from features do: what is held are some bytes for each. The same photos come for the same seed.
"""

import json
import logging
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from jsonargparse import ArgumentParser

from benchmarks.harness import AnonPeak
from benchmarks.partition import photo_places
from benchmarks.place_vectors import STANDS_FOR, TEMPERATURE, WAVELENGTHS_KM, PlaceVectors
from indexer.bundles.build_config import GalleryConfig
from indexer.bundles.bundle import build_bundle
from indexer.bundles.gallery import GalleryFacts
from indexer.bundles.gallery_builds import write_gallery
from indexer.bundles.registry import Registry
from indexer.cells.division import S2Scheme, divide
from indexer.cells.hierarchy import Hierarchy, sorted_ids
from indexer.cells.partition import PartitionRule
from indexer.cells.table import load_hierarchy
from indexer.disk.artifact import Draft
from indexer.earth.geo import EARTH_RADIUS_KM
from indexer.paper import MP16_PHOTOS, TAU_MAX
from indexer.vectors.cell_sums import unit_rows
from indexer.vectors.geocells import Geocells
from indexer.vectors.prototypes import Placed

PLACES = 102_000  # that give about 24,200 leaves
NOISE = 1.7  # as long as what is seen of a place is 1
LONG_WAVES = 0.2  # strength of waves: wavelength to this power
LOOK_ALIKE, AS_MUCH = 10, 0.29  # one photo in so many has so much of a photo elsewhere
_BATCH = 1 << 14
_KM_PER_DEGREE = EARTH_RADIUS_KM * np.pi / 180


@dataclass(frozen=True, slots=True, eq=False)
class PhotoWorld:
    """Photos of every leaf of a hierarchy, and queries like them."""

    hierarchy: Hierarchy
    geocells: Geocells
    n_photos: int
    _seen: np.ndarray  # (leaves, D) float32, unit rows, what is seen at the leaves' points
    _counts: np.ndarray  # (leaves,) int64, photos of each
    _seed: int

    @classmethod
    def of(cls, hierarchy: Hierarchy, *, photos: int, width: int, seed: int) -> "PhotoWorld":
        """So many photos, spread over leaves as those that the hierarchy was made of."""
        leaves = hierarchy.leaves
        waves = PlaceVectors(width, seed=seed)
        strength = np.array(WAVELENGTHS_KM)[np.arange(width) % len(WAVELENGTHS_KM)] ** LONG_WAVES
        seen = waves.places(leaves.lat_deg, leaves.lng_deg, np.zeros(len(leaves))) * strength.astype(np.float32)
        seen = unit_rows(seen)
        ends = np.round(np.cumsum(leaves.n_photos) * (photos / leaves.n_photos.sum())).astype(np.int64)
        counts = np.diff(ends, prepend=0)
        noise = _noise(np.random.default_rng([seed, 1]), len(leaves), width)
        mean = seen + noise * (NOISE / np.sqrt(np.maximum(STANDS_FOR * leaves.n_photos, 1))[:, None]).astype(np.float32)
        vectors = []
        for level, cells in enumerate(hierarchy.levels):
            total = np.zeros((len(cells), width))
            np.add.at(total, hierarchy.ancestors[:, level], mean * leaves.n_photos[:, None])
            vectors.append(unit_rows(total.astype(np.float32)))
        n_levels = len(vectors)
        geocells = Geocells(vectors, np.full(n_levels, TEMPERATURE), np.ones(n_levels), hierarchy.digest, None)
        return cls(hierarchy, geocells, int(counts.sum()), seen, counts, seed)

    def batches(self) -> Iterator[Placed]:
        """All photos."""
        leaf = np.random.default_rng([self._seed, 2]).permutation(np.repeat(np.arange(len(self._counts)), self._counts))
        leaves, ancestors = self.hierarchy.leaves, self.hierarchy.ancestors
        for begin in range(0, len(leaf), _BATCH):
            own = leaf[begin : begin + _BATCH]
            rng = np.random.default_rng([self._seed, 3, begin])
            vectors = self._vectors(rng, own)
            vectors = _with_look_alikes(rng, vectors, vectors)
            aside = rng.normal(0, 1, (2, len(own))) * leaves.radius_km[own] / 2 / _KM_PER_DEGREE
            lat = np.clip(leaves.lat_deg[own] + aside[0], -90, 90)
            lng = (leaves.lng_deg[own] + aside[1] / np.cos(np.radians(leaves.lat_deg[own])) + 180) % 360 - 180
            names = np.array([f"{begin + row}.jpg" for row in range(len(own))], object)
            yield Placed(vectors, ancestors[own], lat, lng, names, np.full(len(own), -1))

    def queries(self, n: int) -> np.ndarray:
        """New photos: (n, D) float32 unit rows."""
        rng = np.random.default_rng([self._seed, 4])
        leaf = rng.choice(len(self._counts), n, p=self._counts / self._counts.sum())
        return _with_look_alikes(rng, self._vectors(rng, leaf), next(self.batches()).vectors)

    def _vectors(self, rng: np.random.Generator, leaf: np.ndarray) -> np.ndarray:
        return unit_rows(self._seen[leaf] + np.float32(NOISE) * _noise(rng, len(leaf), self._seen.shape[1]))


def _with_look_alikes(rng: np.random.Generator, vectors: np.ndarray, photos: np.ndarray) -> np.ndarray:
    """The same vectors, of which some have something of a photo."""
    alike = np.flatnonzero(rng.random(len(vectors)) < 1 / LOOK_ALIKE)
    vectors = vectors.copy()
    vectors[alike] = unit_rows(vectors[alike] + np.float32(AS_MUCH) * photos[rng.integers(0, len(photos), len(alike))])
    return vectors


def _noise(rng: np.random.Generator, n: int, width: int) -> np.ndarray:
    return unit_rows(rng.standard_normal((n, width), np.float32))


def world_of(folder: Path, *, photos: int, width: int, places: int, seed: int) -> PhotoWorld:
    """The world of a folder, whose hierarchy is made where there is none yet."""
    home = folder / "H"
    if not home.exists():
        ids = pa.table({"s2_id": sorted_ids(photo_places(places, seed=seed))})
        rule = PartitionRule(tau_max=tuple(tau // STANDS_FOR for tau in TAU_MAX), tau_min=0)
        divide(ids, S2Scheme(rule), home)
    return PhotoWorld.of(load_hierarchy(home), photos=photos, width=width, seed=seed)


def build(folder: Path, world: PhotoWorld) -> dict[str, float]:
    """Publish a bundle of the world in a registry of the folder; what the gallery took, without making the photos."""
    registry, took = Registry(folder / "R"), {"made_s": 0.0, "build_s": 0.0}

    def batches() -> Iterator[Placed]:
        photos = world.batches()
        while True:
            started = time.perf_counter()
            batch = next(photos, None)
            took["made_s"] += time.perf_counter() - started
            if batch is None:
                return
            yield batch

    def gallery(draft: Draft) -> GalleryFacts:
        started = time.perf_counter()
        written = write_gallery(draft.path, batches(), world.geocells, world.hierarchy, GalleryConfig())
        took["build_s"] = time.perf_counter() - started - took["made_s"]
        return written.facts

    made = build_bundle(folder / "H", world.geocells, registry.versions_folder, config={}, inputs={}, gallery=gallery)
    registry.publish(made.name)
    return took


def main() -> int:
    """Run the command line: one JSON object of what the gallery took."""
    parser = ArgumentParser(prog="python -m benchmarks.gallery_world", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=MP16_PHOTOS)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--places", type=int, default=PLACES)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    world = world_of(options.out, photos=options.photos, width=options.width, places=options.places, seed=options.seed)
    with AnonPeak() as peak:
        took = build(options.out, world)
    sys.stdout.write(json.dumps({**took, "peak_anon_bytes": peak.bytes}) + "\n")
    return 0


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    raise SystemExit(main())
