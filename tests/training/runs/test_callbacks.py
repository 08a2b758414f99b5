"""Runs that end early, are killed around the end of an epoch, moved, or asked to end: nothing they knew is lost."""

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import lightning
import pytest

from indexer.earth.geo import Accuracy
from indexer.jobs.stopping import Stopped
from tests.training.conftest import EVERY_STEP, changed, check_alike, losses, train
from training.fitting import FitSummary
from training.runs.callbacks import Resumable, best_epoch
from training.runs.module import Epoch, GeoModule

# A rate that rises until it ruins the weights: the best epoch is not the last one.
RUINOUS = changed(
    trainer={"max_epochs": 12, "patience": 2},
    optimizer={"lr": 0.4},
    lr_scheduler={"name": "one_cycle", "warm_up": 1.0},
)


class KilledError(BaseException):
    """As good as SIGKILL: nothing of ours catches it."""


@pytest.fixture(scope="module")
def ruined(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> FitSummary:
    return train(toy, tmp_path_factory.mktemp("ruined") / "C", RUINOUS)


def test_patience_ends_a_run_and_keeps_the_best_epoch(ruined: FitSummary) -> None:
    best = min(ruined.epochs, key=lambda epoch: epoch.validation_loss)
    assert 0 < best.epoch
    assert len(ruined.epochs) < 12
    assert len(ruined.epochs) == best.epoch + 3
    assert ruined.temperatures == pytest.approx(best.temperatures)
    assert ruined.kept == best
    lines = (ruined.checkpoint / "training_log.csv").read_text().splitlines()[1:]
    assert [line.rsplit(",", 1)[1] for line in lines] == [str(int(epoch is best)) for epoch in ruined.epochs]


def test_an_epoch_is_better_by_what_is_monitored() -> None:
    figures = [(3.0, 10.0), (2.0, 40.0), (1.0, 30.0), (1.0, 40.0), (4.0, 20.0)]  # validation loss, percent within 25 km
    epochs = [
        Epoch(number, 0.0, 0.0, [], loss, Accuracy(9, 0.0, 0.0, {"25": share, "200": 100.0 - share}))
        for number, (loss, share) in enumerate(figures)
    ]
    for monitor, best in (("loss", [-1, 0, 1, 2, 2, 2]), ("within_25", [-1, 0, 1, 1, 1, 1])):
        config = changed(trainer={"monitor": monitor})
        modules = [SimpleNamespace(config=config, epochs=epochs[:n]) for n in range(6)]
        assert [best_epoch(module) for module in modules] == best  # type: ignore[arg-type]


def test_a_run_can_be_ended_by_answers_in_place_of_the_loss(
    toy: Path, ruined: FitSummary, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="training.runs.callbacks"):
        summary = train(toy, tmp_path / "C", changed(RUINOUS, trainer={"monitor": "within_25"}))
    shares = [epoch.validation.within["25"] for epoch in summary.epochs]
    told = [line for line in caplog.messages if line.startswith("epoch ")]
    for line, share in zip(told, shares, strict=True):
        assert f"within 25 km {share:.1f} %" in line
    assert summary.kept.epoch == shares.index(max(shares)) == len(shares) - 3
    assert summary.kept.epoch != ruined.kept.epoch
    common = min(len(shares), len(ruined.epochs))
    assert [epoch.loss for epoch in summary.epochs[:common]] == [epoch.loss for epoch in ruined.epochs[:common]]


@pytest.mark.parametrize("kept", [True, False])
def test_a_run_that_is_killed_in_every_epoch_keeps_the_same_best_one(
    toy: Path, ruined: FitSummary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    """And is moved each time. kept: killed right after an epoch was kept, else right before: it is made again."""
    keep = Resumable.on_train_epoch_end
    to_be_killed = True

    def kill(resumable: Resumable, trainer: lightning.Trainer, module: GeoModule) -> None:
        nonlocal to_be_killed
        if kept or not to_be_killed:
            keep(resumable, trainer, module)
        to_be_killed = not to_be_killed
        if kept or not to_be_killed:
            raise KilledError

    monkeypatch.setattr("training.fitting.Resumable.on_train_epoch_end", kill)
    folder, starts = tmp_path / "0", 0
    while True:
        try:
            summary = train(toy, folder / "C", replace(RUINOUS))
            break
        except KilledError:
            starts += 1
            folder = Path(shutil.move(folder, tmp_path / str(starts)))
    assert starts >= len(ruined.epochs)
    assert [epoch.validation_loss for epoch in summary.epochs] == [epoch.validation_loss for epoch in ruined.epochs]
    check_alike(summary.checkpoint.parent, ruined.checkpoint.parent)
    assert not list(summary.checkpoint.parent.glob("*.ckpt"))


@pytest.mark.parametrize(("parts", "step"), [(1, 4), (3, 4), (1, 6)])  # within an epoch; its last batch
def test_a_run_that_is_asked_to_end_keeps_every_batch(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: int, step: int
) -> None:
    config = changed(EVERY_STEP, trainer={"accumulate_grad_batches": parts, "checkpoint_every_n_steps": 1000})
    train(toy, tmp_path / "whole", config)
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr("training.fitting.Reporter.on_train_batch_start", _asking_at(step), raising=False)
        with pytest.raises(Stopped, match=r"C: stopped as asked, and kept after the last batch\. Run the same command"):
            train(toy, tmp_path / "C", config)
    assert signal.getsignal(signal.SIGTERM) == before
    kept = set(losses(tmp_path / "C"))
    assert max(kept) == step - 1
    train(toy, tmp_path / "C", config)
    again = (tmp_path / "C" / "logs" / "1" / "metrics.csv").read_text()
    assert losses(tmp_path / "C") == losses(tmp_path / "whole")
    assert f",{step - 1}," not in again  # no step was made twice


def _asking_at(step: int) -> Callable[..., None]:
    def ask(reporter: object, trainer: lightning.Trainer, *rest: object) -> None:
        if trainer.global_step == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the parts of one batch ask once

    return ask
