"""An evaluation as a folder to keep: one HTML page that needs nothing else, its pictures, and a row for every photo.

Out: `report.html` (pictures inside it, no script, nothing fetched), `errors.png`, `recall.png`, `map.png`,
`reliability.png` where answers have probabilities, `photos.parquet` and `manifest.json`. Names of photos, files and
places are data, and escaped.
"""

from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from indexer.disk.artifact import write_folder
from indexer.earth.places import countries_of, nearest_cities
from search.evaluation.evaluate import Evaluation
from search.evaluation.evaluation_report import Against
from search.evaluation.metrics import AREAS_KM2
from search.pages.page import data_uri, page, table, table_row
from search.pages.pictures import accuracy_curve, error_map, recall_curve, reliability_diagram

KIND = "evaluation"
SCHEMA_VERSION = 1
_WORST = 20  # photos listed on the page
_FIELDS = ("photos", "answered", "median km", "mean km", "GeoScore")


def write_evaluation(
    evaluation: Evaluation,
    data: Mapping[str, Any],
    out: Path,
    *,
    title: str,
    against: Against | None = None,
) -> None:
    """Write the folder `out`, whole or not at all. data: of `evaluation_data`.

    Raises:
        InputError: `out` exists, or cannot be written.
        WorkError: the disk is full.
    """
    errors = {"this run": evaluation.distance_km}
    if against is not None:
        errors[against.name] = against.evaluation.distance_km
    curves = _recall_curves(evaluation, against)
    true, answers = (np.stack([p.lat_deg, p.lng_deg], axis=1) for p in (evaluation.photos, evaluation))
    pictures = {
        "errors.png": accuracy_curve(errors),
        "recall.png": recall_curve(curves, AREAS_KM2),
        "map.png": error_map(true, answers, evaluation.distance_km),
    }
    if data["calibration"] is not None:
        bins = data["calibration"]["bins"]
        promised, true, photos = (
            np.array([each[name] for each in bins]) for name in ("promised", "came_true", "photos")
        )
        pictures["reliability.png"] = reliability_diagram(promised, true, photos)
    rows = _rows(evaluation)
    report = _page(title, data, pictures, rows)
    with write_folder(out, kind=KIND, schema_version=SCHEMA_VERSION, config={"title": title}) as draft:
        for name, picture in pictures.items():
            (draft.path / name).write_bytes(picture)
        pa.parquet.write_table(rows, draft.path / "photos.parquet")
        (draft.path / "report.html").write_text(report, encoding="utf-8")


def _recall_curves(evaluation: Evaluation, against: Against | None) -> dict[str, np.ndarray]:
    curves = {f"this run, {name}": curve for name, curve in evaluation.recall_by_area(AREAS_KM2).items()}
    if against is not None:
        theirs = against.evaluation.recall_by_area(AREAS_KM2)
        curves |= {f"{against.name}, {name}": curve for name, curve in theirs.items()}
    return curves


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


def _page(title: str, data: Mapping[str, Any], pictures: Mapping[str, bytes], rows: pa.Table) -> str:
    sections = [
        _introduction(title, data),
        _accuracy(data),
        _against(data),
        _curves(pictures),
        _sureness(data["calibration"], pictures),
        _world(data, pictures["map.png"]),
        _worst(rows),
    ]
    return page(title, sections)


def _introduction(title: str, data: Mapping[str, Any]) -> str:
    answered = 0 if data["answered"] is None else data["answered"]["n"]
    missing = data["n"] - answered
    silent = f"{missing:,} photos have no answer and count as misses." if missing else "Every photo has an answer."
    return f"""<h1>{escape(title)}</h1>
<p>Half of {data["n"]:,} photos were placed within {data["median_km"]:,.1f} km of where they were taken; the mean
error is {data["mean_km"]:,.1f} km, the GeoScore {data["geoscore"]:,.0f} of 5,000 (the mean of
5000 exp(&minus;d / 1492.7 km)).</p>
<p class="quiet">{silent} Photos were matched by {escape(data["compared_by"])}.</p>"""


def _accuracy(data: Mapping[str, Any]) -> str:
    limits = list(data["within"])
    rows = [table_row("all photos", _shares(data["within"]), kind="ours")]
    if data["intervals"]:
        ends = data["intervals"]
        spans = (f"{low:.1f} to {high:.1f}" for low, high in (ends["within"][limit] for limit in limits))
        rows.append(table_row(f"{100 * ends['level']:g} % interval ({ends['draws']:,} draws of photos)", spans))
    if data["answered"] is not None and data["answered"]["n"] < data["n"]:
        rows.append(table_row(f"answered photos ({data['answered']['n']:,})", _shares(data["answered"]["within"])))
    if "without" in data and data["without"]["figures"] is not None:
        rest = data["without"]
        rows.append(
            table_row(
                f"without the {rest['left_out']:,} of {' and '.join(rest['lists'])}", _shares(rest["figures"]["within"])
            )
        )
    if "against" in data:
        rows.append(table_row(data["against"]["predictions"], _shares(data["against"]["figures"]["within"])))
    published = data.get("published")
    note = ""
    if published:
        rows += [
            table_row(row["method"], (_share(row["within"].get(limit)) for limit in limits))
            for row in published["rows"]
            if any(value is not None for value in row["within"].values())
        ]
        note = (
            f'<p class="quiet">Named methods: Table {published["table"]} of the paper ({escape(published["source"])}), '
            f"{escape(published['title'])}.</p>"
        )
    heads = ("percent of photos within", *(f"{limit} km" for limit in limits))
    return f"<h2>Accuracy</h2>\n{table(heads, rows)}\n{note}"


def _against(data: Mapping[str, Any]) -> str:
    if "against" not in data:
        return ""
    other = data["against"]
    difference = other["difference"]
    entries = [
        ("median, km", difference["median_km"]),
        ("mean, km", difference["mean_km"]),
        ("GeoScore", difference["geoscore"]),
        *((f"within {limit} km, percent points", entry) for limit, entry in difference["within"].items()),
    ]
    rows = [
        table_row(
            name,
            (f"{entry['difference']:+,.1f}", f"{entry['low']:+,.1f} to {entry['high']:+,.1f}", entry["verdict"]),
        )
        for name, entry in entries
    ]
    return f"""<h2>Against {escape(other["predictions"])}</h2>
<p class="quiet">Paired bootstrap over the same photos, {other["draws"]:,} draws; an interval with zero in it says that
the two cannot be told apart by these photos.</p>
{table(("", "this run minus it", f"{100 * other['level']:g} % interval", ""), rows)}"""


def _curves(pictures: Mapping[str, bytes]) -> str:
    return f"""<h2>By distance, and by area</h2>
<div class="pictures">
<img src="{data_uri(pictures["errors.png"])}" alt="Share of photos by distance from the true place.">
<img src="{data_uri(pictures["recall.png"])}" alt="Share of photos found by area searched."></div>
<p class="quiet">Right: recall versus area (arXiv 2407.13862). Discs grow around each answer until they reach the true
place; cells are searched in the order in which an answer lists them.</p>"""


def _sureness(calibration: Mapping[str, Any] | None, pictures: Mapping[str, bytes]) -> str:
    if calibration is None:
        return ""
    ends = calibration["interval"]
    span = "" if ends is None else f", interval {ends['low']:.3f} to {ends['high']:.3f}"
    kind = "Probabilities were calibrated" if calibration["calibrated"] else "Probabilities were not calibrated"
    rows = [
        table_row(
            f"{radius['promised']:.0%} radius",
            [
                f"{radius['median_km']:,.0f}",
                f"{radius['found']:.1%}",
                f"{radius['interval']['low']:.1%} to {radius['interval']['high']:.1%}",
            ],
        )
        for radius in calibration["radii"]
    ]
    radii = table(("", "median km", "holds the true place", "95 % interval"), rows) if rows else ""
    n, others = calibration["abstained"], calibration["without_abstained"]
    rest = "" if others is None else f" Half of the others lie within {others['median_km']:,.1f} km."
    abstained = f"<p>{n:,} answers abstain.{rest}</p>" if n else ""
    return f"""<h2>How sure</h2>
<p>{kind}. The true place lies in the answered cell for {calibration["right"]:.1%} of {calibration["photos"]:,} photos;
the expected calibration error is {calibration["error"]:.3f}{span}.</p>
<div class="pictures">
<img src="{data_uri(pictures["reliability.png"])}" alt="What came true, by the probability that was promised."></div>
{radii}
{abstained}"""


def _world(data: Mapping[str, Any], picture: bytes) -> str:
    heads = ("", *_FIELDS, *(f"{limit} km" for limit in data["within"]))
    continents, countries = (
        table(heads, [table_row(group["name"], _figures(group)) for group in data[name]])
        for name in ("continents", "countries")
    )
    return f"""<h2>Where</h2>
<img src="{data_uri(picture)}" alt="World map: each true place with a line to its answer, coloured by error.">
<p class="quiet">A dot is where a photo was taken; its line leads to the answer, straight on the map and the short way
round. Grey dots are cities.</p>
<p>By the country of the true place, which is that of the nearest city with 15,000 inhabitants; beside a border it may
be the other side's. Figures over few photos are rough.</p>
{continents}
{countries}"""


def _worst(rows: pa.Table) -> str:
    worst = rows.filter(pa.compute.is_valid(rows["error_km"])).sort_by([("error_km", "descending")]).slice(0, _WORST)
    lines = [
        f'<tr><td class="name">{escape(row["photo"])}</td><td>{row["error_km"]:,.0f}</td>'
        f'<td class="name">{escape(row["city"])}, {escape(row["country"])}</td>'
        f"<td>{row['true_lat']:.4f}, {row['true_lng']:.4f}</td><td>{row['lat']:.4f}, {row['lng']:.4f}</td></tr>"
        for row in worst.to_pylist()
    ]
    heads = ("photo", "error, km", "taken near", "taken at", "answer")
    return f'<h2>The largest errors</h2>\n{table(heads, lines)}\n<p class="quiet">All photos: photos.parquet.</p>'


def _figures(group: Mapping[str, Any]) -> Iterable[str]:
    return (
        f"{group['n']:,}",
        f"{group['answered']:,}",
        f"{group['median_km']:,.1f}",
        f"{group['mean_km']:,.1f}",
        f"{group['geoscore']:,.0f}",
        *_shares(group["within"]),
    )


def _shares(within: Mapping[str, float]) -> Iterable[str]:
    return (_share(value) for value in within.values())


def _share(value: float | None) -> str:
    return "\u2013" if value is None else f"{value:.1f}"
