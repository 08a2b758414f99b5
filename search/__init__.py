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
    from search.locate import Locator as Locator
    from search.runs.job import RunConfig as RunConfig
    from search.runs.job import run as run
else:
    __getattr__, __dir__, __all__ = lazy(
        __name__,
        {
            "Answer": "search.answers.answer",
            "Locator": "search.locate",
            "PathStep": "search.answers.answer",
            "Place": "search.answers.answer",
            "Reference": "search.answers.answer",
            "RunConfig": "search.runs.job",
            "SearchOptions": "search.answers.options",
            "audit": "search.evaluation.audit",
            "run": "search.runs.job",
        },
    )
