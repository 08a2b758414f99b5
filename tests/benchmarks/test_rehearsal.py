"""The configuration's commands run as they stand in its header, but for one list of changes."""

import re
import subprocess
import tarfile
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.world.generator import WorldConfig
from benchmarks.world.miniature import make
from benchmarks.world.rehearsal import (
    COMMANDS,
    CONFIGURATION,
    FULL,
    SMALL,
    Change,
    changed,
    changes,
    rehearse,
    script_of,
    steps_of,
    traced,
)
from encoder.models.pickled_weights import convert
from indexer.errors import WorkError
from indexer.photos.sources import read_photos

# What may differ from the configuration: names of models, sizes, taus, epochs, workers, devices and their precision.
_ALLOWED = {
    *("--tau-max", "--tau-min", "--data.batch_size", "--data.validation_share", "--data.workers"),
    *("--trainer.max_epochs", "--trainer.accelerator", "--trainer.devices", "--trainer.precision"),
}


def dry(script: str) -> list[str]:
    """The commands that a shell would run, where `python` does nothing."""
    # In the foreground: traces of what runs at the same time come in any order.
    quiet = f"python() {{ :; }}; set -x\n{script.replace(' &', ' ;').replace('; ;', ';')}"
    done = subprocess.run(["bash", "-c", quiet], capture_output=True, text=True, check=True)
    return traced(done.stderr)


def test_the_header_is_a_script_whose_steps_are_its_commands() -> None:
    script = script_of(CONFIGURATION.read_text())
    steps = steps_of(script)
    assert "".join(steps) == script
    assert steps[0].startswith("python -m encoder convert")
    ran = [command for step in steps for command in dry(step)]
    assert ran == dry(script)
    packages = {command.split()[2] for command in ran}
    assert packages == {"encoder", "indexer", "search", "training"}
    assert len([command for command in ran if " segment " in command]) == 8
    assert not re.search(r"[$]", "".join(ran))


@pytest.mark.parametrize("preset", [FULL, SMALL])
def test_changes_are_of_sizes_and_models_alone(preset: object) -> None:
    script = script_of(CONFIGURATION.read_text())
    made = changes(preset)  # type: ignore[arg-type]
    here = dry(changed(script, made))
    there = dry(script)
    # The parts of the maps apart, every command is there, with all options and paths that it has in the configuration.
    parts = [[command for command in each if " segment " not in command] for each in (here, there)]
    assert len(parts[0]) == len(parts[1])
    models = {change.old: change.new for change in made if change.new.startswith("hub/")}
    assert len(models) == 2
    for ran, shown in zip(*parts, strict=True):
        words = ran.split()
        kept = [word for before, word in zip(["", *words], words, strict=False) if not {before, word} & _ALLOWED]
        assert kept == [models.get(word, word) for word in shown.split()]


def test_a_configuration_that_has_changed_is_noticed() -> None:
    with pytest.raises(WorkError, match="no longer has 'other'"):
        changed("python -m indexer build", [Change("other", "new", "why")])


def test_only_commands_of_this_project_are_kept_of_a_trace() -> None:
    trace = "+ for g in 0 1\n+ python -m a b --c 'd e'\n++ X=1 Y= python -m f\n+ echo python -m g\n+ wait\n"
    assert traced(trace) == ["python -m a b --c 'd e'", "python -m f"]


def test_the_miniature_is_in_the_formats_of_what_it_stands_for(tmp_path: Path) -> None:
    make(tmp_path, WorldConfig(n_train=30, n_validation=1, n_test=12))
    table = read_photos(tmp_path / "mp16" / "photos.csv", coordinates=True)
    shards = read_photos(f"{tmp_path}/mp16/{{0000..0001}}.tar", coordinates=True)
    assert len(table) == len(shards) == 30
    assert sorted(table.lat_deg) == pytest.approx(sorted(shards.lat_deg))
    by_file = {(tmp_path / "mp16" / name).read_bytes() for name in table.photo}
    with tarfile.open(tmp_path / "mp16" / "0000.tar") as tar:
        member = tar.extractfile(tar.getnames()[0])
        assert member is not None
        assert member.read() in by_file
    assert convert(tmp_path / "hub" / "clip", tmp_path / "clip") > 0


@pytest.mark.slow
def test_the_configuration_runs_from_its_first_command_to_its_last(tmp_path: Path) -> None:
    out = tmp_path / "rehearsal"
    ran = rehearse(SMALL, out, Console())
    assert (out / COMMANDS).read_text().splitlines() == ran
    expected = dry(changed(script_of(CONFIGURATION.read_text()), changes(SMALL)))
    # Training was begun twice, by the same command; parts of the maps were made at the same time.
    train = next(command for command in expected if " fit " in command and "--check" not in command)
    assert sorted(ran) == sorted([*expected, train])
    assert [each for each in ran if " segment " not in each and each != train] == [
        each for each in expected if " segment " not in each and each != train
    ]
