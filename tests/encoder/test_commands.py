"""`python -m encoder` as a person uses it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from encoder.__main__ import COMMANDS
from indexer.cli import main
from indexer.vectors.features import read_features
from tests.encoder.conftest import natural
from tests.text_clips import save_text_clip


def embed(*arguments: object) -> int:
    try:
        return main("encoder", "test", COMMANDS, argv=["embed", *map(str, arguments)])
    except SystemExit as end:
        return int(end.code or 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "P").mkdir()
    for row in range(3):
        natural(40, 40, seed=row).save(tmp_path / "P" / f"{row}.jpg")
    return tmp_path / "P"


def test_a_folder_of_images_becomes_vectors(folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder.parent / "F"
    assert embed("--photos", folder, "--checkpoint", checkpoint, "--out", out, "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["rows"], data["ok"], data["failed"]) == (3, 3, {})
    assert (out / "part-00000.parquet").is_file()


def test_a_plain_clip_will_do(folder: Path, clip_folder: Path) -> None:
    out = folder.parent / "F"
    assert embed("--photos", folder, "--checkpoint", f"hf:{clip_folder}", "--out", out) == 0


def test_bad_photos_are_reported_and_strict_makes_them_a_failure(
    folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "1.jpg").write_bytes((folder / "1.jpg").read_bytes()[:200])
    common = ["--photos", folder, "--checkpoint", checkpoint]
    assert embed(*common, "--out", folder.parent / "F1") == 0
    assert "2 ok, failed: 1 damaged" in capsys.readouterr().out
    assert embed(*common, "--out", folder.parent / "F2", "--strict") == 1
    for row in range(3):
        (folder / f"{row}.jpg").write_bytes(b"")
    assert embed(*common, "--out", folder.parent / "F3") == 1


def test_wrong_input_is_exit_2(folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = [
        (["--photos", folder, "--checkpoint", checkpoint, "--out", folder], "exists already"),
        (["--photos", folder.parent / "no.csv", "--checkpoint", checkpoint, "--out", folder.parent / "F"], "no such"),
        (["--photos", folder, "--checkpoint", folder, "--out", folder.parent / "F"], "not a checkpoint"),
        (["--photos", folder, "--checkpoint", checkpoint, "--out", folder / "0.jpg" / "F"], "cannot be written"),
    ]
    if not torch.cuda.is_available():
        common = ["--photos", folder, "--checkpoint", checkpoint, "--out", folder.parent / "F"]
        cases.append(([*common, "--device", "cuda"], "no CUDA device"))
    for arguments, message in cases:
        assert embed(*arguments) == 2
        assert message in capsys.readouterr().err
    assert not (folder.parent / "F").exists()


def test_what_pillow_warns_of_neither_costs_a_photo_nor_reaches_the_terminal(
    folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Warnings are errors in these tests: one that got through would turn its photo into a damaged one."""
    natural(40, 30).save(folder / "exif.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff broken")
    Image.new("1", (9500, 9500)).save(folder / "huge.png")  # more than Pillow likes, less than it refuses
    common = ["--photos", folder, "--checkpoint", checkpoint, "--out", folder.parent / "F", "--json"]
    assert embed(*common, "--max-pixels", 1_000_000) == 0
    printed = capsys.readouterr()
    data = json.loads(printed.out)  # and nothing else is there
    assert (data["ok"], data["failed"]) == (4, {"too_large": 1})
    assert "Warning" not in printed.err


def test_help_answers_without_loading_torch() -> None:
    code = (
        "import sys; sys.argv = ['encoder', 'embed', '--help']\n"
        "import runpy, contextlib\n"
        "with contextlib.suppress(SystemExit): runpy.run_module('encoder', run_name='__main__')\n"
        "print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--checkpoint" in done.stdout
    assert done.stderr == "[]\n"


def test_names_become_vectors_by_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_text_clip(tmp_path / "C")
    (tmp_path / "names.csv").write_text("name,country\nFR,France\nOM,Oman\n")
    (tmp_path / "prompts.txt").write_text("A photo in {country}.\nIn {country}\n")
    common = ["--texts", tmp_path / "names.csv", "--checkpoint", f"hf:{tmp_path / 'C'}"]
    assert embed(*common, "--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "F", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["rows"], data["texts"], data["embedded_before"]) == (2, 4, 0)
    assert list(read_features(tmp_path / "F").photo) == ["FR", "OM"]
    assert embed(*common, "--out", tmp_path / "F2") == 0
    assert "2 names, 0 of them embedded before, by 2 texts" in capsys.readouterr().out
    for wrong, message in [
        ([*common, "--photos", tmp_path], "Give one of --photos and --texts"),
        (["--checkpoint", "hf:x"], "Give one of --photos and --texts"),
        (["--photos", tmp_path, "--checkpoint", "hf:x", "--prompts", "p.txt"], "--prompts goes with --texts"),
        ([*common, "--crops", "ten"], "--crops: goes with --photos, not with --texts"),
    ]:
        assert embed(*wrong, "--out", tmp_path / "F3") == 2
        assert message in capsys.readouterr().err
