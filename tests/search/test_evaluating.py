"""Evaluation from Python: the figures that the command prints, for answers of a run and for answers made here."""

import json
from pathlib import Path

import pytest

from indexer.errors import InputError
from search import EvaluateConfig, RunConfig, RunSpec, evaluate, run
from search.answers.options import SearchOptions
from tests.search.test_commands import search


def test_answers_are_made_judged_and_reported_as_by_the_command(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beam = SearchOptions(mode="beam", probes=1)
    spec = RunSpec(
        registry=world / "R", photos=str(world / "photos.csv"), checkpoint=str(world / "C"), split="a", search=beam
    )
    config, run_config = EvaluateConfig(split="a"), RunConfig(check_recall=10)
    made = evaluate(
        spec,
        world / "photos.csv",
        config=config,
        report=str(tmp_path / "P"),
        out=str(tmp_path / "O"),
        run_config=run_config,
    )
    assert made.run is not None
    assert (made.run.rows, made.run.ok, made.crops) == (4, 3, "one")
    assert "against exact search, on 3 of the queries" in made.text()
    assert (tmp_path / "P" / "report.html").is_file()
    given = ["--registry", world / "R", "--checkpoint", world / "C", "--split", "a", "--mode", "beam", "--probes", 1]
    assert search("evaluate", "--truth", world / "photos.csv", *given, "--check-recall", 10, "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(made.to_dict()))

    kept = evaluate(tmp_path / "O", world / "photos.csv", config=config)
    assert (kept.run, kept.crops) == (None, None)
    assert kept.to_dict().items() <= made.to_dict().items()
    with pytest.raises(InputError, match="exists already"):  # before any work
        evaluate(spec, world / "photos.csv", report=tmp_path / "P", out=tmp_path / "O2")
    assert not (tmp_path / "O2").exists()


def test_vectors_of_the_truth_will_do(world: Path, tmp_path: Path) -> None:
    photos = {"photos": str(world / "photos.csv"), "checkpoint": str(world / "C")}
    run(RunSpec(registry=world / "R", **photos), tmp_path / "O", config=RunConfig(save_features=tmp_path / "F"))
    made = evaluate(RunSpec(registry=world / "R", features=tmp_path / "F"), str(world / "photos.csv"))
    assert made.crops is None
    assert made.evaluation.accuracy == evaluate(tmp_path / "O", world / "photos.csv").evaluation.accuracy
