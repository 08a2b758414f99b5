"""Photos of known places answer, with an arm's vectors: its training photos, as a gallery of the product.

In: the vectors of an arm's encoder, and its geocells where it learned some. Out: errors on the test photos, for each
way in which the gallery answers. What can be chosen is chosen on the validation photos.

    nearest photos      the k most similar photos each spread a bell around their place, and the answer is the place of
                        that one of them where the sum of the bells is highest: the retrieval half of [L]kNN (Vo, Jacobs
                        and Hays, "Revisiting IM2GPS in the Deep Learning Era", ICCV 2017)
    gallery alone       the product's answers where neither cells nor the scores of photos' leaves count: a = 0, gamma =
                        0, no reranker, and all photos are looked at; the other numbers are fitted as for both
    cells and gallery   the product's answers, as `search calibrate` makes them
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import torch

from indexer.bundles.build_config import GalleryConfig
from indexer.bundles.bundle import Bundle, build_bundle, open_bundle
from indexer.bundles.gallery import Gallery
from indexer.bundles.gallery_builds import write_gallery
from indexer.cells.hierarchy import Hierarchy, sorted_ids
from indexer.cells.table import save_hierarchy
from indexer.earth.geo import haversine_km
from indexer.vectors.calibration import PhotoFit
from indexer.vectors.geocells import Geocells
from indexer.vectors.means import CellMeans
from indexer.vectors.prototypes import Placed
from search.answers.engine import Engine
from search.answers.options import SearchOptions
from search.answers.points import points_of_bundle
from search.calibration.cell_calibration import fit_calibration
from search.calibration.held_out import HeldOutQueries, named
from search.calibration.photo_calibration import calibrate_photos
from search.calibration.photo_numbers import PhotoFitting
from search.evaluation.options import Resampling
from search.retrieval.gallery_lists import GalleryLists
from training.photos.run_photos import PhotoSet

NEAREST, ALONE, TOGETHER = "nearest photos", "gallery alone", "cells and gallery"  # ways to answer
K = (1, 5, 10, 25, 50, 100)  # of nearest photos
BELL_KM = (50.0, 200.0, 800.0)
_ALL = SearchOptions(gallery="all")


@dataclass(frozen=True, slots=True)
class Vote:
    """How the nearest photos decide."""

    k: int
    bell_km: float  # standard deviation of the bell around a photo's place


def photo_errors_km(
    ways: Sequence[str],
    photos: Mapping[str, PhotoSet],
    vectors: Mapping[str, np.ndarray],
    *,
    hierarchy: Hierarchy,
    geocells: Geocells | None,
) -> dict[str, np.ndarray]:
    """How far the answers to the test photos are from the truth, for each way: (N,) float64.

    photos: with their cells in `hierarchy`. vectors: (N, D) float32 of each split, unit rows. geocells: None where none
    were learned; then they are the mean directions of the training photos, which only order these.
    """
    if geocells is None:
        means = CellMeans(hierarchy.parents_by_level(), vectors["train"].shape[1])
        means.add(vectors["train"], photos["train"].targets.numpy())
        geocells = means.geocells(hierarchy=hierarchy.digest, encoder=None)
    validation, test = (_queries(split, photos[split], vectors[split]) for split in ("validation", "test"))
    answers_of = {NEAREST: _by_nearest, ALONE: _by_gallery, TOGETHER: _by_both}
    with TemporaryDirectory() as folder:
        bundle = _bundle(Path(folder), hierarchy, geocells, _placed(photos["train"], vectors["train"]))
        if set(ways) != {NEAREST}:
            bundle = _calibrated(bundle, validation)
        return {
            way: haversine_km(test.lat_deg, test.lng_deg, *answers_of[way](bundle, validation, test)) for way in ways
        }


def nearest_photos(gallery: Gallery, queries: np.ndarray, *, k: int) -> np.ndarray:
    """The k photos of all lists that are most similar to queries (Q, D), the most similar first: (Q, k) int64."""
    return GalleryLists(gallery).nearest(queries, None, near=k).row


def elect(gallery: Gallery, neighbours: np.ndarray, vote: Vote) -> np.ndarray:
    """Of each row of neighbours (Q, >= k), the most similar first, the photo whose place is the answer: (Q,) int64.

    Of equals the most similar.
    """
    near = neighbours[:, : vote.k]
    lat, lng = gallery.lat_deg[near], gallery.lng_deg[near]
    km = haversine_km(lat[:, :, None], lng[:, :, None], lat[:, None, :], lng[:, None, :])
    crowd = np.exp(-((km / vote.bell_km) ** 2) / 2).sum(axis=2)
    return np.take_along_axis(near, crowd.argmax(axis=1)[:, None], axis=1)[:, 0]


def choose_vote(gallery: Gallery, sample: HeldOutQueries) -> Vote:
    """The vote with the smallest errors on photos that were not learned from."""
    possible = [k for k in K if k <= len(gallery)]
    neighbours = nearest_photos(gallery, sample.queries, k=max(possible))

    def loss(vote: Vote) -> float:
        best = elect(gallery, neighbours, vote)
        return _loss(sample, gallery.lat_deg[best], gallery.lng_deg[best])

    return min((Vote(k, bell) for k, bell in itertools.product(possible, BELL_KM)), key=loss)


def choose_alone(bundle: Bundle, sample: HeldOutQueries) -> PhotoFit:
    """The numbers by which photos count alone, fitted as those of both are, to the same photos."""
    alone = {"cells": 0.0, "gamma": 0.0}
    cells, resampling = bundle.calibrations["one"], Resampling(0)
    fitting = PhotoFitting(bundle, cells, protocol="one", device="cpu", resampling=resampling, fixed=alone)
    division = sample.divided()
    part = sample if division.approximate else sample.take(division.parts[0][0])
    return fitting(part, fitting.near(part), reranked=False).fit


def _loss(sample: HeldOutQueries, lat_deg: np.ndarray, lng_deg: np.ndarray) -> float:
    """The mean of log(1 + km) of answers (Q,)."""
    return float(np.log1p(haversine_km(sample.lat_deg, sample.lng_deg, lat_deg, lng_deg)).mean())


def _by_nearest(bundle: Bundle, validation: HeldOutQueries, test: HeldOutQueries) -> tuple[np.ndarray, np.ndarray]:
    gallery = bundle.gallery
    assert gallery is not None, "it was built with one"
    vote = choose_vote(gallery, validation)
    best = elect(gallery, nearest_photos(gallery, test.queries, k=vote.k), vote)
    return gallery.lat_deg[best], gallery.lng_deg[best]


def _by_gallery(bundle: Bundle, validation: HeldOutQueries, test: HeldOutQueries) -> tuple[np.ndarray, np.ndarray]:
    return _answers(_counting_by(bundle, choose_alone(bundle, validation)), test, _ALL)


def _by_both(bundle: Bundle, validation: HeldOutQueries, test: HeldOutQueries) -> tuple[np.ndarray, np.ndarray]:
    return _answers(bundle, test, SearchOptions())


def _answers(bundle: Bundle, test: HeldOutQueries, options: SearchOptions) -> tuple[np.ndarray, np.ndarray]:
    """Where answers point: (Q,) float64 latitudes and longitudes."""
    at = Engine(bundle, options=options).answer(test.queries, k=1).at
    return at.lat_deg, at.lng_deg


def _calibrated(bundle: Bundle, sample: HeldOutQueries) -> Bundle:
    """The same bundle, calibrated as `search calibrate` does it."""
    resampling = Resampling(0)
    points = points_of_bundle(bundle, photos=False)
    cells = fit_calibration(bundle.model, points, sample, device=torch.device("cpu"), resampling=resampling).calibration
    photos = calibrate_photos(bundle, sample, cells, protocol="one", device="cpu", resampling=resampling)
    return replace(bundle, calibrations={"one": replace(cells, with_photos=photos.fitted.calibration)})


def _counting_by(bundle: Bundle, fit: PhotoFit) -> Bundle:
    """The same calibrated bundle, whose photos count by other numbers."""
    cells = bundle.calibrations["one"]
    assert cells.with_photos is not None, "it has a gallery"
    of_photos = replace(cells.with_photos, fit=fit, reranker=None)
    return replace(bundle, calibrations={"one": replace(cells, with_photos=of_photos)})


def _bundle(folder: Path, hierarchy: Hierarchy, geocells: Geocells, placed: Placed) -> Bundle:
    """A bundle of geocells, with a gallery as `indexer build` makes it."""
    ids = pa.table({"s2_id": sorted_ids([(placed.lat_deg, placed.lng_deg)])})
    cells = save_hierarchy(hierarchy, ids, folder / "hierarchy", config={}, inputs={})
    made = build_bundle(
        cells,
        geocells,
        folder / "versions",
        config={},
        inputs={},
        gallery=lambda draft: write_gallery(draft.path, [placed], geocells, hierarchy, GalleryConfig()).facts,
    )
    return open_bundle(made)


def _placed(photos: PhotoSet, vectors: np.ndarray) -> Placed:
    n = len(photos)
    return Placed(
        vectors, photos.targets.numpy(), photos.lat_deg, photos.lng_deg, _names("train", n), np.full(n, -1, np.int64)
    )


def _queries(split: str, photos: PhotoSet, vectors: np.ndarray) -> HeldOutQueries:
    n = len(photos)
    leaf = photos.targets[:, -1].numpy()
    names = named((name,) for name in _names(split, n).tolist())
    return HeldOutQueries(names, vectors, np.ones(n, np.int64), photos.lat_deg, photos.lng_deg, leaf)


def _names(split: str, n: int) -> np.ndarray:
    return np.array([f"{split}-{row:05d}" for row in range(n)], object)
