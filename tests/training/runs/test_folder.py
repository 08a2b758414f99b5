"""The folder of a run: it says what made it, goes on with its own run alone, and is one process's at a time."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from indexer.disk.manifest import file_digest, manifest_digest
from indexer.errors import InputError
from tests.training.conftest import LEARN, changed, interrupted, train
from training.config import Augmentation
from training.fitting import fit
from training.runs.folder import RunFolder


def test_a_run_folder_says_what_made_it(undisturbed: Path, toy: Path) -> None:
    facts = json.loads((undisturbed / "run.json").read_text())
    assert facts["options"]["trainer"]["max_epochs"] == 2
    assert facts["inputs"]["photos"] == file_digest(toy / "photos.parquet")
    assert {"geosurge", "torch", "lightning", "transformers", "numpy"} <= set(facts["made_by"])
    assert list((undisturbed / "logs" / "0").glob("events.out.tfevents.*"))
    rows = list(csv.DictReader((undisturbed / "logs" / "0" / "metrics.csv").read_text().splitlines()))
    assert len([row for row in rows if row["validation_loss"]]) == 2
    # The options are a configuration that makes the same run again.
    repeated = yaml.safe_load((undisturbed / "config.yaml").read_text())
    assert repeated == facts["options"]


def test_a_finished_run_and_one_of_other_options_are_refused(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("training.fitting.save_checkpoint", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(toy, tmp_path / "C", changed(trainer={"max_epochs": 1}))
    for name, config in (
        ("optimizer.lr 0.003, this one has 0.002", changed(trainer={"max_epochs": 1}, optimizer={"lr": 2e-3})),
        ("trainer.max_epochs 1, this one has 2", changed(trainer={"max_epochs": 2})),
        ("data.augmentation.shift 0.0, this one has 0.1", changed(data={"augmentation": Augmentation(shift=0.1)})),
    ):
        with pytest.raises(InputError, match=f"began with {name}"):
            train(toy, tmp_path / "C", config)
    # Where it runs and how many processes decode changes nothing.
    train(toy, tmp_path / "C", changed(trainer={"max_epochs": 1, "accelerator": "auto"}, data={"workers": 1}))
    with pytest.raises(InputError, match="this run has ended; its result is"):
        train(toy, tmp_path / "C", changed(trainer={"max_epochs": 1}))


def test_photos_that_changed_under_a_run_are_refused(toy: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(toy, tmp_path / "toy"))
    run = RunFolder(tmp_path / "C")
    with run.begun(run.facts(folder / "H", LEARN, {"photos": "a" * 64})):
        pass
    with pytest.raises(InputError, match=r"its run began with photos aaaa.*this one has bbbb"):
        run.begun(run.facts(folder / "H", LEARN, {"photos": "b" * 64})).__enter__()


def test_one_process_trains_in_a_folder(toy: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "C")
    config = changed(trainer={"max_epochs": 1}, data={"photos": str(toy / "photos.parquet")})
    inputs = {"photos": file_digest(toy / "photos.parquet"), "hierarchy": manifest_digest(toy / "H")}
    facts = run.facts(toy / "H", config, inputs | {"maps": None, "start_from": None})
    with run.begun(facts), pytest.raises(InputError, match="another process is training in this folder"):
        train(toy, tmp_path / "C", config)
    assert train(toy, tmp_path / "C", config).checkpoint.is_dir()


def test_a_folder_of_other_things_is_left_alone(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("x")
    with pytest.raises(InputError, match="exists already"):
        train(toy, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["diary.txt"]


def test_another_run_is_refused_before_photos_are_read(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = changed(trainer={"max_epochs": 1})
    folder = interrupted(toy, tmp_path / "C", config)
    monkeypatch.setattr("training.runs.inputs.open_half", lambda *_, **__: pytest.fail("it read"))
    with pytest.raises(InputError, match="began with seed_everything 0, this one has 1"):
        train(toy, folder, replace(config, seed_everything=1))
    facts = json.loads((folder / "run.json").read_text())
    with RunFolder(folder).begun(facts), pytest.raises(InputError, match="another process is training"):
        train(toy, folder, config)


def test_a_run_goes_on_with_a_hierarchy_elsewhere_and_tells_of_other_code(
    toy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A digest says that it is the same one."""
    config = changed(trainer={"max_epochs": 1})
    folder = interrupted(toy, tmp_path / "C", config)
    facts = json.loads((folder / "run.json").read_text())
    facts["made_by"]["torch"] = "1.0"
    (folder / "run.json").write_text(json.dumps(facts))
    shutil.copytree(toy / "H", tmp_path / "elsewhere")
    data = replace(config.data, photos=str(toy / "photos.parquet"))
    summary = fit(tmp_path / "elsewhere", folder, config=replace(config, data=data))
    assert summary is not None
    assert f"the run began under other code: torch 1.0, now {torch.__version__.split('+')[0]}" in caplog.text
