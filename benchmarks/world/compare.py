"""The answers of a finished run beside those of the baselines, read from the folders its commands wrote."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
from PIL import Image

from benchmarks.world import methods
from benchmarks.world.baselines import pixel_nearest, random_places
from benchmarks.world.results import (
    ALIKE,
    CELLS,
    FINEST,
    ORACLE,
    OURS,
    PIXELS,
    RANDOM,
    UNMAPPED,
    MethodPlaces,
    WorldAnswers,
)
from indexer.cells.hierarchy import Level
from indexer.earth.places import nearest_cities
from indexer.errors import WorkError
from indexer.photos.sources import PhotoTable, read_photos
from indexer.vectors.features import read_features
from search.answers.engine import Engine
from search.answers.options import SearchOptions
from search.evaluation.evaluate import evaluate_predictions
from search.evaluation.options import EvaluateConfig
from search.evaluation.photo_names import match_names
from search.retrieval.gallery_lists import GalleryLists

_DECODERS = 2  # threads; Pillow lets go of the interpreter lock while it decodes


def compare(
    photos: Path, *, registry: Path, features: Path, predictions: Path, without_maps: Path, seed: int
) -> WorldAnswers:
    """Answer the test photos in every way there is, `ours` being what `predictions` holds.

    without_maps: answers to the folder of the same photos, in any order.

    Raises:
        InputError: a folder is missing or damaged.
        WorkError: a test photo has no vector or no answer, so that methods cannot be compared photo by photo.
    """
    train = read_photos(photos, split="train", coordinates=True)
    test = read_photos(photos, split="test", coordinates=True)
    engine = Engine.open(registry, options=SearchOptions(gallery="off"))
    model, hierarchy = engine.bundle.model, engine.bundle.hierarchy
    batch = read_features(features)
    answered = _predictions(predictions)
    for what, names in ((features, batch.photo), (predictions, answered["photo"].to_pylist())):
        if list(names) != list(test.photo):
            raise WorkError(f"{what}: its photos are not the test photos of {photos}. Make it again.")
    if not batch.ok.all():
        failed = np.flatnonzero(~batch.ok)
        raise WorkError(
            f"{features}: {len(failed)} test photos have no vector, the first {batch.photo[failed[0]]} "
            f"({batch.reason[failed[0]]}). Remove the world and make it again."
        )
    pixels = pixel_nearest(_tiles(_paths(photos, train)), _tiles(_paths(photos, test)))
    ours = MethodPlaces(answered["lat"].to_numpy(), answered["lng"].to_numpy())
    evaluation, bare = (
        evaluate_predictions(each, photos, config=EvaluateConfig(split="test")) for each in (predictions, without_maps)
    )
    true_leaf = hierarchy.locate(test.lat_deg, test.lng_deg)[:, -1]
    cities, countries = answered["city"].to_pylist(), answered["country"].to_pylist()
    return WorldAnswers(
        lat_deg=test.lat_deg,
        lng_deg=test.lng_deg,
        tiles=_paths(photos, test),
        true_place=_named(*(names.tolist() for names in nearest_cities(test.lat_deg, test.lng_deg))),
        predictions={
            OURS: ours,
            UNMAPPED: _unmapped(without_maps, test),
            CELLS: _at(hierarchy.leaves, engine.search(batch.embedding, probability=False).leaf[:, 0]),
            ALIKE: _most_similar(engine, batch.embedding),
            FINEST: _at(hierarchy.leaves, methods.finest_level_leaves(model, batch.embedding)),
            PIXELS: _at(train, pixels),
            RANDOM: _at(train, random_places(len(train), len(test), seed)),
            ORACLE: _at(hierarchy.leaves, methods.oracle_leaves(hierarchy, test.lat_deg, test.lng_deg)),
        },
        predicted_place=_named(cities, countries),
        probability=answered["probability"].to_numpy(),
        reliability=evaluation.reliability if evaluation.calibrated else None,
        radii=evaluation.coverages,
        radii_without_maps=bare.coverages,
        cells=[len(level) for level in hierarchy.levels],
        coverage=[level.coverage for level in hierarchy.levels],
        n_train=len(train),
        order=methods.check_order(engine, batch.embedding),
        leaf_loss={
            method: methods.leaf_losses(each, batch.embedding, true_leaf)
            for method, each in ((OURS, Engine(engine.bundle)), (CELLS, engine))
        },
    )


def _most_similar(engine: Engine, vectors: np.ndarray) -> MethodPlaces:
    """Where the photo of the gallery that is most similar to each vector (Q, D) was taken."""
    gallery = engine.bundle.gallery
    assert gallery is not None, "a bundle of a checkpoint has one"
    row = GalleryLists(gallery).nearest(engine.prepared(vectors), None, near=1).row[:, 0]
    return MethodPlaces(gallery.lat_deg[row], gallery.lng_deg[row])


def _unmapped(folder: Path, test: PhotoTable) -> MethodPlaces:
    """Answers to the test photos that know no map. WorkError where one had a map, or has no answer."""
    answered = _predictions(folder)
    if any(seen is not False for seen in answered["class_map"].to_pylist()):
        raise WorkError(f"{folder}: not every photo was answered without its class map. Make it again.")
    row = match_names(answered["photo"].to_pylist(), test.photo, source=str(folder), wanted_by="the test photos").row
    if (row < 0).any():
        raise WorkError(f"{folder}: {int((row < 0).sum())} test photos have no answer. Make it again.")
    return MethodPlaces(answered["lat"].to_numpy()[row], answered["lng"].to_numpy()[row])


def _predictions(folder: Path) -> pa.Table:
    columns = ["row", "photo", "lat", "lng", "city", "country", "probability", "class_map"]
    return pyarrow.dataset.dataset(folder, format="parquet").to_table(columns=columns).sort_by("row")


def _at(points: Level | PhotoTable, rows: np.ndarray) -> MethodPlaces:
    return MethodPlaces(points.lat_deg[rows], points.lng_deg[rows])


def _named(cities: list[str], countries: list[str]) -> list[str]:
    return [f"{city}, {country}" for city, country in zip(cities, countries, strict=True)]


def _tiles(paths: Sequence[Path]) -> np.ndarray:
    """All tiles of a split: (N, P, P, 3) uint8."""
    with ThreadPoolExecutor(_DECODERS) as pool:
        return np.stack(list(pool.map(_tile, paths)))


def _paths(table: Path, photos: PhotoTable) -> list[Path]:
    return [table.parent / name for name in photos.photo]


def _tile(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))
