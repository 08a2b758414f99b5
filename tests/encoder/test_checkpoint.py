"""Encoders on disk: identity, digests, and clear refusal of what is no encoder."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import CLIPModel

from encoder.checkpoint import WEIGHTS_FILE, LoadedEncoder, load_encoder, save_checkpoint
from encoder.crops import Preprocessing
from indexer.artifact import write_folder
from indexer.errors import ArtifactError, InputError
from indexer.geocells import CHECKPOINT_KIND, CHECKPOINT_SCHEMA_VERSION, load_geocells, save_geocells
from indexer.hierarchy import Hierarchy
from tests.conftest import random_geocells
from tests.encoder.conftest import WIDTH, tiny_encoder


def test_save_and_load_are_inverse(encoder: LoadedEncoder) -> None:
    pixels = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(encoder.model(pixels), tiny_encoder()(pixels))
    assert not encoder.model.training
    assert encoder.width == WIDTH


def test_geocells_carry_the_digest_of_their_encoder(checkpoint: Path, encoder: LoadedEncoder) -> None:
    assert load_geocells(checkpoint).encoder == encoder.digest


def test_a_changed_weight_changes_the_digest(hierarchy: Hierarchy, encoder: LoadedEncoder, tmp_path: Path) -> None:
    model = tiny_encoder()
    geocells = random_geocells(hierarchy, WIDTH, seed=0)
    save_checkpoint(tmp_path / "same", encoder=model, geocells=geocells, config={}, inputs={})
    with torch.no_grad():
        model.projection.weight[0, 0] += 1e-3
    save_checkpoint(tmp_path / "other", encoder=model, geocells=geocells, config={}, inputs={})
    assert load_encoder(str(tmp_path / "same")).digest == encoder.digest
    assert load_encoder(str(tmp_path / "other")).digest != encoder.digest


def test_geocells_alone_cannot_encode(hierarchy: Hierarchy, tmp_path: Path) -> None:
    with write_folder(tmp_path / "C", kind=CHECKPOINT_KIND, schema_version=CHECKPOINT_SCHEMA_VERSION) as draft:
        save_geocells(draft, random_geocells(hierarchy, WIDTH, seed=0))
    with pytest.raises(ArtifactError, match="geocells alone"):
        load_encoder(str(tmp_path / "C"))


def test_damaged_weights_are_a_clean_error(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "C")
    path = tmp_path / "C" / WEIGHTS_FILE
    path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises(ArtifactError, match="not what was written"):
        load_encoder(str(tmp_path / "C"))


def test_what_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such folder"):
        load_encoder(str(tmp_path / "absent"))


def test_clips_own_sizes_are_used_however_they_are_written(clip_folder: Path, tmp_path: Path) -> None:
    assert load_encoder(f"hf:{clip_folder}").preprocessing == Preprocessing(36, 32)
    shutil.copytree(clip_folder, tmp_path / "old")
    for name in ("preprocessor_config.json", "processor_config.json"):
        (tmp_path / "old" / name).unlink(missing_ok=True)
    mean = [0.48145466, 0.4578275, 0.40821073]
    std = [0.26862954, 0.26130258, 0.27577711]
    old = {"size": 36, "crop_size": 32, "image_mean": mean, "image_std": std}
    (tmp_path / "old" / "preprocessor_config.json").write_text(json.dumps(old))
    assert load_encoder(f"hf:{tmp_path / 'old'}").preprocessing == Preprocessing(36, 32)


def test_a_clip_has_a_digest_of_its_own_weights(clip_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(clip_folder, tmp_path / "other")
    torch.manual_seed(5)
    CLIPModel(CLIPModel.from_pretrained(clip_folder).config).save_pretrained(tmp_path / "other")
    first, second = load_encoder(f"hf:{clip_folder}"), load_encoder(f"hf:{tmp_path / 'other'}")
    assert first.digest == load_encoder(f"hf:{clip_folder}").digest
    assert first.digest != second.digest


def test_pickled_weights_are_not_read(clip_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(clip_folder, tmp_path / "pickle")
    (tmp_path / "pickle" / WEIGHTS_FILE).rename(tmp_path / "pickle" / "pytorch_model.bin")
    with pytest.raises(InputError, match="only as a pickle, or in several files"):
        load_encoder(f"hf:{tmp_path / 'pickle'}")


def test_other_models_are_refused(clip_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(clip_folder, tmp_path / "bert")
    config = json.loads((tmp_path / "bert" / "config.json").read_text())
    (tmp_path / "bert" / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(InputError, match="'bert'"):
        load_encoder(f"hf:{tmp_path / 'bert'}")


def test_an_unreachable_hub_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="give a local folder"):
        load_encoder("hf:nobody/no-such-model-here")
