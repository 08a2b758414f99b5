"""Tables I to V of the paper beside one's own answers (section IV-A), as Markdown, as CSV and as tables of a page.

In: a folder with a folder for each benchmark that is there, and evaluations of answers to these. Out: for each of them
the table of what was published (`search.evaluation.published`) with these answers and their intervals first; and for
each of the others where to put it.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from indexer.errors import InputError
from indexer.paper import THRESHOLDS_KM
from search.evaluation.evaluate import Evaluation
from search.evaluation.evaluation_report import accuracy_rows, published_notes, published_rows
from search.evaluation.options import BenchmarkName, benchmark_named
from search.evaluation.published import PUBLISHED_KM, SOURCE, TABLES
from search.evaluation.report_table import Table
from search.evaluation.truth import PUBLISHED_PHOTOS, TRUTH_FILES

_LIMITS = [f"{limit:g}" for limit in PUBLISHED_KM]
_THIS = "this run"
_NEVER_PUBLISHED: BenchmarkName = "gws15k"
assert PUBLISHED_KM == THRESHOLDS_KM  # answers and what was published are counted within the same distances


@dataclass(frozen=True, slots=True, eq=False)
class PaperTables:
    """Answers to those of the paper's benchmarks that are there, beside what was published."""

    evaluations: Mapping[BenchmarkName, Evaluation]  # in the paper's order
    missing: Sequence[str]  # a sentence for each benchmark that is not there
    remarks: Sequence[str] = ()  # how these answers were made, where that must be known

    def tables(self) -> list[Table]:
        """A table for each benchmark that is there."""
        return [_table(name, evaluation) for name, evaluation in self.evaluations.items()]

    def text(self) -> str:
        """All of it to read, in lines."""
        return "\n\n".join([*(table.text() for table in self.tables()), *self._sentences()])

    def markdown(self) -> str:
        """All of it as a Markdown page."""
        return (
            "\n\n".join(["# Tables I to V", *(table.markdown() for table in self.tables()), *self._sentences()]) + "\n"
        )

    def csv(self) -> str:
        """A row for each method of each table: shares in percent, and the 95 % intervals of these answers' own.

        `in_the_paper` has the paper's own five where it has others than the source.
        """
        stream = io.StringIO()
        write = csv.writer(stream, lineterminator="\n").writerow
        ends = [f"{limit}_{end}" for limit in _LIMITS for end in ("low", "high")]
        write(["table", "benchmark", "method", "source", "photos", *_LIMITS, *ends, "in_the_paper"])
        for name, evaluation in self.evaluations.items():
            table, within, intervals = TABLES[name], evaluation.accuracy.within, evaluation.intervals
            spans = [] if intervals is None else [intervals.within[limit] for limit in _LIMITS]
            found = [share for span in spans for share in (f"{span.low:.2f}", f"{span.high:.2f}")]
            shares = [f"{within[limit]:.2f}" for limit in _LIMITS]
            write([table.number, name, _THIS, "", evaluation.accuracy.n, *shares, *(found or [""] * len(ends)), ""])
            for method, row in table.rows.items():
                published = ["" if share is None else f"{share:.1f}" for share in row.within]
                write([table.number, name, method, row.source, "", *published, *[""] * len(ends), row.in_the_paper])
        return stream.getvalue()

    def _sentences(self) -> list[str]:
        return ["\n".join(part) for part in (self.remarks, self.missing) if part]


def benchmark_folders(folder: Path) -> dict[BenchmarkName, Path]:
    """Folders of the paper's benchmarks in one folder, in the paper's order; names in any case, with or without dashes.

    InputError where there is none of them, or two of one benchmark.
    """
    found: dict[BenchmarkName, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        name = _benchmark_of(path)
        if name in found:
            raise InputError(f"{found[name]} and {path} are both {name}. Move one of them away.")
        if name is not None:
            found[name] = path
    if not found:
        where = "\n".join(missing_benchmarks(folder, found))
        raise InputError(f"{folder}: none of the paper's benchmarks is there.\n{where}")
    return {name: found[name] for name in TABLES if name in found}


def missing_benchmarks(folder: Path, there: Mapping[BenchmarkName, Path]) -> list[str]:
    """A sentence for each of the paper's benchmarks that is not there: where to put it."""
    lines = []
    for name, table in TABLES.items():
        if name not in there:
            own = "It was never published: gather your own" if name == _NEVER_PUBLISHED else "Put its photos"
            lines.append(
                f"Table {table.number}, {table.title}, is missing. {own}, with {' or '.join(TRUTH_FILES[name])}, into "
                f"{folder / name}."
            )
    return lines


def _benchmark_of(path: Path) -> BenchmarkName | None:
    """Which of the paper's benchmarks a folder is called after."""
    with suppress(InputError):
        if path.is_dir() and (name := benchmark_named(path.name)) in TABLES:
            return name
    return None


def _table(name: BenchmarkName, evaluation: Evaluation) -> Table:
    published = TABLES[name]
    rows = [*accuracy_rows(evaluation, f"{_THIS}, {evaluation.accuracy.n:,} photos")]
    rows += published_rows(published, PUBLISHED_KM)
    heads = ["percent of photos within", *(f"{limit} km" for limit in _LIMITS)]
    title = f"Table {published.number}, {published.title}"
    notes = [*_other_photos(name, evaluation.accuracy.n), f"The paper: {SOURCE}.", *published_notes(published)]
    return Table(heads, rows, title, notes=notes)


def _other_photos(name: BenchmarkName, n: int) -> list[str]:
    """A sentence where these photos are not those of the published rows."""
    if name == _NEVER_PUBLISHED:
        return ["The set was never published: nobody else's figures are of the same photos."]
    known = PUBLISHED_PHOTOS[name]
    return [] if n == known else [f"Published figures are of {known:,} photos, these of {n:,}: not comparable."]
