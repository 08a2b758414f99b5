"""Pickled weights become safetensors, and nothing else in a pickle is ever loaded."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from transformers import CLIPModel

from encoder.__main__ import COMMANDS
from encoder.models.checkpoint import WEIGHTS_FILE, load_encoder
from encoder.models.pickled_weights import convert, pickled_tensors
from indexer.cli import main
from indexer.errors import InputError
from tests.encoder.conftest import EDGE


@pytest.fixture
def pickled(clip: CLIPModel, clip_folder: Path, tmp_path: Path) -> Path:
    """A CLIP as the hub had them before safetensors."""
    folder = tmp_path / "pickled"
    shutil.copytree(clip_folder, folder)
    (folder / WEIGHTS_FILE).unlink()
    torch.save(clip.state_dict(), folder / "pytorch_model.bin")
    return folder


def test_converted_weights_give_the_same_vectors(pickled: Path, clip_folder: Path, tmp_path: Path) -> None:
    arguments = ["convert", "--model", str(pickled), "--out", str(tmp_path / "out")]
    assert main("encoder", "test", COMMANDS, argv=arguments) == 0
    pixels = torch.randn(2, 3, EDGE, EDGE)
    ours, theirs = (load_encoder(f"hf:{folder}").model(pixels) for folder in (tmp_path / "out", clip_folder))
    assert torch.equal(ours, theirs)


def test_shared_and_wrapped_weights_are_understood(pickled: Path, clip: CLIPModel, tmp_path: Path) -> None:
    weights = dict(clip.state_dict())
    weights["text_projection.weight"] = weights["visual_projection.weight"]  # one memory, two names
    torch.save({"state_dict": weights, "step": 7}, pickled / "w.pt")
    assert convert(pickled, str(tmp_path / "out"), weights="w.pt") == len(weights)
    assert not list((tmp_path / "out").glob("*.pt"))


def test_a_single_tensor_has_the_name_that_it_is_given(tmp_path: Path) -> None:
    torch.save(torch.nn.Parameter(torch.tensor(3.5)), tmp_path / "scale.pth")
    (tensor,) = pickled_tensors(tmp_path / "scale.pth", single="scale").values()
    assert (float(tensor), tensor.requires_grad) == (3.5, False)
    with pytest.raises(InputError, match="no table of named tensors"):
        pickled_tensors(tmp_path / "scale.pth")


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("stolen",)


def test_code_in_a_pickle_is_not_run(pickled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": torch.zeros(2), "more": Evil()}, pickled / "pytorch_model.bin")
    with pytest.raises(InputError, match="holds more than weights"):
        convert(str(pickled), tmp_path / "out")
    assert not (tmp_path / "stolen").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"text"])
def test_a_damaged_pickle_is_a_clean_error(pickled: Path, tmp_path: Path, content: bytes) -> None:
    (pickled / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as weights"):
        convert(str(pickled), tmp_path / "out")


def test_what_is_no_table_of_tensors_is_refused(pickled: Path, tmp_path: Path) -> None:
    for content in ({"epoch": 3}, [torch.zeros(2)], {}):
        torch.save(content, pickled / "pytorch_model.bin")
        with pytest.raises(InputError, match="no table of named tensors"):
            convert(str(pickled), tmp_path / "out")


def test_a_pickle_that_is_not_there_is_named(pickled: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no w\.pt"):
        convert(str(pickled), tmp_path / "out", weights="w.pt")


def test_safetensors_need_no_conversion(clip_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no pytorch_model\.bin, but model\.safetensors: there is nothing to convert"):
        convert(str(clip_folder), tmp_path / "out")


def test_a_target_that_cannot_be_written_is_told_before_the_weights_are_read(
    pickled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("encoder.models.pickled_weights.fetch", lambda *names: pytest.fail("it was fetched"))
    with pytest.raises(InputError, match="exists"):
        convert(str(pickled), pickled)
