"""Answers compared with where photos were taken, from Python: what `python -m search evaluate` does and prints."""

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from encoder.config import CropName
from indexer.disk.artifact import check_target
from indexer.vectors.calibration import PROTOCOL_TEXTS
from search.evaluation.evaluate import DEFAULT_EVALUATION, Evaluation, evaluate_predictions
from search.evaluation.evaluation_report import evaluation_data, evaluation_text
from search.evaluation.options import EvaluateConfig
from search.evaluation.truth import beside_truth, owners_in, read_truth, write_photos
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
        truth: table of photos with lat and lng; every row counts, and no answer is a miss. With a benchmark also the
            set's own files, or the folder they are in.
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
    with tempfile.TemporaryDirectory(prefix="evaluate-") as scratch:
        if isinstance(answers, RunSpec):
            name, predictions = answers.registry, Path(out or Path(scratch, "predictions"))
            if answers.photos is not None and config.benchmark_name is not None:  # a run knows nothing of their layouts
                photos = beside_truth(photos, truth)
                column, owner = answers.owner_column, None
                if column is not None and answers.owner_table is None:
                    whose = owners_in(truth, column, benchmark=config.benchmark_name, split=config.split)
                    owner = column, whose
                table = write_photos(photos, Path(scratch) / "photos.parquet", owner=owner)
                answers = replace(answers, photos=str(table), split=None)
            made = run(answers, predictions, config=run_config)
            crops = None if answers.photos is None else answers.crops
        else:
            made, crops = None, None
            name = predictions = Path(answers)
        evaluation = evaluate_predictions(predictions, truth, photos=photos, config=config)
    if report is not None:
        from search.pages.evaluation_page import write_evaluation  # matplotlib takes a second

        write_evaluation(evaluation, Path(report), title=f"{name} on {config.benchmark_name or truth}")
    return EvaluationReport(evaluation, made, crops)
