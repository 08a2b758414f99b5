"""What a run came to, as `_report.json` for programs and `_report.html` for people, beside its rows."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from indexer.disk.artifact import explain_full
from indexer.jobs.job_folder import Job, Mark, totals_of
from indexer.jobs.progress import per_second
from indexer.jobs.stages import Meter
from search.answers.recall import Recall
from search.evaluation.report_table import Row, Table
from search.pages.page import render

REPORT, REPORT_PAGE = "_report.json", "_report.html"
_STEPS = 60  # of the curve of rates, at most


@dataclass(frozen=True, slots=True)
class StageTimes:
    """What a stage did in the latest start."""

    name: str
    rows: int
    busy_s: float
    busy_share: float  # of the start's time
    rows_per_second_at_work: float | None  # None where it did nothing


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast the latest start was, in steps of equal time."""

    minutes: Sequence[float]  # where the steps begin and the last one ends; one more than there are steps
    rows_per_second: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """The figures of a run that has ended. rows = ok + the sum of `failed`, always."""

    options: Mapping[str, Any]  # that decided the rows
    inputs: Mapping[str, str | None]  # name -> digest, None where it is unknown
    rows: int
    ok: int
    failed: Mapping[str, int]  # reason code -> rows
    examples: Mapping[str, Sequence[str]]  # reason code -> name and reason of the first row of that kind
    rows_known: int  # that were done before the latest start
    seconds: float  # that the latest start took, as all that follows is of it
    rows_per_second: float
    slowest_stage: str | None
    stages: Sequence[StageTimes]
    rates: Rates
    search: Mapping[str, Any]  # the mode that answered, and how
    recall: Recall | None = None  # None where it was not asked for, or no row was left to answer

    def to_dict(self) -> dict[str, Any]:
        """As `_report.json` has it."""
        return asdict(self)


def run_report(
    job: Job,
    marks: Iterable[Mark],
    *,
    began_at: float,
    seconds: float,
    known: int,
    stages: Sequence[Meter],
    search: Mapping[str, Any],
    recall: Recall | None = None,
) -> RunReport:
    """The figures of a run that has ended.

    began_at: when its latest start did, in seconds since 1970. seconds: that this start took. known: rows that were
    done before it. stages: of this start. search: what the engine says of its search.
    """
    ordered = sorted(marks, key=lambda mark: mark.ended_at)
    totals = totals_of(ordered)
    new = totals.rows - known
    slowest = max(stages, key=lambda meter: meter.busy_s, default=None)
    return RunReport(
        options=dict(job.options),
        inputs=dict(job.inputs),
        **asdict(totals),
        rows_known=known,
        seconds=seconds,
        rows_per_second=new / seconds if seconds else 0.0,
        slowest_stage=None if slowest is None or not new else slowest.name,
        stages=[
            StageTimes(
                meter.name,
                meter.rows,
                meter.busy_s,
                meter.busy_s / seconds if seconds else 0.0,
                meter.rows / meter.busy_s if meter.busy_s else None,
            )
            for meter in stages
        ],
        rates=_rates([mark for mark in ordered if mark.ended_at >= began_at], began_at),
        search=dict(search),
        recall=recall,
    )


def write_run_report(folder: Path, report: RunReport) -> None:
    """Write both files, in place of those of an earlier start. WorkError where the disk is full."""
    contents = {REPORT: json.dumps(report.to_dict(), indent=1, allow_nan=False), REPORT_PAGE: report_page(report)}
    with explain_full(folder, kept="Every row is kept, only the report is missing"):
        for name, text in contents.items():
            aside = folder / f"{name}.new"
            aside.write_text(text, encoding="utf-8")
            aside.rename(folder / name)


def report_page(report: RunReport) -> str:
    """The page."""
    heads = ["reason", "photos", "the first of them", "what is wrong with it"]
    failures = [
        Row([code, f"{count:,}", *report.examples.get(code, ("", ""))]) for code, count in report.failed.items()
    ]
    stages = [
        Row(
            [
                stage.name,
                f"{stage.rows:,}",
                f"{stage.busy_s:,.1f}",
                f"{stage.busy_share:.0%}",
                "" if stage.rows_per_second_at_work is None else per_second(stage.rows_per_second_at_work),
            ],
            kind="ours" if stage.name == report.slowest_stage else "",
        )
        for stage in report.stages
    ]
    rates = None
    if report.rates.rows_per_second:
        from search.pages.pictures import rate_curve  # matplotlib takes a second, which a start need not wait for

        rates = rate_curve(report.rates.minutes, report.rates.rows_per_second)
    origin = [Row([name, _text(value)]) for name, value in {**report.inputs, **report.options}.items()]
    return render(
        "run.html",
        title="A run of GeoSURGE",
        report=report,
        lasting=_lasting(report.seconds),
        rate=per_second(report.rows_per_second),
        failures=Table(heads, failures, "Without an answer", words=True),
        stages=Table(
            ["stage", "rows", "seconds at work", "of the time", "rate at work"], stages, "Stages of the latest start"
        ),
        rates=rates,
        origin=Table((), origin, "What decided the rows", words=True),
    )


def _text(value: Any) -> str:
    """An option or a digest as people read it."""
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {_text(part)}" for name, part in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_text, value))
    return f"{value:,}" if type(value) is int else "none" if value is None else str(value)


def _lasting(seconds: float) -> str:
    """A time as people read it."""
    minutes, hours = seconds / 60, seconds / 3600
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{minutes:.1f} minutes" if minutes < 120 else f"{hours:,.1f} hours"


def _rates(marks: Sequence[Mark], began_at: float) -> Rates:
    if not marks:
        return Rates([], [])
    ends = np.array([max(mark.ended_at - began_at, 1e-3) for mark in marks])  # clocks have ticks
    steps = min(_STEPS, len(marks))
    edges = np.linspace(0.0, ends[-1], steps + 1)
    # Rows between two edges: a shard's are spread over the time since the one before it.
    done = np.interp(edges, np.concatenate([[0.0], ends]), np.concatenate([[0], np.cumsum([m.rows for m in marks])]))
    return Rates((edges / 60).tolist(), (np.diff(done) / np.diff(edges)).tolist())
