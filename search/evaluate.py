"""How right answers are: predictions joined with the truth, great-circle errors, accuracy at distances.

Every photo of the truth counts. A photo without an answer is a miss; accuracy among answered photos is a figure apart.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset

from indexer.errors import InputError
from indexer.geo import Accuracy, accuracy, haversine_km
from indexer.paper import THRESHOLDS_KM
from indexer.photos import read_photos
from indexer.tables import coordinates_of, names_of, read_columns


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Errors of a set of predictions."""

    distance_km: np.ndarray  # (N,) float64 in the order of the truth, NaN where there is no answer
    accuracy: Accuracy  # over all photos
    answered: Accuracy | None  # over photos with an answer; None where there is none


def evaluate(
    predictions: Path, truth: Path, *, split: str | None = None, thresholds_km: Sequence[float] = THRESHOLDS_KM
) -> Evaluation:
    """Compare predictions with the truth.

    predictions: a folder written by `run`, or anybody's .parquet or .csv with photo, lat, lng. truth: a photo table.

    Raises:
        InputError: unreadable tables, a prediction off the Earth, or names that do not identify a photo.
    """
    photos = read_photos(truth, split=split, coordinates=True)
    names, lat, lng = read_predictions(predictions)
    row = _rows_by_name(names, photos.photo, predictions, truth)
    found = row >= 0
    if not found.any():
        raise InputError(
            f"None of the {len(names)} photos of {predictions} is in {truth}. "
            f"Names must be equal; the first are {names[0]!r} and {photos.photo[0]!r}."
        )
    distance = np.full(len(photos), np.nan)
    distance[found] = haversine_km(photos.lat_deg[found], photos.lng_deg[found], lat[row[found]], lng[row[found]])
    answered = distance[~np.isnan(distance)]
    return Evaluation(
        distance, accuracy(distance, thresholds_km), accuracy(answered, thresholds_km) if answered.size else None
    )


def read_predictions(source: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, latitudes and longitudes (N,) of predictions; NaN where a photo has no answer."""
    table = _read_folder(source) if source.is_dir() else read_columns(source, ["photo", "lat", "lng"])
    lat, lng = coordinates_of(table, source)
    wrong = np.flatnonzero(np.isnan(lat) != np.isnan(lng))
    if wrong.size:
        raise InputError(
            f"{source}: row {wrong[0]} answers with lat {lat[wrong[0]]}, lng {lng[wrong[0]]}, which is half a place. "
            "Leave both empty where there is no answer."
        )
    return names_of(table, source), lat, lng


def _read_folder(folder: Path) -> pa.Table:
    try:
        table = pa.dataset.dataset(folder, format="parquet").to_table(columns=["row", "photo", "lat", "lng"])
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{folder}: cannot be read as predictions ({error}).") from None
    if not table.num_rows:
        raise InputError(f"{folder}: no predictions in it.")
    return table.sort_by("row")


def _rows_by_name(names: Sequence[str], wanted: Sequence[str], predictions: Path, truth: Path) -> np.ndarray:
    if list(names) == list(wanted):
        return np.arange(len(names))  # the same table on both sides: names may repeat
    for source, given in ((predictions, names), (truth, wanted)):
        name, times = Counter(given).most_common(1)[0]
        if times > 1:
            raise InputError(
                f"{source}: the name {name!r} stands {times} times, so answers cannot be told apart. "
                "Evaluate against the very table the run was given, or make names unique."
            )
    where = {name: row for row, name in enumerate(names)}
    return np.array([where.get(name, -1) for name in wanted], np.int64)
