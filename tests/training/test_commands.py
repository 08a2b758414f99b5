"""`python -m training fit` as a person uses it: one YAML file, flags that win, errors that name the key."""

import importlib
import json
import re
import shlex
import subprocess
import sys
from dataclasses import is_dataclass
from pathlib import Path

import pytest

from indexer.cells.partition import PartitionRule
from indexer.cli import _parser, main
from tests.training.conftest import SIZE
from training.__main__ import COMMANDS
from training.cells.heads import INITIAL_TEMPERATURE
from training.config import Augmentation, FitConfig, ModelConfig


def fit(*arguments: object) -> int:
    try:
        return main("training", "test", COMMANDS, argv=["fit", *map(str, arguments)])
    except SystemExit as end:
        return int(end.code or 0)


@pytest.fixture
def config(toy: Path, tmp_path: Path) -> Path:
    path = tmp_path / "toy.yaml"
    path.write_text(
        f"hierarchy: {toy / 'H'}\nout: {tmp_path / 'C'}\n"
        f"data: {{photos: {toy / 'photos.parquet'}, batch_size: 30, augmentation: {{brightness: 0.1}}}}\n"
        f"model: {{image_size: {SIZE}, patch_size: 8, hidden_size: 32, layers: 1, heads: 2, mlp_size: 32, width: 8}}\n"
        "optimizer: {lr: 1.0e-3}\nlr_scheduler: {name: one_cycle}\ntrainer: {max_epochs: 3}\n"
    )
    return path


def test_a_file_and_a_flag_make_a_checkpoint(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("--config", config, "--trainer.max_epochs", 2, "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["epochs"], data["train_photos"]) == (2, 90)
    assert data["train_seconds"] > 0
    assert set(data["validation"]["within"]) == {"1", "25", "200", "750", "2500"}
    manifest = json.loads((tmp_path / "C" / "checkpoint" / "manifest.json").read_text())
    assert manifest["config"]["trainer"]["max_epochs"] == 2
    assert manifest["config"]["data"]["augmentation"]["brightness"] == 0.1


def test_a_run_can_be_looked_at_before_it_begins(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("--config", config, "--check") == 0
    said = capsys.readouterr()
    assert "no problem" in said.out
    assert "90 photos to learn from, 30 to measure with" in said.out
    assert fit("--config", config, "--check", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["problems"] == []
    assert data["estimate"]["photos_at_once"] == 30
    assert not (tmp_path / "C").exists()
    options = ("--check", "--hierarchy", tmp_path / "none", "--model.start_from", f"hf:{tmp_path / 'clip'}")
    assert fit("--config", config, *options) == 2
    error = capsys.readouterr().err
    assert "2 problems\n" in error
    assert str(tmp_path / "none") in error
    assert str(tmp_path / "clip") in error


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("max_epochs: 3", "max_epoch: 3", "max_epoch"),
        ("max_epochs: 3", "max_epochs: many", "max_epochs"),
        ("batch_size: 30", "batchsize: 30", "batchsize"),
        ("name: one_cycle", "name: two_cycle", "lr_scheduler"),
        ("hierarchy:", "hierarchi:", "hierarchi"),
        ("max_epochs: 3", "max_epochs: 0", "trainer.max_epochs must be at least 1"),
        ("batch_size: 30", "batch_size: 1", "data.batch_size must be at least 2"),
        ("brightness: 0.1", "zoom: 1.5", "data.augmentation.zoom must be from 0 to 0.99"),
        ("patch_size: 8", "patch_size: 17", "model.patch_size must be from 1 to 16"),
    ],
)
def test_wrong_keys_and_values_are_named(
    config: Path, old: str, new: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(config.read_text().replace(old, new))
    assert fit("--config", config) == 2
    assert message in capsys.readouterr().err


def test_help_answers_without_loading_torch() -> None:
    code = (
        "import sys; sys.argv = ['training', 'fit', '--help']\n"
        "import runpy, contextlib\n"
        "with contextlib.suppress(SystemExit): runpy.run_module('training', run_name='__main__')\n"
        "print(sorted({'torch', 'lightning', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--trainer.max-epochs" in done.stdout
    assert done.stderr == "[]\n"


PAPER = Path(__file__).parents[2] / "configs" / "mp16.yaml"


def test_the_papers_configuration_is_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sections III-C and IV, and what NOTES A2 settles of them; taken as `fit` is given it."""
    given = {}

    def take(hierarchy: Path, out: Path, *, config: FitConfig) -> None:
        given.update(vars(config))

    monkeypatch.setattr("training.fitting.fit", take)
    assert fit("--config", PAPER) == 0
    model, trainer, optimizer = given["model"], given["trainer"], given["optimizer"]
    assert model.start_from == "hf:mp16/clip"
    assert model.trainable_blocks == 1
    fusion = model.fusion
    assert (fusion.kind, fusion.blocks, fusion.classes) == ("steer", 3, 150)
    assert (fusion.width, fusion.latent, fusion.heads) == (128, 64, 16)
    assert ModelConfig().width == 768  # the width of that CLIP's own embedding
    assert (optimizer.lr, optimizer.geocell_lr, optimizer.weight_decay) == (1e-4, 1e-4, 1e-4)
    assert (given["data"].batch_size, given["data"].validation_share) == (1024, 0.01)
    assert (given["lr_scheduler"].name, trainer.patience, given["loss"].negatives) == ("halving", 4, "batch")
    assert (trainer.devices, trainer.precision) == (8, "bf16-mixed")
    # What "Choices" of docs/how-it-works.md says of what the paper leaves open.
    assert given["data"].augmentation == Augmentation(random_crop=True, mirror=True)
    assert (trainer.max_epochs, trainer.monitor, trainer.gradient_clip_val) == (40, "loss", 0)
    assert optimizer.temperature_lr is None
    assert (INITIAL_TEMPERATURE, PartitionRule().tau_min) == (0.07, 50)
    assert PartitionRule().tau_max == (25000, 10000, 5000, 2000, 1000, 750, 500)


def header_commands(file: Path) -> list[list[str]]:
    """The commands in the comment at the head of a configuration, with any one value of each variable of the shell."""
    comment = "\n".join(line[2:] for line in file.read_text().splitlines() if line.startswith("#     "))
    joined = re.sub(r" *\\\n\s*", " ", comment).replace("$((g + 1))", "1").replace("$crops", "ten").replace("$g", "0")
    return [shlex.split(line.partition("python -m ")[2].rstrip("& ")) for line in joined.splitlines() if "-m" in line]


def test_the_papers_commands_parse_and_hand_on_what_they_make(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PAPER.parents[1])
    steps = header_commands(PAPER)
    assert [" ".join(words[:2]) for words in steps] == [
        "encoder convert",
        "indexer partition",
        "encoder segment",
        "training fit",
        "training fit",
        "indexer build",
        "encoder embed",
        "search calibrate",
        "search evaluate",
    ]
    made = {"mp16/photos.csv"}
    for package, *arguments in steps:
        commands = importlib.import_module(f"{package}.__main__").COMMANDS
        given = _parser(package, "", commands).parse_args(arguments)
        assert given is not None
        paths = {word for word in arguments if word.startswith("mp16/") and "benchmark" not in word}
        written = {
            arguments[row + 1] for row, word in enumerate(arguments) if word in ("--out", "--report", "--registry")
        }
        for path in paths - written:
            assert any(path == each or path.startswith(f"{each}/") or each.startswith(f"{path}/") for each in made), (
                path
            )
        made |= written | ({"mp16/run"} if package == "training" else set())
    config = FitConfig.from_yaml(PAPER)
    assert config.model.start_from == "hf:mp16/clip"
    assert str(config.data.segmentation_cache) == "mp16/maps"


@pytest.mark.parametrize(
    ("name", "more", "changed"),
    [
        ("classes", (), {"model.head": "classes", "loss.negatives": "all"}),
        ("levels", (), {"hierarchy": Path("mp16/hierarchy-5")}),
        ("blocks", (), {"model.fusion.blocks": 2}),
        ("blocks", ("--model.fusion.blocks", 1), {"model.fusion.blocks": 1}),
        (
            "blocks",
            ("--model.fusion", "null", "--data.segmentation-cache", "null"),
            {"model.fusion": None, "data.segmentation_cache": None},
        ),
    ],
)
def test_ablations_change_one_thing_of_the_papers_configuration(
    monkeypatch: pytest.MonkeyPatch, name: str, more: tuple[object, ...], changed: dict[str, object]
) -> None:
    """Tables VI to VIII: a second file on top of the first, and what its header says of its own flags."""
    given: list[dict[str, object]] = []

    def flat(values: object, prefix: str = "") -> dict[str, object]:
        if not is_dataclass(values):
            return {prefix: values}
        parts = (flat(value, f"{prefix}.{key}".lstrip(".")) for key, value in vars(values).items())
        return {key: value for part in parts for key, value in part.items()}

    def take(hierarchy: Path, out: Path, *, config: FitConfig) -> None:
        given.append({"hierarchy": hierarchy, "out": out, **flat(config)})

    monkeypatch.setattr("training.fitting.fit", take)
    assert fit("--config", PAPER) == 0
    assert fit("--config", PAPER, "--config", PAPER.with_name(f"mp16-{name}.yaml"), *more) == 0
    plain, ablated = given
    assert {key: ablated[key] for key in changed} == changed
    assert ablated["out"] != plain["out"]
    same = [key for key in plain if key in ablated and plain[key] == ablated[key]]
    rest = {key for key in plain if not any(key == one or key.startswith(f"{one}.") for one in (*changed, "out"))}
    assert rest <= set(same)


def test_the_papers_configuration_reads_a_hierarchy_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = ("--hierarchy", tmp_path / "absent", "--out", tmp_path / "C", "--trainer.accelerator", "cpu")
    assert fit("--config", PAPER, *here) == 2
    assert "not a hierarchy folder" in capsys.readouterr().err


def test_the_demos_configuration_is_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo = Path(__file__).parents[2] / "configs" / "demo.yaml"
    assert fit("--config", demo, "--hierarchy", tmp_path / "absent", "--out", tmp_path / "C") == 2
    assert "not a hierarchy folder" in capsys.readouterr().err
