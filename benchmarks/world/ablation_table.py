"""What an ablation came to: each method beside the full one, with intervals, and beside the paper's figures.

In: runs of arms (`benchmarks.world.arms`). Out: rows, in words, and as a picture.

The paper's are Tables VI, VII and VIII of its first arXiv version (2510.01448v1), on IM2GPS (237 photos, so that one
photo is 0.4 points): the method without one of its parts. VI and VII give percent; VIII gives what fusion blocks add to
the method without any. The second version has its ablations on YFCC26k and GWS15k.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from benchmarks.world.arms import Run
from indexer.earth.geo import Accuracy, accuracy
from search.evaluation.bootstrap import Interval, Intervals, paired_intervals
from search.evaluation.options import Resampling
from search.evaluation.published import PUBLISHED_KM

LIMITS = tuple(f"{km:g}" for km in PUBLISHED_KM)
COMPARED = LIMITS[1:]  # a leaf of the embedded world is tens of km wide: who is within 1 km is so by luck

_TITLE = "Points above {}, with 95 % intervals"
_PAPERS = "  the paper's Table"
BETTER, WORSE = "better", "worse"
AS, NOT_AS, OPEN = "as in the paper", "not as in the paper", "not distinguishable"


@dataclass(frozen=True, slots=True)
class AblationTable:
    """One of the paper's tables of ablations."""

    number: str
    title: str
    rows: Mapping[str, tuple[float, ...]]  # by what is varied: for each of PUBLISHED_KM


def _table(number: str, title: str, *rows: tuple[str, tuple[float, ...]]) -> AblationTable:
    return AblationTable(number, title, dict(rows))


_GAINS = ("VIII",)  # whose rows are points above the method with 0 of what is varied
# The full method comes first.
# fmt: off
_ABLATIONS = (
    _table(
        "VI", "Geographic representation: geographic embeddings?",
        ("Yes", (27.0, 54.4, 70.0, 84.4, 93.2)),
        ("No", (22.8, 54.0, 71.3, 83.5, 92.8)),
    ),
    _table(
        "VII", "Hierarchy depth: levels",
        ("7", (27.0, 54.4, 70.0, 84.4, 93.2)),
        ("5", (24.1, 53.2, 68.8, 82.3, 92.4)),
        ("3", (24.0, 51.5, 67.5, 82.2, 92.4)),
        ("1", (17.3, 45.5, 65.4, 82.3, 91.6)),
    ),
    _table(
        "VIII", "Semantic fusion: blocks",
        ("3", (3.9, 2.9, 1.7, 0.9, 0.0)),
        ("2", (2.6, 0.0, 0.5, -0.4, 0.0)),
        ("1", (1.3, 1.2, -0.8, 0.0, -1.2)),
    ),
)
# fmt: on
ABLATIONS = {table.number: table for table in _ABLATIONS}


def against_full(table: AblationTable) -> dict[str, tuple[float, ...]]:
    """For each row of an ablation, and for 0 where the table says it, its points above the full method."""
    rows = {varied: list(within) for varied, within in table.rows.items()}
    if table.number in _GAINS:
        rows["0"] = [0.0] * len(PUBLISHED_KM)
    full = rows[next(iter(table.rows))]
    return {name: tuple(round(a - b, 1) for a, b in zip(row, full, strict=True)) for name, row in rows.items()}


@dataclass(frozen=True, slots=True)
class Method:
    """A row of the table: an arm and a way to answer, and what the paper says of its like."""

    name: str
    arm: str
    way: str
    paper: str | None = None  # which of its tables
    points: Mapping[str, float] | None = None  # above the paper's full method, for each of LIMITS


@dataclass(frozen=True, slots=True)
class MethodResult:
    """What one method came to, beside the one that it is held against."""

    method: Method
    seconds: float  # of training, of processor time, mean over seeds
    accuracy: Accuracy  # over all seeds' answers
    points: Mapping[str, float]  # within a distance, above that one
    intervals: Intervals  # of these and other differences
    verdicts: Mapping[str, str]  # for each of COMPARED: better, worse or not distinguishable
    agreement: Mapping[str, str]  # likewise AS, NOT_AS or OPEN; empty where the paper has no such figure


def compare(
    methods: Sequence[Method], against: Method, runs: Sequence[Run], resampling: Resampling
) -> list[MethodResult]:
    """Hold every method against one of them, photo by photo and seed by seed."""
    theirs = errors_of(against, runs)
    reached = accuracy(theirs.ravel(), PUBLISHED_KM)
    rows = []
    for method in methods:
        errors = errors_of(method, runs)
        ours, ends = accuracy(errors.ravel(), PUBLISHED_KM), paired_intervals(errors, theirs, PUBLISHED_KM, resampling)
        verdicts = {limit: _verdict(ends.within[limit]) for limit in COMPARED}
        published = method.points or {}
        rows.append(
            MethodResult(
                method,
                float(np.mean([run.seconds for run in runs if run.arm == method.arm])),
                ours,
                {limit: ours.within[limit] - reached.within[limit] for limit in LIMITS},
                ends,
                verdicts,
                {limit: _agreement(verdicts[limit], published[limit]) for limit in COMPARED if published},
            )
        )
    return rows


def errors_of(method: Method, runs: Sequence[Run]) -> np.ndarray:
    """A method's errors, one row for each seed in rising order: (S, N) km."""
    mine = sorted((run for run in runs if run.arm == method.arm), key=lambda run: run.seed)
    return np.array([run.errors_km[method.way] for run in mine])


def figures_text(reached: Accuracy, seconds: float) -> str:
    """What a method reached, in a few words."""
    shares = ", ".join(f"{limit} km {reached.within[limit]:.1f} %" for limit in COMPARED)
    return f"median {reached.median_km:.0f} km; {shares}; {seconds:.0f} s of training on one core"


def verdict_text(row: MethodResult) -> str:
    """What follows from the differences, by distance."""
    text = _by_word(row.verdicts, (BETTER, WORSE, OPEN))
    return f"{text}. Table {row.method.paper}: {_by_word(row.agreement, (AS, NOT_AS, OPEN))}" if row.agreement else text


def better_ones(rows: Sequence[MethodResult]) -> list[str]:
    """The methods, and their distances, that are better by more than chance than the one they were held against."""
    found = [(row.method.name, limit) for row in rows for limit in COMPARED if row.verdicts[limit] == BETTER]
    return [f"{name} within {int(limit):,} km" for name, limit in found]


def table(name: str, reached: Accuracy, rows: Sequence[MethodResult]) -> Table:
    """All differences from a method with their intervals, and below each what the paper has, for a terminal."""
    head, *lines = _lines(name, reached, rows)
    result = Table(*head, title=_TITLE.format(_article(name)))
    for line in lines:
        result.add_row(*line, style="dim" if line[0].startswith(_PAPERS) else None)
    return result


def markdown(name: str, reached: Accuracy, rows: Sequence[MethodResult]) -> str:
    """The same as a part of a page."""
    head, *lines = _lines(name, reached, rows)
    written = [" | ".join(line) for line in (head, ["---"] * len(head), *lines)]
    cells = "".join(f"| {line} |\n" for line in written)
    return f"# {_TITLE.format(_article(name))}\n\n{cells}"


def _article(name: str) -> str:
    return f"the {name}" if name.endswith("method") else name


def _lines(name: str, reached: Accuracy, rows: Sequence[MethodResult]) -> list[list[str]]:
    """The table's cells, the heading first, then the method that the others are held against."""
    lines = [
        ["", "median", *(f"within {int(limit):,} km" for limit in COMPARED)],
        [name, f"{reached.median_km:.0f} km", *(f"{reached.within[limit]:.1f} %" for limit in COMPARED)],
    ]
    for row in rows:
        cells = [f"{row.points[limit]:+.1f} {_interval(row, limit)} {row.verdicts[limit]}" for limit in COMPARED]
        lines.append([row.method.name, f"{row.accuracy.median_km:.0f} km", *cells])
        if row.method.points is not None:
            agreed = {limit: "" if row.agreement[limit] == OPEN else f": {row.agreement[limit]}" for limit in COMPARED}
            points = [f"{row.method.points[limit]:+.1f}{agreed[limit]}" for limit in COMPARED]
            lines.append([f"{_PAPERS} {row.method.paper}", "", *points])
    return lines


def draw(rows: Sequence[MethodResult]) -> bytes:
    """PNG: for each distance, how far each method lies from the full one, with its interval, and what the paper has."""
    with rc_context({"font.family": "DejaVu Sans", "font.size": 9}):
        figure = Figure(figsize=(11.0, 1.6 + 0.36 * len(rows)), layout="constrained")
        panels = figure.subplots(1, len(COMPARED), sharey=True)
        for axes, limit in zip(panels, COMPARED, strict=True):
            _draw_distance(axes, rows, limit)
        panels[0].set_yticks(range(len(rows)), [row.method.name for row in rows])
        panels[0].invert_yaxis()
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
        figure.suptitle(_TITLE.format("the full method"))
        FigureCanvasAgg(figure)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=130, metadata={"Software": None})
    return stream.getvalue()


def _draw_distance(axes: Axes, rows: Sequence[MethodResult], limit: str) -> None:
    at, middle = np.arange(len(rows)), np.array([row.points[limit] for row in rows])
    ends = np.array([(row.intervals.within[limit].low, row.intervals.within[limit].high) for row in rows])
    published = [(row.method.points[limit], number) for number, row in enumerate(rows) if row.method.points is not None]
    axes.axvline(0, color="#595959", linewidth=0.8)
    here: dict[str, Any] = {
        "color": "#0072b2",
        "fmt": "o",
        "markersize": 4,
        "capsize": 2,
        "label": "here, with 95 % interval",
    }
    axes.errorbar(middle, at, xerr=np.abs(ends.T - middle), **here)
    there: dict[str, Any] = {
        "color": "#d55e00",
        "markerfacecolor": "none",
        "markersize": 5,
        "label": "the paper, on photos of its own",
    }
    axes.plot(*zip(*published, strict=True), "D", **there)
    axes.set_title(f"within {int(limit):,} km", fontsize=9)
    axes.set_xlabel("percentage points")
    axes.grid(axis="x", color="#d9d9d9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _interval(row: MethodResult, limit: str) -> str:
    ends = row.intervals.within[limit]
    return f"({ends.low:+.1f} to {ends.high:+.1f})"


def _by_word(by_distance: Mapping[str, str], words: Sequence[str]) -> str:
    where = {word: [limit for limit in COMPARED if by_distance[limit] == word] for word in words}
    return "; ".join(f"{word} at {', '.join(limits)} km" for word, limits in where.items() if limits)


def _verdict(ends: Interval) -> str:
    return BETTER if ends.low > 0 else WORSE if ends.high < 0 else OPEN


def _agreement(verdict: str, points: float) -> str:
    """Whether a difference has the sign of the paper's; where that is none, any difference is not as in the paper."""
    if verdict == OPEN:
        return OPEN
    return AS if (points > 0) == (verdict == BETTER) and points else NOT_AS
