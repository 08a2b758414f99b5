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
from indexer.vectors.reranker import Reranker
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
    bundle: Bundle,
    fit: PhotoFit,
    *,
    temperature: float = 1.0,
    growth: float = 0.0,
    protocol: Protocol = "one",
    reranker: Reranker | None = None,
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
        reranker=reranker,
    )
    calibrations: Mapping[Protocol, Calibration] = {
        protocol: replace(photos, fit=None, reranker=None, with_photos=photos)
    }
    return replace(bundle, calibrations=calibrations)


def engine_with(
    bundle: Bundle, fit: PhotoFit, *, temperature: float = 1.0, reranker: Reranker | None = None, **options: object
) -> Engine:
    made = calibrated(bundle, fit, temperature=temperature, reranker=reranker)
    return Engine(made, options=SearchOptions(**options))  # type: ignore[arg-type]


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
    reranker: Reranker | None = None,
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
        if reranker is not None:
            near_score = score[query, leaf[rows]]
            seen = properties_by_hand(bundle, fit, rows, similarity[query, rows], near_score, float(n[query]))
            evidence = evidence + reranked_by_hand(reranker, seen)
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


def random_reranker(n_properties: int, hidden: int, *, seed: int) -> Reranker:
    """One that changes much."""
    rng = np.random.default_rng(seed)
    shapes = [(n_properties, hidden), (hidden,), (hidden, hidden), (hidden,), (hidden,)]
    parts = [rng.normal(0, 0.7, shape).astype(np.float32) for shape in shapes]
    mean, spread = rng.normal(0, 2, n_properties), rng.uniform(0.5, 4, n_properties)
    return Reranker(mean.astype(np.float32), spread.astype(np.float32), *parts)


def reranked_by_hand(reranker: Reranker, properties: np.ndarray) -> np.ndarray:
    """What it adds to photos of (..., P) properties, in float64."""
    parts = {name: array.astype(np.float64) for name, array in reranker.arrays.items()}
    standard = (properties.astype(np.float64) - parts["mean"]) / parts["spread"]
    standard[np.isnan(standard)] = 0
    hidden = np.tanh(np.einsum("...p,ph->...h", standard, parts["first"]) + parts["first_bias"])
    hidden = np.tanh(np.einsum("...p,ph->...h", hidden, parts["second"]) + parts["second_bias"])
    return np.asarray(np.einsum("...h,h->...", hidden, parts["last"]))


def properties_by_hand(
    bundle: Bundle, fit: PhotoFit, rows: np.ndarray, similarity: np.ndarray, score: np.ndarray, n: float
) -> np.ndarray:
    """What a reranker sees of the photos of these rows of a query of n photos, (near,) each: (near, 9) float64."""
    gallery, width_km = bundle.gallery, max(bundle.hierarchy.leaves.median_width_km, 0.05)
    assert gallery is not None
    vectors = gallery.vectors(0, len(gallery)).astype(np.float64)
    like_list = []
    for row in rows:
        others = np.flatnonzero(gallery.leaf == gallery.leaf[row])
        others = others[others != row]
        like_list.append((vectors[others] @ vectors[row]).mean() if others.size else np.nan)
    unit_of = fit.similarity * n**fit.growth
    evidence = (fit.gamma * score + similarity / fit.similarity) / n**fit.growth
    held = np.exp(evidence - evidence.max()) * gallery.stands_for[rows]
    held /= held.sum()
    places = unit_vectors(gallery.lat_deg[rows], gallery.lng_deg[rows])
    apart = np.square(places[:, None] - places[None]).sum(axis=2)

    def around(times: float, weight: np.ndarray, least: float) -> np.ndarray:
        return np.log(np.exp(-((EARTH_RADIUS_KM / (times * width_km)) ** 2) * apart / 2) @ weight + least)

    columns = [
        similarity / unit_of,
        (similarity - similarity.max()) / unit_of,
        (score - score.max()) / n**fit.growth,
        (similarity - n * np.array(like_list)) / unit_of,
        *(around(times, np.ones(len(rows)), 0.0) for times in (0.5, 1.0)),
        *(around(times, held, 1e-6) for times in (0.25, 1.0, 4.0)),
    ]
    return np.stack(columns, axis=1)
