"""An evaluation as data for programs and as text for people. The text is made of the data: they cannot disagree."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from search.evaluation.bootstrap import Intervals, Resampling
from search.evaluation.evaluate import Comparison, Evaluation, LeftOut
from search.evaluation.metrics import AREAS_KM2, GEOSCORE_BEST, Figures
from search.evaluation.published import PUBLISHED_KM, SOURCE, TABLES, BenchmarkName

_COUNTRIES_SHOWN = 10
_FEW = 100  # photos of a country below which the text says that its figures are rough


@dataclass(frozen=True, slots=True, eq=False)
class Against:
    """Another system to compare with."""

    name: str
    evaluation: Evaluation
    comparison: Comparison


def evaluation_data(
    evaluation: Evaluation,
    *,
    resampling: Resampling,
    benchmark: BenchmarkName | None = None,
    against: Against | None = None,
    left_out: LeftOut | None = None,
) -> dict[str, Any]:
    """Everything there is to say, ready for JSON: numbers, text, lists and objects."""
    curves = evaluation.recall_by_area(AREAS_KM2)
    data: dict[str, Any] = {
        **asdict(evaluation.accuracy),
        "answered": None if evaluation.answered is None else _without_count(evaluation.answered),
        "compared_by": evaluation.compared_by,
        "intervals": _intervals(evaluation.intervals(resampling), resampling) if resampling.draws else None,
        "recall_by_area": {"area_km2": list(AREAS_KM2), **{name: curve.tolist() for name, curve in curves.items()}},
        "continents": _groups(evaluation.by_continent()),
        "countries": _groups(evaluation.by_country()),
        "calibration": _calibration(evaluation, resampling),
    }
    if benchmark is not None:
        data["benchmark"] = benchmark
        data["published"] = _published(benchmark)
    if against is not None:
        data["against"] = _comparison(evaluation, against, resampling)
    if left_out is not None:
        rest = left_out.evaluation
        data["without"] = {
            "lists": list(left_out.lists),
            "left_out": left_out.n_left_out,
            "figures": None if rest is None else asdict(rest.accuracy),
            "intervals": None
            if rest is None or not resampling.draws
            else _intervals(rest.intervals(resampling), resampling),
        }
    return data


def _calibration(evaluation: Evaluation, resampling: Resampling) -> dict[str, Any] | None:
    """What answers say of themselves beside what came true."""
    found = evaluation.reliability(resampling)
    if found is None:
        return None
    n_abstained, others = evaluation.abstained
    return {
        "calibrated": evaluation.calibrated,
        **asdict(found),
        "radii": [asdict(each) for each in evaluation.coverages()],
        "abstained": n_abstained,
        "without_abstained": None if others is None or not n_abstained else _without_count(others),
    }


def _without_count(figures: Figures) -> dict[str, Any]:
    data = asdict(figures)
    del data["answered"]  # all of them are
    return data


def _intervals(ends: Intervals, resampling: Resampling) -> dict[str, Any]:
    return {
        "level": resampling.level,
        "draws": resampling.draws,
        "seed": resampling.seed,
        **{name: [end.low, end.high] for name, end in _named(ends)},
        "within": {limit: [end.low, end.high] for limit, end in ends.within.items()},
    }


def _named(ends: Intervals) -> list[tuple[str, Any]]:
    return [("median_km", ends.median_km), ("mean_km", ends.mean_km), ("geoscore", ends.geoscore)]


def _groups(groups: Mapping[str, Figures]) -> list[dict[str, Any]]:
    return [{"name": name, **asdict(figures)} for name, figures in groups.items()]


def _published(benchmark: BenchmarkName) -> dict[str, Any] | None:
    table = TABLES.get(benchmark)
    if table is None:
        return None
    limits = [f"{limit:g}" for limit in PUBLISHED_KM]
    rows = [{"method": row.method, "within": dict(zip(limits, row.within, strict=True))} for row in table.rows]
    return {"source": SOURCE, "table": table.number, "title": table.title, "rows": rows}


def _comparison(evaluation: Evaluation, against: Against, resampling: Resampling) -> dict[str, Any]:
    ours, theirs, ends = evaluation.accuracy, against.comparison.other, against.comparison.difference

    def entry(one: float, other: float, end: Any, *, higher_is_better: bool) -> dict[str, Any]:
        gain = end.low > 0 if higher_is_better else end.high < 0
        loss = end.high < 0 if higher_is_better else end.low > 0
        verdict = "better" if gain else "worse" if loss else "not distinguishable"
        return {"difference": one - other, "low": end.low, "high": end.high, "verdict": verdict}

    return {
        "predictions": against.name,
        "level": resampling.level,
        "draws": resampling.draws,
        "seed": resampling.seed,
        "figures": asdict(theirs),
        "difference": {
            **{
                name: entry(getattr(ours, name), getattr(theirs, name), end, higher_is_better=name == "geoscore")
                for name, end in _named(ends)
            },
            "within": {
                limit: entry(share, theirs.within[limit], ends.within[limit], higher_is_better=True)
                for limit, share in ours.within.items()
            },
        },
    }


def evaluation_text(data: Mapping[str, Any], *, what: str = "") -> str:
    """The same to read: figures, then accuracy beside everything it can be compared with, then parts of the world.

    what: put before everything, such as the name of the run.
    """
    parts = [_summary(data, what), _accuracy(data)]
    if data["calibration"] is not None:
        parts.append(_told(data["calibration"]))
    if "against" in data:
        parts.append(_against(data["against"]))
    parts.append(_world(data))
    return "\n\n".join(parts)


def _summary(data: Mapping[str, Any], what: str) -> str:
    lines = [
        f"{f'{what}: ' if what else ''}{data['n']:,} photos, median {data['median_km']:.1f} km, mean "
        f"{data['mean_km']:.1f} km, GeoScore {data['geoscore']:,.0f} of {GEOSCORE_BEST:,.0f}"
    ]
    if data["intervals"]:
        ends = data["intervals"]
        lines.append(
            f"  {100 * ends['level']:g} % intervals over photos: median {_span(ends['median_km'], '.1f')} km, mean "
            f"{_span(ends['mean_km'], '.1f')} km, GeoScore {_span(ends['geoscore'], ',.0f')}"
        )
    if data["answered"] is None:
        lines.append("  no photo has an answer")
    elif data["answered"]["n"] < data["n"]:
        answered = data["answered"]
        lines.append(
            f"  {data['n'] - answered['n']:,} without an answer, which count as misses; among the {answered['n']:,} "
            f"answered: median {answered['median_km']:.1f} km, mean {answered['mean_km']:.1f} km, GeoScore "
            f"{answered['geoscore']:,.0f}"
        )
    if data["compared_by"] != "whole name":
        lines.append(f"  photos were matched by {data['compared_by']}")
    return "\n".join(lines)


def _accuracy(data: Mapping[str, Any]) -> str:
    limits = list(data["within"])
    rows: list[Sequence[str]] = [("percent of photos within", *(f"{limit} km" for limit in limits))]
    rows.append(("all photos", *_shares(data["within"])))
    if data["intervals"]:
        ends = data["intervals"]
        rows.append(
            (f"  {100 * ends['level']:g} % interval", *(_span(ends["within"][limit], ".1f") for limit in limits))
        )
    if data["answered"] is not None and data["answered"]["n"] < data["n"]:
        rows.append((f"answered photos ({data['answered']['n']:,})", *_shares(data["answered"]["within"])))
    if "without" in data:
        rest = data["without"]["figures"]
        if rest is None:
            rows.append((f"without {_and(data['without']['lists'])}", "no photo is left"))
        else:
            rows.append(
                (
                    f"without the {data['without']['left_out']:,} of {_and(data['without']['lists'])}",
                    *_shares(rest["within"]),
                )
            )
            if data["without"]["intervals"]:
                ends = data["without"]["intervals"]["within"]
                rows.append(
                    (
                        f"  {100 * data['without']['intervals']['level']:g} % interval",
                        *(_span(ends[limit], ".1f") for limit in limits),
                    )
                )
    if "against" in data:
        rows.append((data["against"]["predictions"], *_shares(data["against"]["figures"]["within"])))
    published = data.get("published")
    if published:
        rows.append((f"Table {published['table']} of the paper, {published['title']}:",))
        rows += [
            (f"  {row['method']}", *(_share(row["within"].get(limit)) for limit in limits))
            for row in published["rows"]
            if any(value is not None for value in row["within"].values())
        ]
    elif "benchmark" in data:
        rows.append((f"The paper has no table of {data['benchmark']}.",))
    return _aligned(rows)


def _told(calibration: Mapping[str, Any]) -> str:
    ends = calibration["interval"]
    span = "" if ends is None else f" ({ends['low']:.3f} to {ends['high']:.3f})"
    kind = "calibrated" if calibration["calibrated"] else "not calibrated"
    lines = [
        f"Probabilities ({kind}): the true place lies in the answered cell for {calibration['right']:.1%}; calibration "
        f"error {calibration['error']:.3f}{span}"
    ]
    lines += [
        f"  {radius['promised']:.0%} radius, median {radius['median_km']:,.0f} km: holds {radius['found']:.1%} "
        f"({radius['interval']['low']:.1%} to {radius['interval']['high']:.1%}) of the true places"
        for radius in calibration["radii"]
    ]
    if calibration["abstained"]:
        others = calibration["without_abstained"]
        rest = "" if others is None else f"; median of the others {others['median_km']:.1f} km"
        lines.append(f"  {calibration['abstained']:,} answers abstain{rest}")
    return "\n".join(lines)


def _against(data: Mapping[str, Any]) -> str:
    rows: list[Sequence[str]] = [("difference to it", "this - it", f"{100 * data['level']:g} % interval", "")]
    difference = data["difference"]
    for name, label, style in (
        ("median_km", "median, km", ".1f"),
        ("mean_km", "mean, km", ".1f"),
        ("geoscore", "GeoScore", ",.0f"),
    ):
        rows.append((label, *_differs(difference[name], style)))
    rows += [
        (f"within {limit} km, percent points", *_differs(entry, ".1f")) for limit, entry in difference["within"].items()
    ]
    table = _aligned(rows)
    return f"Against {data['predictions']}, on the same photos (paired bootstrap, {data['draws']:,} draws):\n{table}"


def _differs(entry: Mapping[str, Any], style: str) -> tuple[str, str, str]:
    return (
        format(entry["difference"], f"+{style}"),
        f"{entry['low']:+{style}} to {entry['high']:+{style}}",
        entry["verdict"],
    )


def _world(data: Mapping[str, Any]) -> str:
    limits = list(data["within"])
    head = ("by true place", "photos", "median km", "GeoScore", *(f"{limit} km" for limit in limits))
    shown = data["countries"][:_COUNTRIES_SHOWN]
    rows: list[Sequence[str]] = [head]
    for group in (*data["continents"], *shown):
        rows.append(
            (
                f"{'' if group in data['continents'] else '  '}{group['name']}",
                f"{group['n']:,}",
                f"{group['median_km']:.1f}",
                f"{group['geoscore']:,.0f}",
                *_shares(group["within"]),
            )
        )
    notes = []
    more = len(data["countries"]) - len(shown)
    if more:
        notes.append(f"{more} more countries with --json or --report.")
    if any(group["n"] < _FEW for group in shown):
        notes.append("A country is that of the nearest city; figures over few photos are rough.")
    else:
        notes.append("A country is that of the nearest city.")
    return f"{_aligned(rows)}\n{' '.join(notes)}"


def _and(names: Sequence[str]) -> str:
    return " and ".join(names)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _shares(within: Mapping[str, float]) -> Iterable[str]:
    return (_share(value) for value in within.values())


def _span(ends: Sequence[float], style: str) -> str:
    return f"{ends[0]:{style}} to {ends[1]:{style}}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as text, the first column flush left and the others flush right. Rows of one cell are headings."""
    width = max(map(len, rows))
    full = [row for row in rows if len(row) == width]
    widths = [max(len(row[column]) for row in full) for column in range(width)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(size) for cell, size in zip(row[1:], widths[1:], strict=False))]
        ).rstrip()
        for row in rows
    )
