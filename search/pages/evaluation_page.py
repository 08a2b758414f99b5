"""An evaluation as a folder to keep: one HTML page that needs nothing else, its pictures, and a row for every photo.

Out: `report.html` (pictures inside it, no script, nothing fetched), `errors.png`, `recall.png`, `map.png`,
`reliability.png` where answers have probabilities, `photos.parquet` and `manifest.json`. Names of photos, files and
places are data, and escaped.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from indexer.disk.artifact import check_target, write_folder
from indexer.earth.geo import distance_text
from indexer.earth.places import countries_of, nearest_cities
from search.evaluation.evaluate import Evaluation
from search.evaluation.evaluation_report import (
    accuracy_table,
    difference_table,
    error_text,
    near_duplicates_table,
    radii_table,
    summary,
    world_table,
)
from search.evaluation.metrics import AREAS_KM2
from search.evaluation.published import SOURCE
from search.evaluation.report_table import Cell, Row, Table
from search.pages.page import render
from search.pages.pictures import accuracy_curve, error_map, recall_curve, reliability_diagram

KIND = "evaluation"
SCHEMA_VERSION = 1
_WORST = 20  # photos listed on the page


def write_evaluation(evaluation: Evaluation, out: Path, *, title: str) -> None:
    """Write the folder `out`, whole or not at all. Raises as `write_folder`."""
    check_target(out)
    pictures, rows, near = _pictures(evaluation), _rows(evaluation), evaluation.near_duplicates
    report = render(
        "evaluation.html",
        title=title,
        evaluation=evaluation,
        distance_text=distance_text,
        summary=summary(evaluation)[1:],
        accuracy=accuracy_table(evaluation),
        difference=None if evaluation.against is None else difference_table(evaluation, evaluation.against),
        near=None if near is None else near_duplicates_table(evaluation, near),
        radii=radii_table(evaluation.coverages),
        error=None if evaluation.reliability is None else error_text(evaluation.reliability),
        world=world_table(evaluation, brief=False),
        worst=_worst(rows),
        pictures=pictures,
        source=SOURCE,
    )
    with write_folder(out, kind=KIND, schema_version=SCHEMA_VERSION, config={"title": title}) as draft:
        for name, picture in pictures.items():
            (draft.path / name).write_bytes(picture)
        pa.parquet.write_table(rows, draft.path / "photos.parquet")
        (draft.path / "report.html").write_text(report, encoding="utf-8")


def _pictures(evaluation: Evaluation) -> dict[str, bytes]:
    systems = {"this run": evaluation}
    if evaluation.against is not None:
        systems[evaluation.against.name] = evaluation.against.evaluation
    curves = {
        f"{system}, {name}": curve
        for system, each in systems.items()
        for name, curve in each.recall_by_area(AREAS_KM2).items()
    }
    true, answers = (np.stack([each.lat_deg, each.lng_deg], axis=1) for each in (evaluation.photos, evaluation))
    pictures = {
        "errors.png": accuracy_curve(
            {system: each.distance_km for system, each in systems.items()}, from_km=min(1.0, *evaluation.limits_km)
        ),
        "recall.png": recall_curve(curves, AREAS_KM2),
        "map.png": error_map(true, answers, evaluation.distance_km),
    }
    if evaluation.reliability is not None:
        pictures["reliability.png"] = reliability_diagram(evaluation.reliability.bins)
    return pictures


def _rows(evaluation: Evaluation) -> pa.Table:
    """A row for every photo of the truth, in its order."""
    photos = evaluation.photos
    city, _ = nearest_cities(photos.lat_deg, photos.lng_deg)
    country, continent = countries_of(photos.lat_deg, photos.lng_deg)
    return pa.table(
        {
            "photo": pa.array(photos.photo, pa.string()),
            "true_lat": photos.lat_deg,
            "true_lng": photos.lng_deg,
            "lat": pa.array(evaluation.lat_deg, from_pandas=True),  # NaN becomes null
            "lng": pa.array(evaluation.lng_deg, from_pandas=True),
            "error_km": pa.array(evaluation.distance_km, from_pandas=True),
            "city": pa.array(city.tolist(), pa.string()),
            "country": pa.array(country.tolist(), pa.string()),
            "continent": pa.array(continent.tolist(), pa.string()),
        }
    )


def _worst(rows: pa.Table) -> Table:
    worst = rows.filter(pa.compute.is_valid(rows["error_km"])).sort_by([("error_km", "descending")]).slice(0, _WORST)
    lines = []
    for row in worst.to_pylist():
        photo, near = Cell(row["photo"], "words"), Cell(f"{row['city']}, {row['country']}", "words")
        taken, answer = f"{row['true_lat']:.4f}, {row['true_lng']:.4f}", f"{row['lat']:.4f}, {row['lng']:.4f}"
        lines.append(Row([photo, distance_text(row["error_km"]), near, taken, answer]))
    return Table(["photo", "error", "taken near", "taken at", "answer"], lines)
