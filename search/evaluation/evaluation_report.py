"""An evaluation as data for programs, as tables that pages show too, and as text for people."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from indexer.earth.geo import distance_text
from search.evaluation.bootstrap import Interval, Intervals
from search.evaluation.evaluate import Comparison, Evaluation, LeftOut
from search.evaluation.metrics import AREAS_KM2, GEOSCORE_BEST, Figures
from search.evaluation.options import LEVEL, STREETS_BELOW_KM, BenchmarkName
from search.evaluation.published import PUBLISHED_KM, SOURCE, SOURCES, TABLES, PublishedTable
from search.evaluation.reliability import Coverage, Reliability
from search.evaluation.report_table import Row, Table

_INTERVAL = f"{100 * LEVEL:g} % interval"
_COUNTRIES_SHOWN = 10
_FEW = 100  # photos of a country below which the text says that its figures are rough
# Figures but the shares within distances, and what a table calls them.
_FIGURES = {"median_km": "median, km", "mean_km": "mean, km", "geoscore": "GeoScore"}
_HOW_TO_AUDIT = (
    "Near-duplicates of known photos count. python -m search audit ... finds them: give its folder as `audit` to see "
    "figures without."
)


def evaluation_data(evaluation: Evaluation) -> dict[str, Any]:
    """Everything there is to say, ready for JSON: numbers, text, lists and objects."""
    config, curves = evaluation.config, evaluation.recall_by_area(AREAS_KM2)
    calibration = evaluation.reliability and {  # what answers say of themselves beside what came true
        "calibrated": evaluation.calibrated,
        **asdict(evaluation.reliability),
        "radii": [asdict(each) for each in evaluation.coverages],
        "abstained": evaluation.n_abstained,
        "without_abstained": _without_count(evaluation.without_abstained),
    }
    data: dict[str, Any] = {
        **asdict(evaluation.accuracy),
        "answered": _without_count(evaluation.answered),
        "compared_by": evaluation.compared_by,
        "intervals": _intervals(evaluation),
        "owner_column": evaluation.owner_column,
        "recall_by_area": {"area_km2": list(AREAS_KM2), **{name: curve.tolist() for name, curve in curves.items()}},
        "continents": _groups(evaluation.by_continent),
        "countries": _groups(evaluation.by_country),
        "calibration": calibration,
    }
    if config.benchmark_name is not None:
        data["benchmark"] = config.benchmark_name
        data["published"] = _published(config.benchmark_name)
    if evaluation.against is not None:
        other = evaluation.against
        data["against"] = {
            "predictions": other.name,
            **_drawn(evaluation if evaluation.albums is not None else other.evaluation),
            "figures": asdict(other.evaluation.accuracy),
            "difference": _nested(_differences(evaluation, other)),
        }
    if evaluation.left_out is not None:
        rest = evaluation.left_out.evaluation
        data["without"] = {
            "lists": list(evaluation.left_out.lists),
            "left_out": evaluation.left_out.n_left_out,
            "figures": None if rest is None else asdict(rest.accuracy),
            "intervals": None if rest is None else _intervals(rest),
        }
    near = evaluation.near_duplicates
    data["near_duplicates"] = near and {
        "audit": near.lists[0],
        "photos": near.n_left_out,
        "without": None if near.evaluation is None else asdict(near.evaluation.accuracy),
        "intervals": None if near.evaluation is None else _intervals(near.evaluation),
        "alone": None if near.alone is None else asdict(near.alone.accuracy),
    }
    return data


def _without_count(figures: Figures | None) -> dict[str, Any] | None:
    # `answered` says nothing where all of them are.
    return None if figures is None else {k: value for k, value in asdict(figures).items() if k != "answered"}


def _drawn(evaluation: Evaluation) -> dict[str, Any]:
    resampling, of = evaluation.config.resampling, "photos" if evaluation.albums is None else "albums"
    return {"level": LEVEL, "draws": resampling.resamples, "seed": resampling.seed, "of": of}


def _intervals(evaluation: Evaluation) -> dict[str, Any] | None:
    ends = evaluation.intervals
    if ends is None:
        return None
    return {**_drawn(evaluation), **_nested({name: [each.low, each.high] for name, each in _flat(ends).items()})}


def _groups(groups: Mapping[str, Figures]) -> list[dict[str, Any]]:
    return [{"name": name, **asdict(figures)} for name, figures in groups.items()]


def _published(benchmark: BenchmarkName) -> dict[str, Any] | None:
    table = TABLES.get(benchmark)
    if table is None:
        return None
    limits = [f"{limit:g}" for limit in PUBLISHED_KM]
    rows = [
        {"method": name, "source": row.source, "within": dict(zip(limits, row.within, strict=True))}
        for name, row in table.rows.items()
    ]
    return {"source": SOURCE, "table": table.number, "title": table.title, "rows": rows}


def _differences(evaluation: Evaluation, against: Comparison) -> dict[str, dict[str, Any]]:
    """What is to say of each figure; keys as `_flat` has them."""
    entries, ours, theirs = {}, _flat(evaluation.accuracy), _flat(against.evaluation.accuracy)
    for name, end in _flat(against.difference).items():
        better = -1 if name.endswith("_km") else 1  # less is better of an error
        sign = (end.low > 0) - (end.high < 0)
        verdict = {0: "not distinguishable", better: "better"}.get(sign, "worse")
        difference = ours[name] - theirs[name]
        entries[name] = {"difference": difference, "low": end.low, "high": end.high, "verdict": verdict}
    return entries


def _flat(figures: Figures | Intervals) -> dict[str, Any]:
    """Figures by name, shares by their distance."""
    return {**{name: getattr(figures, name) for name in _FIGURES}, **figures.within}


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with the shares in one object."""
    within = {name: value for name, value in values.items() if name not in _FIGURES}
    return {**{name: values[name] for name in _FIGURES}, "within": within}


def evaluation_text(evaluation: Evaluation, *, what: str = "") -> str:
    """The same to read: figures, then accuracy beside everything it can be compared with, then parts of the world.

    what: put before everything, such as the name of the run.
    """
    headline, *others = summary(evaluation)
    parts = ["\n".join([f"{f'{what}: ' if what else ''}{headline}", *(f"  {line}" for line in others)])]
    parts.append(accuracy_table(evaluation).text())
    if evaluation.near_duplicates is not None:
        parts.append(near_duplicates_table(evaluation, evaluation.near_duplicates).text())
    if evaluation.reliability is not None:
        parts.append(_confidence(evaluation, evaluation.reliability))
    if evaluation.against is not None:
        parts.append(difference_table(evaluation, evaluation.against).text())
    parts.append(world_table(evaluation, brief=True).text())
    return "\n\n".join(parts)


def summary(evaluation: Evaluation) -> list[str]:
    """The figures over all photos in a line, and what else must be known of them in a line each."""
    n, answered, ends = evaluation.accuracy.n, evaluation.answered, evaluation.intervals
    style = partial(_style, evaluation)
    lines = [f"{n:,} photos, {_in_words(evaluation.accuracy)} of {GEOSCORE_BEST:,.0f}"]
    if ends is not None:
        over = "photos" if evaluation.n_albums is None else f"{evaluation.n_albums:,} albums"
        lines.append(
            f"{_INTERVAL}s over {over}: median {_span(ends.median_km, style('median_km'))} km, mean "
            f"{_span(ends.mean_km, style('mean_km'))} km, GeoScore {_span(ends.geoscore, style('geoscore'))}"
        )
    if answered is None:
        lines.append("no photo has an answer")
    elif answered.n < n:
        lines.append(
            f"{n - answered.n:,} without an answer, which count as misses; among the {answered.n:,} answered: "
            f"{_in_words(answered)}"
        )
    if evaluation.compared_by != "whole name":
        lines.append(f"photos were matched by {evaluation.compared_by}")
    if evaluation.owner_column is not None:
        lines.append(f"gallery photos of a photo's own owner were left out, by its column {evaluation.owner_column}")
    if evaluation.against is not None and evaluation.against.evaluation.owner_column != evaluation.owner_column:
        theirs = evaluation.against.evaluation.owner_column
        by = "all gallery photos" if theirs is None else f"gallery photos but the owner's, by the column {theirs}"
        lines.append(f"{evaluation.against.name} looked at {by}: the two are not the same test")
    if evaluation.unknown_album is not None:
        lines.append(
            f"photos were asked in albums by {evaluation.unknown_album}, a column that the truth does not have: "
            "intervals count photos, and are too narrow; name its column with `album`"
        )
    return lines


def accuracy_table(evaluation: Evaluation) -> Table:
    """Percent of photos within each distance: of all, of parts of them, of another system, of published methods."""
    limits, answered = list(evaluation.accuracy.within), evaluation.answered
    rows = accuracy_rows(evaluation, "all photos")
    if answered is not None and answered.n < evaluation.accuracy.n:
        rows.append(Row([f"answered photos ({answered.n:,})", *_shares(answered.within)]))
    left_out = evaluation.left_out
    if left_out is not None:
        lists, rest = " and ".join(left_out.lists), left_out.evaluation
        if rest is None:
            rows.append(Row([f"without {lists}", "no photo is left"]))
        else:
            rows.append(Row([f"without the {left_out.n_left_out:,} of {lists}", *_shares(rest.accuracy.within)]))
            rows += _interval_row(rest)
    if evaluation.against is not None:
        rows.append(Row([evaluation.against.name, *_shares(evaluation.against.evaluation.accuracy.within)]))
    benchmark = evaluation.config.benchmark_name
    published = None if benchmark is None else TABLES.get(benchmark)
    if published is not None:
        rows.append(Row([f"Table {published.number} of the paper, {published.title}:"]))
        rows += published_rows(published, [float(limit) for limit in limits])
    elif benchmark is not None:
        rows.append(Row([f"The paper has no table of {benchmark}."]))
    notes = [] if evaluation.near_duplicates is not None else [_HOW_TO_AUDIT]
    notes += [] if published is None else published_notes(published)
    return Table(["percent of photos within", *(f"{limit} km" for limit in limits)], rows, notes=notes)


def accuracy_rows(evaluation: Evaluation, name: str) -> list[Row]:
    """The shares within the distances as a main row of a name, and below it their intervals, where there are any."""
    return [Row([name, *_shares(evaluation.accuracy.within)], kind="ours"), *_interval_row(evaluation)]


def published_rows(table: PublishedTable, limits_km: Sequence[float]) -> list[Row]:
    """What others reached within these distances, with the source of figures that are not the paper's own."""
    rows = []
    for method, row in table.rows.items():
        within = dict(zip(PUBLISHED_KM, row.within, strict=True))
        name = f"{method} ({row.source})" if row.others else method
        rows.append(Row([name, *_shares({f"{limit:g}": within.get(limit) for limit in limits_km})], indent=True))
    return rows


def published_notes(table: PublishedTable) -> list[str]:
    """Where the figures of others are from, and where the paper has other ones."""
    used = dict.fromkeys(row.source for row in table.rows.values() if row.others)
    notes = [f"Sources: {'; '.join(f'{source}: {SOURCES[source]}' for source in used)}."] if used else []
    differ = [f"{method} {row.in_the_paper}" for method, row in table.rows.items() if row.in_the_paper]
    return [*notes, *([f"The paper ({SOURCE}) has other figures: {'; '.join(differ)}."] if differ else [])]


def near_duplicates_table(evaluation: Evaluation, near: LeftOut) -> Table:
    """The figures side by side: of all photos, of those without a near-duplicate, and of those with one."""
    heads, columns = [""], []
    for name, part, with_ends in (
        ("all photos", evaluation, True),
        ("without near-duplicates", near.evaluation, True),
        ("near-duplicates alone", near.alone, False),
    ):
        heads.append(name)
        columns.append(_figure_column(part))
        if with_ends and evaluation.intervals is not None:
            heads.append(_INTERVAL)
            columns.append(_interval_column(part))
    names = ["photos", *_FIGURES.values()]
    names += [f"within {limit} km, %" for limit in evaluation.accuracy.within]
    rows = [
        Row(list(cells)) for cells in zip(names, *(column or ["-"] * len(names) for column in columns), strict=True)
    ]
    found = "have a near-duplicate" if evaluation.albums is None else "have a near-duplicate, or whose album has one"
    title = f"With and without {near.n_left_out:,} photos that {found}, by {near.lists[0]}"
    return Table(heads, rows, title)


def _figure_column(part: Evaluation | None) -> list[str]:
    """The figures below each other; empty where there is no photo."""
    if part is None:
        return []
    values = _flat(part.accuracy)
    return [f"{part.accuracy.n:,}", *(f"{value:{_style(part, name)}}" for name, value in values.items())]


def _interval_column(part: Evaluation | None) -> list[str]:
    if part is None or part.intervals is None:
        return []
    return ["", *(_span(ends, _style(part, name)) for name, ends in _flat(part.intervals).items())]


def _interval_row(evaluation: Evaluation) -> list[Row]:
    if evaluation.intervals is None:
        return []
    return [Row([_INTERVAL, *map(_span, evaluation.intervals.within.values())], indent=True)]


def difference_table(evaluation: Evaluation, against: Comparison) -> Table:
    """The figures minus those of another system, with intervals."""
    rows = []
    for name, entry in _differences(evaluation, against).items():
        label, style = _FIGURES.get(name, f"within {name} km, percent points"), _style(evaluation, name)
        difference, low, high = (f"{entry[key]:+{style}}" for key in ("difference", "low", "high"))
        rows.append(Row([label, difference, f"{low} to {high}", entry["verdict"]]))
    draws = evaluation.config.resampling.resamples
    title = f"Against {against.name}, on the same photos (paired bootstrap, {draws:,} draws)"
    return Table(["difference to it", "this - it", _INTERVAL, ""], rows, title)


def radii_table(coverages: Sequence[Coverage]) -> Table:
    """How often radii hold the true place."""
    rows = []
    for each in coverages:
        ends = _span(each.interval, ".1%")
        rows.append(Row([f"{each.promised:.0%} radius", distance_text(each.median_km), f"{each.found:.1%}", ends]))
    return Table(["", "median", "holds the true place", "95 % interval"], rows)


def error_text(reliability: Reliability) -> str:
    """The calibration error, with its interval where there is one."""
    ends = reliability.interval
    return f"{reliability.error:.3f}" + ("" if ends is None else f" ({_span(ends, '.3f')})")


def _confidence(evaluation: Evaluation, reliability: Reliability) -> str:
    kind = "calibrated" if evaluation.calibrated else "not calibrated"
    lines = [
        f"Probabilities ({kind}): the true place lies in the answered cell for {reliability.right:.1%}; calibration "
        f"error {error_text(reliability)}"
    ]
    for row in radii_table(evaluation.coverages).rows:
        name, median, found, ends = row.cells
        lines.append(f"  {name}, median {median}: holds {found} ({ends}) of the true places")
    if evaluation.n_abstained:
        others = evaluation.without_abstained
        rest = "" if others is None else f"; median of the others {distance_text(others.median_km, exact=True)}"
        lines.append(f"  {evaluation.n_abstained:,} answers abstain{rest}")
    return "\n".join(lines)


def world_table(evaluation: Evaluation, *, brief: bool) -> Table:
    """Figures by continent, then by country. brief: the largest countries and the main figures, for a terminal."""
    countries = evaluation.by_country
    shown = dict(list(countries.items())[:_COUNTRIES_SHOWN]) if brief else countries

    def cells(name: str, group: Figures) -> list[str]:
        photos, km = [f"{group.n:,}", f"{group.answered:,}"], [_km(group.median_km), _km(group.mean_km)]
        main = [photos[0], km[0]] if brief else [*photos, *km]
        return [name, *main, f"{group.geoscore:,.0f}", *_shares(group.within)]

    rows = [Row(cells(name, group)) for name, group in evaluation.by_continent.items()]
    rows += [Row(cells(name, group), indent=True) for name, group in shown.items()]
    columns = ["photos", "median km"] if brief else ["photos", "answered", "median km", "mean km"]
    heads = ["by true place", *columns, "GeoScore", *(f"{limit} km" for limit in evaluation.accuracy.within)]
    more, few = len(countries) - len(shown), any(group.n < _FEW for group in shown.values())
    notes = [f"{more} more countries with `json` or `report`."] if more else []
    notes.append(f"A country is that of the nearest city{'; figures over few photos are rough' if few else ''}.")
    return Table(heads, rows, notes=notes)


def _in_words(figures: Figures) -> str:
    median, mean = (distance_text(km, exact=True) for km in (figures.median_km, figures.mean_km))
    return f"median {median}, mean {mean}, GeoScore {figures.geoscore:,.0f}"


def _km(km: float) -> str:
    """An error in a column of kilometres: to the metre below one."""
    return f"{km:{_km_style(km)}}"


def _km_style(km: float) -> str:
    return ",.1f" if km >= STREETS_BELOW_KM else ".3f"


def _style(evaluation: Evaluation, name: str) -> str:
    """How a figure of an evaluation is written, and its ends and differences with it; names as `_flat` has them."""
    if name == "geoscore":
        return ",.0f"
    return _km_style(getattr(evaluation.accuracy, name)) if name in _FIGURES else ".1f"


def _shares(within: Mapping[str, float | None]) -> Iterable[str]:
    return ("-" if share is None else f"{share:.1f}" for share in within.values())


def _span(ends: Interval, style: str = ".1f") -> str:
    return f"{ends.low:{style}} to {ends.high:{style}}"
