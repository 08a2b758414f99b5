"""Photo vectors and geocells that follow places, for benchmarks of search; fixed, so that nothing is tuned by them.

A photo is the sum of two vectors, scaled to length 1. One says where it was taken: each of its dimensions is a plane
wave over the globe, in equal parts of wavelengths from a quarter of the Earth to a town, so that near places look alike
at every scale (random Fourier features: Rahimi and Recht, NIPS 2007). The other is noise of its own, NOISE times as
long, so that exact search is right about as often as the paper was on IM2GPS3k (its Table II): how many lists a beam
must visit depends on that.

A geocell is the mean direction of its photos' vectors, as a build from features makes it: its middle's waves, damped as
they are over photos spread around it, and noise that gets less with their number. Where places are a sample of a photo
collection, divided by thresholds that much smaller, each stands for STANDS_FOR photos.
"""

from collections.abc import Sequence

import numpy as np

from indexer.cells.hierarchy import Hierarchy, Level
from indexer.earth.geo import EARTH_RADIUS_KM, unit_vectors
from indexer.vectors.cell_sums import unit_rows
from indexer.vectors.geocells import Geocells

WAVELENGTHS_KM = (10_000, 3_000, 1_000, 300, 100, 30)
NOISE = 6.0
STANDS_FOR = 47  # MP-16's 4.7 million photos for each of 100,000
TEMPERATURE = 0.07  # of every level, as builds from features have it
_ROWS = 1 << 14  # vectors made at once


class PlaceVectors:
    """A way from places to vectors; the same for the same width and seed."""

    def __init__(self, width: int, *, seed: int) -> None:
        rng = np.random.default_rng(seed)
        wavelength = np.array(WAVELENGTHS_KM)[np.arange(width) % len(WAVELENGTHS_KM)] / EARTH_RADIUS_KM
        directions = unit_rows(rng.normal(size=(width, 3)))
        self._waves = (2 * np.pi / wavelength[:, None] * directions).astype(np.float32)  # (D, 3)
        self._phase = rng.uniform(0, 2 * np.pi, width).astype(np.float32)
        self._rng = rng

    @property
    def width(self) -> int:
        """D, the number of dimensions."""
        return len(self._phase)

    def photos(self, lat_deg: np.ndarray, lng_deg: np.ndarray) -> np.ndarray:
        """Vectors of photos taken there, with new noise at every call: (N, D) float32, unit rows."""
        middle = self.places(lat_deg, lng_deg, np.zeros(len(lat_deg)))
        return unit_rows(middle + NOISE * self._noise(len(lat_deg)))

    def geocells(self, hierarchy: Hierarchy, *, stands_for: int = STANDS_FOR) -> Geocells:
        """Geocells of all levels; each of the hierarchy's photos stands for so many."""
        vectors = [self._cells(level, stands_for) for level in hierarchy.levels]
        n_levels = len(vectors)
        return Geocells(vectors, np.full(n_levels, TEMPERATURE), np.ones(n_levels), hierarchy.digest, None)

    def _cells(self, level: Level, stands_for: int) -> np.ndarray:
        parts: Sequence[np.ndarray] = [
            unit_rows(
                # The farthest photo is about twice as far out as they are on average.
                self.places(level.lat_deg[part], level.lng_deg[part], level.radius_km[part] / 2)
                + self._noise(len(level.lat_deg[part]))
                * (NOISE / np.sqrt(stands_for * level.n_photos[part, None])).astype(np.float32)
            )
            for part in (slice(start, start + _ROWS) for start in range(0, len(level), _ROWS))
        ]
        return np.concatenate(parts)

    def places(self, lat_deg: np.ndarray, lng_deg: np.ndarray, spread_km: np.ndarray) -> np.ndarray:
        """What is seen on average around places, of unit length where photos are not spread: (N, D) float32."""
        points = unit_vectors(lat_deg, lng_deg)
        # In float64 until the angle is known: the shortest waves go round the Earth over a thousand times.
        angle = points @ self._waves.T.astype(np.float64) + self._phase
        across = np.linalg.norm(self._waves, axis=1) * (spread_km / EARTH_RADIUS_KM)[:, None]
        damped = np.exp(-(across.astype(np.float32) ** 2) / 4)  # half of the spread is along a wave
        return np.cos(np.mod(angle, 2 * np.pi).astype(np.float32)) * damped * np.float32(np.sqrt(2 / self.width))

    def _noise(self, n: int) -> np.ndarray:
        return unit_rows(self._rng.standard_normal((n, self.width), np.float32))
