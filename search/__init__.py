"""Where photos were taken: querying, offline jobs, calibration, evaluation, explanations."""

from typing import TYPE_CHECKING

from indexer.doors import lazy

if TYPE_CHECKING:
    from search.answers.answer import Answer as Answer
    from search.answers.answer import PathStep as PathStep
    from search.answers.answer import Place as Place
    from search.answers.answer import Reference as Reference
    from search.answers.options import SearchOptions as SearchOptions
    from search.evaluation.audit import audit as audit
    from search.evaluation.calibrate import calibrate as calibrate
    from search.evaluation.evaluate import evaluate as evaluate
    from search.evaluation.options import AuditConfig as AuditConfig
    from search.evaluation.options import CalibrateConfig as CalibrateConfig
    from search.evaluation.options import EvaluateConfig as EvaluateConfig
    from search.locate import Locator as Locator
    from search.runs.job import run as run
    from search.runs.run_spec import RunConfig as RunConfig
    from search.runs.run_spec import RunSpec as RunSpec
else:
    __getattr__, __dir__, __all__ = lazy(
        __name__,
        {
            "Answer": "search.answers.answer",
            "AuditConfig": "search.evaluation.options",
            "CalibrateConfig": "search.evaluation.options",
            "EvaluateConfig": "search.evaluation.options",
            "Locator": "search.locate",
            "PathStep": "search.answers.answer",
            "Place": "search.answers.answer",
            "Reference": "search.answers.answer",
            "RunConfig": "search.runs.run_spec",
            "RunSpec": "search.runs.run_spec",
            "SearchOptions": "search.answers.options",
            "audit": "search.evaluation.audit",
            "calibrate": "search.evaluation.calibrate",
            "evaluate": "search.evaluation.evaluate",
            "run": "search.runs.job",
        },
    )
