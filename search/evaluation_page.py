"""An evaluation as a folder to keep: one HTML page that needs nothing else, its pictures, and a row for every photo.

Out: `report.html` (pictures inside it, no script, nothing fetched), `errors.png`, `recall.png`, `map.png`,
`photos.parquet` and `manifest.json`. Names of photos, files and places are data, and escaped.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from indexer.artifact import write_folder
from indexer.places import countries_of, nearest_cities
from search.evaluate import Evaluation
from search.evaluation_report import Against
from search.metrics import AREAS_KM2
from search.pictures import accuracy_curve, error_map, recall_curve

KIND = "evaluation"
SCHEMA_VERSION = 1
_WORST = 20  # photos listed on the page
_FIELDS = ("photos", "answered", "median km", "mean km", "GeoScore")

_STYLE = """
:root { color-scheme: light; --ink: #1d2327; --quiet: #59636b; --line: #d5dade; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 64rem; color: var(--ink); background: #fff;
  font: 1rem/1.5 "Helvetica Neue", Arial, "Liberation Sans", sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.2; margin: 0 0 .75rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--line); }
p { margin: .5rem 0; max-width: 46rem; } .quiet { color: var(--quiet); font-size: .875rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .75rem 0; font-variant-numeric: tabular-nums; font-size: .9375rem; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: baseline; }
th { font-weight: 600; white-space: nowrap; } thead th { border-bottom: 2px solid var(--ink); }
th:first-child, td:first-child { text-align: left; padding-left: 0; } tbody th { font-weight: 400; }
td.name { text-align: left; overflow-wrap: anywhere; }
tr.ours th, tr.ours td { font-weight: 600; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; } .pictures img { max-width: 30rem; width: 100%; }
img { max-width: 100%; height: auto; }
"""


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
    rows = _rows(evaluation)
    page = _page(title, data, pictures, rows)
    with write_folder(out, kind=KIND, schema_version=SCHEMA_VERSION, config={"title": title}) as draft:
        for name, picture in pictures.items():
            (draft.path / name).write_bytes(picture)
        pa.parquet.write_table(rows, draft.path / "photos.parquet")
        (draft.path / "report.html").write_text(page, encoding="utf-8")


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
        _world(data, pictures["map.png"]),
        _worst(rows),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body>\n</html>\n"
    )


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
    rows = [_row("all photos", _shares(data["within"]), kind="ours")]
    if data["intervals"]:
        ends = data["intervals"]
        spans = (f"{low:.1f} to {high:.1f}" for low, high in (ends["within"][limit] for limit in limits))
        rows.append(_row(f"{100 * ends['level']:g} % interval ({ends['draws']:,} draws of photos)", spans))
    if data["answered"] is not None and data["answered"]["n"] < data["n"]:
        rows.append(_row(f"answered photos ({data['answered']['n']:,})", _shares(data["answered"]["within"])))
    if "without" in data and data["without"]["figures"] is not None:
        rest = data["without"]
        rows.append(
            _row(
                f"without the {rest['left_out']:,} of {' and '.join(rest['lists'])}", _shares(rest["figures"]["within"])
            )
        )
    if "against" in data:
        rows.append(_row(data["against"]["predictions"], _shares(data["against"]["figures"]["within"])))
    published = data.get("published")
    note = ""
    if published:
        rows += [
            _row(row["method"], (_share(row["within"].get(limit)) for limit in limits))
            for row in published["rows"]
            if any(value is not None for value in row["within"].values())
        ]
        note = (
            f'<p class="quiet">Named methods: Table {published["table"]} of the paper ({escape(published["source"])}), '
            f"{escape(published['title'])}.</p>"
        )
    heads = ("percent of photos within", *(f"{limit} km" for limit in limits))
    return f"<h2>Accuracy</h2>\n{_table(heads, rows)}\n{note}"


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
        _row(
            name,
            (f"{entry['difference']:+,.1f}", f"{entry['low']:+,.1f} to {entry['high']:+,.1f}", entry["verdict"]),
        )
        for name, entry in entries
    ]
    return f"""<h2>Against {escape(other["predictions"])}</h2>
<p class="quiet">Paired bootstrap over the same photos, {other["draws"]:,} draws; an interval with zero in it says that
the two cannot be told apart by these photos.</p>
{_table(("", "this run minus it", f"{100 * other['level']:g} % interval", ""), rows)}"""


def _curves(pictures: Mapping[str, bytes]) -> str:
    return f"""<h2>By distance, and by area</h2>
<div class="pictures">
<img src="{_data_uri(pictures["errors.png"])}" alt="Share of photos by distance from the true place.">
<img src="{_data_uri(pictures["recall.png"])}" alt="Share of photos found by area searched."></div>
<p class="quiet">Right: recall versus area (arXiv 2407.13862). Discs grow around each answer until they reach the true
place; cells are searched in the order in which an answer lists them.</p>"""


def _world(data: Mapping[str, Any], picture: bytes) -> str:
    heads = ("", *_FIELDS, *(f"{limit} km" for limit in data["within"]))
    continents, countries = (
        _table(heads, [_row(group["name"], _figures(group)) for group in data[name]])
        for name in ("continents", "countries")
    )
    return f"""<h2>Where</h2>
<img src="{_data_uri(picture)}" alt="World map: each true place with a line to its answer, coloured by error.">
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
    return f'<h2>The largest errors</h2>\n{_table(heads, lines)}\n<p class="quiet">All photos: photos.parquet.</p>'


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


def _row(name: str, values: Iterable[str], *, kind: str = "") -> str:
    cells = "".join(f"<td>{escape(value)}</td>" for value in values)
    return f'<tr class="{kind}"><th scope="row">{escape(name)}</th>{cells}</tr>'


def _table(heads: Sequence[str], rows: Sequence[str]) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "\n".join(rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def _data_uri(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"
