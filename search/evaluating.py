"""Answers compared with where photos were taken, from Python: what `python -m search evaluate` does and prints."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from encoder.config import CropName
from indexer.disk.artifact import check_target
from indexer.errors import InputError
from indexer.paper import THRESHOLDS_KM
from indexer.photos.sources import PhotoTable
from indexer.vectors.calibration import PROTOCOL_TEXTS
from search.evaluation.evaluate import DEFAULT_EVALUATION, Evaluation, evaluate_predictions
from search.evaluation.evaluation_report import evaluation_data, evaluation_text
from search.evaluation.options import BenchmarkName, EvaluateConfig, Resampling
from search.evaluation.paper_tables import PaperTables, benchmark_folders, missing_benchmarks
from search.evaluation.truth import beside_truth, read_truth, texts_in, write_photos
from search.runs.job import DEFAULT_RUN, run
from search.runs.run_report import RunReport
from search.runs.run_spec import RunConfig, RunSpec


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationReport:
    """What answers are worth, and the run that made them, where they were made to be evaluated."""

    evaluation: Evaluation
    run: RunReport | None = None
    crops: CropName | None = None  # that this run took of each photo; None where it had vectors

    def to_dict(self) -> dict[str, Any]:
        """All figures for JSON: what `python -m search evaluate --json` prints."""
        data = evaluation_data(self.evaluation)
        if self.run is not None:
            recall = None if self.run.recall is None else asdict(self.run.recall)
            data |= {"crops": self.crops, "search": self.run.search, "recall": recall}
        return data

    def text(self) -> str:
        """The same to read, in lines."""
        of = (self.evaluation.config.benchmark_name, self.crops and PROTOCOL_TEXTS[self.crops])
        text = evaluation_text(self.evaluation, what=", ".join(filter(None, of)))
        return text if self.run is None or self.run.recall is None else f"{text}\n\n{self.run.recall}"


def evaluate(
    answers: Path | str | RunSpec,
    truth: Path | str,
    *,
    config: EvaluateConfig = DEFAULT_EVALUATION,
    report: Path | str | None = None,
    out: Path | str | None = None,
    run_config: RunConfig = DEFAULT_RUN,
) -> EvaluationReport:
    """Compare answers with where photos were taken: those of a run, or made here.

    Args:
        answers: predictions folder, or anybody's .parquet or .csv with photo, lat, lng; or how to answer the photos of
            the truth. With a benchmark these are looked for beside it, whatever `photos` and `split` say.
        truth: table of photos with lat and lng, or a folder of photos whose metadata say where they were taken; each
            counts, and no answer is a miss. With a benchmark also the set's own files, or the folder they are in.
        config: what is measured.
        report: folder to write: a page with pictures, and the error of every photo.
        out: predictions folder to write; None: answers made here are not kept.
        run_config: how answers are made here.

    Raises:
        InputError: unreadable tables, an answer off the Earth, names that do not identify a photo, `report` is there
            already, or what `search.run` refuses.
        MissingBackend, WorkError, Stopped: as `search.run`.
    """
    truth = Path(truth)
    if report is not None:
        check_target(Path(report))
    photos = read_truth(truth, benchmark=config.benchmark_name, split=config.split)
    made = _judged(answers, truth, photos, config=config, out=None if out is None else Path(out), run_config=run_config)
    if report is not None:
        from search.pages.evaluation_page import write_evaluation  # matplotlib takes a second

        name = answers.registry if isinstance(answers, RunSpec) else answers
        write_evaluation(made.evaluation, Path(report), title=f"{name} on {config.benchmark_name or truth}")
    return made


@dataclass(frozen=True, slots=True, eq=False)
class TablesReport:
    """What answers to the paper's benchmarks are worth, beside what was published."""

    tables: PaperTables
    reports: Mapping[BenchmarkName, EvaluationReport]  # of each benchmark that is there, in the paper's order

    def to_dict(self) -> dict[str, Any]:
        """All figures for JSON: what `python -m search evaluate --tables --json` prints."""
        benchmarks = {name: report.to_dict() for name, report in self.reports.items()}
        return {"benchmarks": benchmarks, "missing": list(self.tables.missing), "remarks": list(self.tables.remarks)}

    def text(self) -> str:
        """The same to read: Tables I to V, in lines."""
        return self.tables.text()


def evaluate_tables(
    answers: Path | str | RunSpec,
    truth: Path | str,
    *,
    resampling: Resampling = DEFAULT_EVALUATION.resampling,
    report: Path | str | None = None,
    out: Path | str | None = None,
    run_config: RunConfig = DEFAULT_RUN,
) -> TablesReport:
    """Tables I to V of the paper for these answers, as far as the benchmarks are there.

    Args:
        answers: how to answer the photos of each benchmark; or the folder with answers to each: a predictions folder, a
            .parquet or a .csv that is called after it.
        truth: folder with a folder for each benchmark: its own files, as `evaluate` takes them.
        resampling: how photos are drawn for the intervals.
        report: folder to write: the tables as a page, as Markdown and as CSV.
        out: folder for predictions, a folder for each benchmark; None: answers made here are not kept.
        run_config: how answers are made here.

    Raises:
        InputError: no benchmark is there, one is damaged, or as `evaluate`.
        MissingBackend, WorkError, Stopped: as `search.run`.
    """
    truth = Path(truth)
    if report is not None:
        check_target(Path(report))
    there = benchmark_folders(truth)
    # Before hours of work: what is wrong with any of them, and who has answers to it.
    photos = {name: read_truth(folder, benchmark=name) for name, folder in there.items()}
    given = {name: answers if isinstance(answers, RunSpec) else _answers_to(name, Path(answers)) for name in there}
    if isinstance(answers, RunSpec) and answers.photos is not None:
        for name, folder in there.items():
            beside_truth(photos[name], folder)
    reports = {
        name: _judged(
            given[name],
            folder,
            photos[name],
            config=EvaluateConfig(benchmark=name, resampling=resampling, thresholds_km=THRESHOLDS_KM),
            out=None if out is None else Path(out) / name,
            run_config=run_config,
        )
        for name, folder in there.items()
    }
    evaluations = {name: made.evaluation for name, made in reports.items()}
    tables = PaperTables(evaluations, missing_benchmarks(truth, there), _remarks(answers))
    if report is not None:
        from search.pages.tables_page import write_tables

        write_tables(tables, Path(report))
    return TablesReport(tables, reports)


def _remarks(answers: Path | str | RunSpec) -> Sequence[str]:
    if not isinstance(answers, RunSpec) or answers.photos is None:
        return ()
    precision = answers.encoder.precision
    advice = "" if precision == "float32" else ", which may be bfloat16; for figures to publish it is float32"
    by = "by cells alone, as the paper's are."
    if answers.search.gallery != "off":
        by = "by cells and, where the bundle has a gallery, its photos; the paper's are by cells alone (`gallery` off)."
    return (
        f"Of each photo {PROTOCOL_TEXTS[answers.crops]}; precision of the encoder: {precision}{advice}.",
        f"Answers are {by}",
    )


def _answers_to(benchmark: BenchmarkName, folder: Path) -> Path:
    """The answers to a benchmark in a folder. InputError where there are none."""
    for path in (folder / benchmark, *(folder / f"{benchmark}{suffix}" for suffix in (".parquet", ".csv"))):
        if path.exists():
            return path
    raise InputError(
        f"{folder}: no answers to {benchmark} in it, whose photos are there. Call them {benchmark}, "
        f"{benchmark}.parquet or {benchmark}.csv; or move the photos away."
    )


def _judged(
    answers: Path | str | RunSpec,
    truth: Path,
    photos: PhotoTable,
    *,
    config: EvaluateConfig,
    out: Path | None,
    run_config: RunConfig,
) -> EvaluationReport:
    """What `evaluate` does, of photos of the truth that were read."""
    made, crops = None, None
    with tempfile.TemporaryDirectory(prefix="evaluate-") as scratch:
        if isinstance(answers, RunSpec):
            predictions = out or Path(scratch, "predictions")
            if answers.photos is not None and config.benchmark_name is not None:  # a run knows nothing of their layouts
                photos = beside_truth(photos, truth)
                column, owner = answers.owner_column, None
                if column is not None and answers.owner_table is None:
                    whose = texts_in(truth, column, benchmark=config.benchmark_name, split=config.split)
                    owner = column, whose
                table = write_photos(photos, Path(scratch) / "photos.parquet", owner=owner)
                answers = replace(answers, photos=str(table), split=None)
            made = run(answers, predictions, config=run_config)
            crops = None if answers.photos is None else answers.crops
        else:
            predictions = Path(answers)
        evaluation = evaluate_predictions(predictions, truth, photos=photos, config=config)
    return EvaluationReport(evaluation, made, crops)
