"""What comparisons have in common: parts of a hierarchy, errors as validation has them, runs in any state."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from benchmarks.world.arms import Arm, ComparisonPreset, Run, Stage, errors_km, learnt, make_runs, vectors_of
from benchmarks.world.generator import WorldConfig
from encoder.photos.crops import normalise
from training.cells.heads import GeocellHead
from training.runs.inputs import build_encoder

TINY = ComparisonPreset(WorldConfig(n_train=60, n_validation=20, n_test=15), (30, 20, 10), 1, epochs=1)


@pytest.fixture(scope="module")
def stage(small_demo: None, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(TINY, tmp_path_factory.mktemp("stage") / "world")


def test_some_levels_are_those_of_the_whole_hierarchy(stage: Stage) -> None:
    whole, part = stage.hierarchy(), stage.hierarchy((0, 2))
    assert [level.keys.tolist() for level in part.levels] == [whole.levels[level].keys.tolist() for level in (0, 2)]
    np.testing.assert_array_equal(part.ancestors, whole.ancestors[:, [0, 2]])


def test_errors_are_those_that_validation_found(stage: Stage) -> None:
    """On the validation photos, where the training loop has measured with the same weights."""
    torch.manual_seed(0)
    encoder = build_encoder(stage.settings.model)
    head = GeocellHead(stage.hierarchy(), stage.settings.model.width, negatives="all", seed=0)
    module, seconds = learnt(encoder, head, stage.sets, stage.settings)
    validation = stage.sets["validation"]
    errors = errors_km(module, validation)
    assert seconds > 0
    assert float(np.median(errors)) == pytest.approx(module.epochs[-1].validation.median_km, rel=1e-6)
    assert float(errors.mean()) == pytest.approx(module.epochs[-1].validation.mean_km, rel=1e-6)
    with torch.inference_mode():
        expected = encoder(normalise(validation.pixels, encoder.preprocessing), validation.class_maps)
    torch.testing.assert_close(normalize(vectors_of(encoder, validation), dim=-1), expected, atol=1e-5, rtol=1e-4)


@dataclass(frozen=True)
class Doubling(Arm):
    times: float = 2.0


def test_runs_are_made_once_and_whole_tables_come_first(
    stage: Stage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[tuple[str, int]] = []

    def learn(arm: Doubling, seed: int, stage: Stage) -> Run:
        made.append((arm.name, seed))
        if made == [("one, plain", 0), ("two", 0), ("one, plain", 1)]:
            raise KeyboardInterrupt
        return Run(arm.name, seed, 1.5, {"answer": arm.times * np.arange(3.0)})

    arms = [Doubling("one, plain"), Doubling("two", times=3.0)]
    with pytest.raises(KeyboardInterrupt):
        make_runs(arms, (0, 1), stage, tmp_path / "runs", learn)
    with caplog.at_level(logging.INFO, logger="benchmarks"):
        runs = make_runs(arms, (0, 1), stage, tmp_path / "runs", learn)
    assert made == [("one, plain", 0), ("two", 0), ("one, plain", 1), ("one, plain", 1), ("two", 1)]
    assert [(run.arm, run.seed, run.seconds) for run in runs] == [
        (arm, seed, 1.5) for seed in (0, 1) for arm in ("one, plain", "two")
    ]
    np.testing.assert_array_equal(runs[1].errors_km["answer"], [0.0, 3.0, 6.0])
    assert "2 of 4 runs are there already" in caplog.text
    assert "minutes left" in caplog.text
    # Another value of a field is another run, though its name is the same.
    made.clear()
    make_runs([replace(arms[0], times=5.0)], (0,), stage, tmp_path / "runs", learn)
    assert made == [("one, plain", 0)]
