"""Photos beside cells by brute force in float64, straight from the formulas; and small worlds with a gallery."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from indexer.bundles.build_config import GalleryConfig
from indexer.bundles.bundle import Bundle, build_bundle, open_bundle
from indexer.bundles.gallery_builds import write_gallery
from indexer.cells.hierarchy import Hierarchy
from indexer.earth.geo import EARTH_RADIUS_KM, haversine_km, unit_vectors
from indexer.vectors.calibration import Calibration, PhotoFit, Protocol
from indexer.vectors.geocells import Geocells
from indexer.vectors.prototypes import Placed
from indexer.vectors.scoring import log_product
from search.answers.engine import Engine
from search.answers.options import SearchOptions
from tests.conftest import unit_rows

FIT = PhotoFit(cells=0.3, gamma=0.4, similarity=0.05, near=40, width_km=60, point_width_km=90, growth=0.5, lists=10**6)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def photos_near_cells(hierarchy: Hierarchy, geocells: Geocells, n: int, *, seed: int, prefix: str = "") -> Placed:
    """Photos around the points of half of the leaves, with vectors like those of their leaves; some lie in no leaf."""
    rng = np.random.default_rng(seed)
    leaves, finest = hierarchy.leaves, geocells.vectors[-1]
    leaf = rng.choice(np.arange(0, len(leaves), 2), n)
    aside = rng.normal(0, 0.15, (n, 2))
    lat = np.clip(leaves.lat_deg[leaf] + aside[:, 0], -90, 90)
    lng = (leaves.lng_deg[leaf] + aside[:, 1] + 180) % 360 - 180
    vectors = unit(finest[leaf] + 0.7 * unit_rows(n, finest.shape[1], seed + 1))
    names = np.array([f"{prefix}{row:04d}.jpg" for row in rng.permutation(n)], object)
    return Placed(vectors, hierarchy.locate(lat, lng), lat, lng, names, np.full(n, -1))


def bundle_with_photos(
    hierarchy: Hierarchy,
    folder: Path,
    geocells: Geocells,
    placed: Placed | None,
    versions: Path,
    *,
    config: GalleryConfig | None = None,
    owners: Sequence[str | None] | None = None,
    precision_cap_km: float | None = None,
) -> Bundle:
    """A bundle over a hierarchy (and its folder) with a gallery of these photos, near-duplicates too; None: none.

    owners: whose the photos are.
    """
    whose = None if owners is None else pa.chunked_array([owners], pa.string())
    if placed is not None and whose is not None:
        placed = replace(placed, row=np.arange(len(whose)))
    how = config or GalleryConfig(keep_duplicates=True)
    made = build_bundle(
        folder,
        geocells,
        versions,
        config={},
        inputs={},
        precision_cap_km=precision_cap_km,
        gallery=lambda draft: (
            None
            if placed is None
            else write_gallery(draft.path, [placed], geocells, hierarchy, how, owners=whose).facts
        ),
    )
    return open_bundle(made)


def calibrated(
    bundle: Bundle, fit: PhotoFit, *, temperature: float = 1.0, growth: float = 0.0, protocol: Protocol = "one"
) -> Bundle:
    """The same whose photos count by these numbers."""
    photos = Calibration(
        temperature=temperature,
        growth=growth,
        inside=1.0,
        masses={"cell": (0.5, 0.9), "density": (0.5, 0.9)},
        mass_km=100.0,
        least_score=0.0,
        queries=100,
        fit=fit,
    )
    calibrations: Mapping[Protocol, Calibration] = {protocol: replace(photos, fit=None, with_photos=photos)}
    return replace(bundle, calibrations=calibrations)


def engine_with(bundle: Bundle, fit: PhotoFit, *, temperature: float = 1.0, **options: object) -> Engine:
    return Engine(calibrated(bundle, fit, temperature=temperature), options=SearchOptions(**options))  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Truth:
    """What photos and cells say of Q queries."""

    near: list[np.ndarray]  # rows of the photos that count, the most similar first
    weight: np.ndarray  # (Q, N)
    cells: np.ndarray  # (Q, leaves), c
    posterior: np.ndarray  # (Q, leaves), P
    share: np.ndarray  # (Q,), S
    points: np.ndarray  # (Q, 3); NaN where there is no photo
    _of_cells: np.ndarray  # (Q, leaves), a_r c(r)
    _places: np.ndarray
    _middles: np.ndarray
    _leaf_widths: np.ndarray
    _fit: PhotoFit

    def density(self, query: int, places: np.ndarray, *, pointing: bool = False) -> np.ndarray:
        """Per km2 at places (M, 3); for pointing no bell is narrower than those of photos then are."""
        width = self._fit.point_width_km if pointing else self._fit.width_km
        leaf_widths = np.maximum(self._leaf_widths, width) if pointing else self._leaf_widths
        by_photo = (1 - self._fit.cells) * self.share[query] * self.weight[query]
        photos = _bells(places, self._places, np.full(len(self._places), width)) @ by_photo
        return photos + _bells(places, self._middles, leaf_widths) @ self._of_cells[query]


def _bells(places: np.ndarray, middles: np.ndarray, width_km: np.ndarray) -> np.ndarray:
    """(places, middles), von Mises and Fisher's density per km2."""
    k = (EARTH_RADIUS_KM / width_km) ** 2
    apart = np.square(places[:, None] - middles[None]).sum(axis=2)
    return k / (2 * np.pi * (1 - np.exp(-2 * k))) * np.exp(-k * apart / 2) / EARTH_RADIUS_KM**2


def brute_force(
    bundle: Bundle,
    fit: PhotoFit,
    queries: np.ndarray,
    *,
    temperature: float = 1.0,
    growth: float = 0.0,
    n_photos: np.ndarray | None = None,
    may: np.ndarray | None = None,
    only: np.ndarray | None = None,
) -> Truth:
    """By all photos of a bundle's gallery.

    may: (N,) bool, which ones may be looked at. only: (R,) int64, the leaves that are allowed; a photo of another one
    counts for that of these whose point is nearest.
    """
    gallery, model, leaves = bundle.gallery, bundle.model, bundle.hierarchy.leaves
    assert gallery is not None
    n = np.ones(len(queries)) if n_photos is None else n_photos.astype(np.float64)
    score = log_product(model, queries)  # but for a constant of each query, which no softmax sees
    leaf = gallery.leaf.astype(np.int64)
    if only is not None:
        score = np.where(np.isin(np.arange(len(leaves)), only), score, -np.inf)
        for row in np.flatnonzero(~np.isin(leaf, only)):
            place = gallery.lat_deg[row], gallery.lng_deg[row]
            leaf[row] = only[haversine_km(*place, leaves.lat_deg[only], leaves.lng_deg[only]).argmin()]
    cells = score / (temperature * n[:, None] ** growth)
    cells = np.exp(cells - cells.max(axis=1, keepdims=True))
    cells /= cells.sum(axis=1, keepdims=True)
    similarity = queries.astype(np.float64) @ gallery.vectors(0, len(gallery)).T.astype(np.float64)
    allowed = np.ones(len(gallery), bool) if may is None else may
    of_leaf = np.bincount(leaf[allowed], minlength=len(leaves)) > 0
    weight, near = np.zeros((len(queries), len(gallery))), []
    for query in range(len(queries)):
        rows = np.flatnonzero(allowed)
        rows = rows[np.argsort(-similarity[query, rows], kind="stable")][: fit.near]
        near.append(rows)
        if not rows.size:
            continue
        evidence = fit.gamma * score[query, leaf[rows]] + similarity[query, rows] / fit.similarity
        evidence = evidence / n[query] ** fit.growth + np.log(gallery.stands_for[rows].astype(np.float64))
        held = np.exp(evidence - evidence.max())
        weight[query, rows] = held / held.sum()
    there = np.array([rows.size > 0 for rows in near])
    share = np.where(there, cells[:, of_leaf].sum(axis=1), 0.0)
    kept = np.where(of_leaf[None] & there[:, None], fit.cells, 1.0) * cells
    of_list = np.stack([np.bincount(leaf, row, minlength=len(leaves)) for row in weight])
    posterior = (1 - fit.cells) * share[:, None] * of_list + kept
    places = unit_vectors(gallery.lat_deg, gallery.lng_deg)
    truth = Truth(
        near=near,
        weight=weight,
        cells=cells,
        posterior=posterior,
        share=share,
        points=np.full((len(queries), 3), np.nan),
        _of_cells=kept,
        _places=places,
        _middles=unit_vectors(leaves.lat_deg, leaves.lng_deg),
        _leaf_widths=np.maximum(leaves.radius_km, 0.05) / 2,
        _fit=fit,
    )
    for query, rows in enumerate(near):
        if rows.size:
            densest = places[rows[truth.density(query, places[rows], pointing=True).argmax()]]
            pull = weight[query, rows] * _bells(densest[None], places[rows], np.full(rows.size, fit.point_width_km))[0]
            mean = pull @ places[rows]
            truth.points[query] = mean / np.linalg.norm(mean)
    return truth
