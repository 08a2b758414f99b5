"""The report of a run on the embedded world: one HTML page that needs nothing else, and the same figures as JSON.

In: WorldResults. Out: `report.html` (pictures as data URIs, no script, nothing fetched) and `report.json`.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.world.fusion_record import fusion_table
from benchmarks.world.pictures import ERROR_COLOURS, world_map
from benchmarks.world.results import (
    COMPETING,
    METHODS,
    ORACLE,
    OURS,
    MethodPlaces,
    WorldResults,
    accuracies,
    as_json,
    errors_km,
    goals,
)
from indexer.earth.geo import Accuracy
from search.evaluation.evaluation_report import radii_table
from search.evaluation.report_table import Cell, Row, Table
from search.pages.page import render as render_page
from search.pages.pictures import accuracy_curve

_DRAWN = (*COMPETING, ORACLE)  # as curves: five lines at most can be told apart
_MAP_SAMPLE = 350  # lines on the map: more hide each other
_CURVE_FROM_KM = 10.0  # nearer than any cell of the demo is small
_STRIP = 6  # tiles in each row of examples


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
    table, errors, answers = accuracies(results), errors_km(results), results.answers
    answered = np.flatnonzero(~np.isnan(errors[OURS]))
    # Evenly spaced rows: the table is in random order, and the same run shows the same photos.
    mapped = answered[np.linspace(0, len(answered) - 1, min(_MAP_SAMPLE, len(answered))).astype(np.intp)]
    truth = MethodPlaces(answers.lat_deg, answers.lng_deg)
    return render_page(
        "world.html",
        package="benchmarks.world",
        title="GeoSURGE on the embedded world",
        results=results,
        n_test=len(answers.lat_deg),
        ours=table[OURS],
        accuracy=_accuracy(table),
        goals=_goals(results),
        radii=radii_table(answers.radii),
        radii_without_maps=radii_table(answers.radii_without_maps),
        curve=accuracy_curve({METHODS[name]: errors[name] for name in _DRAWN}, from_km=_CURVE_FROM_KM, kind="svg"),
        shares="; ".join(f"{METHODS[name]} {table[name].within['200']:.1f} %" for name in _DRAWN),
        map=world_map(_points(truth, mapped), _points(answers.predictions[OURS], mapped), errors[OURS][mapped]),
        n_mapped=len(mapped),
        colours=ERROR_COLOURS,
        strips=_strips(results, errors[OURS]),
        fusion=fusion_table(results.fusion_kind),
        steps=_steps(results),
        cells=_cells(results),
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


def _accuracy(table: Mapping[str, Accuracy]) -> Table:
    best = _best(table)
    rows = []
    for method, figures in table.items():
        values = [f"{figures.median_km:,.0f}", *(f"{share:.1f}" for share in figures.within.values())]
        cells = [
            Cell(value, "best") if method in winners else value for value, winners in zip(values, best, strict=True)
        ]
        rows.append(Row([METHODS[method], *cells], kind="bound" if method == ORACLE else ""))
    return Table(["method", "median km", *(f"\u2264\u00a0{int(limit):,} km" for limit in table[OURS].within)], rows)


def _best(table: Mapping[str, Accuracy]) -> list[set[str]]:
    """The best of COMPETING in each column, median first; equals share it, and nobody has what all have."""
    columns = zip(*([-table[method].median_km, *table[method].within.values()] for method in COMPETING), strict=True)
    winners = [{m for m, value in zip(COMPETING, column, strict=True) if value == max(column)} for column in columns]
    return [names if len(names) < len(COMPETING) else set() for names in winners]


def _goals(results: WorldResults) -> Table:
    rows = [
        Row(
            [
                *map(_unbroken, (goal.what, goal.goal, goal.value)),
                Cell("met", "met") if goal.met else Cell("missed", "missed"),
            ]
        )
        for goal in goals(results)
    ]
    return Table(["", "goal", "this run", ""], rows, "Goals", words=True)


def _unbroken(text: str) -> str:
    """Text in which a number and its unit stay on one line."""
    return re.sub(r"(?<=\d) ", "\u00a0", text)


def _points(places: MethodPlaces, rows: np.ndarray) -> np.ndarray:
    return np.stack([places.lat_deg[rows], places.lng_deg[rows]], axis=1)


@dataclass(frozen=True, slots=True)
class _Example:
    """A photo of a strip, as the page shows it."""

    tile: bytes  # JPEG
    true: str
    answer: str
    distance: str
    probability: str  # empty where there is none


def _strips(results: WorldResults, errors: np.ndarray) -> list[tuple[str, list[_Example]]]:
    order = np.argsort(errors, kind="stable")  # NaN, no answer, comes last
    middle = max(0, (len(order) - _STRIP) // 2)
    strips = (
        ("Best", order[:_STRIP]),
        ("Typical: around the median", order[middle : middle + _STRIP]),
        ("Worst, the worst first", order[::-1][:_STRIP]),
    )
    return [(name, [_example(results, int(row), float(errors[row])) for row in rows]) for name, rows in strips]


def _example(results: WorldResults, row: int, error_km: float) -> _Example:
    answers, unknown = results.answers, np.isnan(error_km)
    probability = answers.probability[row]
    return _Example(
        tile=answers.tiles[row].read_bytes(),
        true=answers.true_place[row],
        answer="\u2013" if unknown else answers.predicted_place[row],
        distance="no answer" if unknown else f"{error_km:,.0f} km",
        probability="" if np.isnan(probability) else f"{probability:.0%}",
    )


def _steps(results: WorldResults) -> Table:
    rows = [Row([step, f"{seconds:.1f} s"]) for step, seconds in results.seconds.items()]
    rows.append(Row(["all, up to this report", f"{results.total_seconds:.1f} s"], kind="ours"))
    return Table(["step", "time"], rows)


def _cells(results: WorldResults) -> Table:
    levels = zip(results.answers.cells, results.answers.coverage, strict=True)
    rows = [Row([f"{level}", f"{count:,}", f"{coverage:.1%}"]) for level, (count, coverage) in enumerate(levels)]
    return Table(["level, 0 is the coarsest", "cells", "training photos in a cell"], rows)
