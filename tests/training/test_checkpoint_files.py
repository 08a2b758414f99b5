"""What an unfinished run goes on with: whole at every moment, on whatever disk the system's temporary folder lies."""

from pathlib import Path

import pytest
import torch

from indexer.errors import ArtifactError, WorkError
from tests.kills import KILLED, die_after, fork
from training.runs.callbacks import CheckpointFiles

FILES = CheckpointFiles()


def save(folder: str, number: int) -> None:
    FILES.save_checkpoint({"number": number, "weights": torch.full((1000,), float(number))}, Path(folder) / "x.ckpt")


def dying(folder: str, number: int, changes: int) -> None:
    die_after(changes)
    save(folder, number)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    save(str(tmp_path), 3)
    found = FILES.load_checkpoint(tmp_path / "x.ckpt")
    assert found["number"] == 3
    assert torch.equal(found["weights"], torch.full((1000,), 3.0))
    FILES.remove_checkpoint(tmp_path / "x.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_a_kill_leaves_the_file_before_or_the_new_one(tmp_path: Path) -> None:
    """After each number of changes to the disk that a save makes."""
    save(str(tmp_path), 1)
    for changes in range(100):
        process = fork(dying, str(tmp_path), 2, changes)
        process.join()
        assert FILES.load_checkpoint(tmp_path / "x.ckpt")["number"] in (1, 2)
        if process.exitcode != KILLED:
            assert process.exitcode == 0
            break
    else:
        pytest.fail("it was killed every time")
    assert changes > 3
    save(str(tmp_path), 4)
    assert [file.name for file in tmp_path.iterdir()] == ["x.ckpt"]  # what the killed left is cleared away


def test_nothing_that_runs_code_is_loaded(tmp_path: Path) -> None:
    torch.save({"path": tmp_path}, tmp_path / "x.ckpt")
    with pytest.raises(ArtifactError, match=r"x\.ckpt: damaged or missing"):
        FILES.load_checkpoint(tmp_path / "x.ckpt")


def test_a_full_disk_leaves_the_file_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(str(tmp_path), 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.runs.callbacks.torch.save", full)
    with pytest.raises(WorkError, match=r"no space left\. What the run had kept before is still there"):
        save(str(tmp_path), 2)
    assert FILES.load_checkpoint(tmp_path / "x.ckpt")["number"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["x.ckpt"]
