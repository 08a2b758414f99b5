"""Encoders on disk: identity, digests, and clear refusal of what is no encoder."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel

from encoder.config import Preprocessing
from encoder.models.checkpoint import LoadedEncoder, load_encoder, save_checkpoint
from encoder.models.files import CONFIG_FILE, WEIGHTS_FILE
from indexer.cells.hierarchy import Hierarchy
from indexer.disk.artifact import write_folder
from indexer.errors import ArtifactError, InputError
from indexer.vectors.geocells import CHECKPOINT_KIND, CHECKPOINT_SCHEMA_VERSION, load_geocells, save_geocells
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
    with pytest.raises(InputError, match="only as a pickle are not read"):
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


def test_a_checkpoint_without_geocells_encodes_and_says_what_it_lacks(tmp_path: Path, encoder: LoadedEncoder) -> None:
    save_checkpoint(tmp_path / "C", encoder=tiny_encoder(), geocells=None, config={}, inputs={})
    assert load_encoder(tmp_path / "C").digest == encoder.digest
    with pytest.raises(ArtifactError, match="no geocells"):
        load_geocells(tmp_path / "C")


def test_saving_leaves_the_encoder_as_it_was(tmp_path: Path) -> None:
    model = tiny_encoder()
    before = model.config.to_json_string()
    save_checkpoint(tmp_path / "C", encoder=model, geocells=None, config={}, inputs={})
    assert model.config.to_json_string() == before
    assert not [path for path in (tmp_path / "C").rglob("*") if path.suffix in {".bin", ".pt", ".pkl", ".ckpt"}]


@pytest.mark.parametrize("prefix", ["", "hf:"])
def test_loading_draws_no_random_number(checkpoint: Path, clip_folder: Path, prefix: str) -> None:
    torch.manual_seed(9)
    before = torch.get_rng_state()
    load_encoder(f"{prefix}{clip_folder if prefix else checkpoint}")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_changed_configuration_is_noticed(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "C")
    path = tmp_path / "C" / CONFIG_FILE
    path.write_text(path.read_text().replace('"quick_gelu"', '"quick_gelv"'))
    with pytest.raises(ArtifactError, match="not what was written"):
        load_encoder(tmp_path / "C")


@pytest.mark.parametrize("state", ["a cut file", "a missing weight"])
def test_weights_of_a_clip_that_do_not_fit_are_a_clean_error(clip_folder: Path, tmp_path: Path, state: str) -> None:
    shutil.copytree(clip_folder, tmp_path / "C")
    path = tmp_path / "C" / WEIGHTS_FILE
    if state == "a cut file":
        path.write_bytes(path.read_bytes()[:1000])
    else:
        weights = load_file(path)
        del weights["visual_projection.weight"]
        save_file(weights, path)
    with pytest.raises(ArtifactError, match="cannot be loaded as the encoder's weights"):
        load_encoder(f"hf:{tmp_path / 'C'}")


def test_a_folder_of_somebody_elses_weights_is_refused_with_advice(clip_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=f"write hf:{clip_folder}"):
        load_encoder(clip_folder)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ArtifactError, match=r"pytorch_model.bin may hold a pickle, which is never loaded"):
        load_encoder(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision_config": [1]}, "is not a CLIP's"),
        ({"projection_dim": "wide"}, "is not a CLIP's"),
        ({"vision_config": {"num_attention_heads": 5}}, "is not a CLIP's"),
        ({"vision_config": {"num_attention_heads": 0}}, "is not a CLIP's"),
        ({"vision_config": {"hidden_act": "quick_gelv"}}, "no activation"),
        ({"vision_config": {"patch_size": 0}}, "Patches of 0 pixels"),
        ({"vision_config": {"image_size": 64}}, "sees 64 x 64 pixels, but photos are cut to 32 x 32"),
        ({"vision_config": {"num_hidden_layers": 3}}, "cannot be loaded as the encoder's weights"),
    ],
)
def test_values_that_no_clip_has_are_a_clean_error(
    clip_folder: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    shutil.copytree(clip_folder, tmp_path / "C")
    values = json.loads((tmp_path / "C" / CONFIG_FILE).read_text())
    for key, value in change.items():
        values[key] = values[key] | value if isinstance(value, dict) else value
    (tmp_path / "C" / CONFIG_FILE).write_text(json.dumps(values))
    with pytest.raises(InputError, match=message):
        load_encoder(f"hf:{tmp_path / 'C'}")


@pytest.mark.parametrize(
    "change", [{"size": "big"}, {"size": None}, {"crop_size": None}, {"image_mean": 0.5}, {"rescale_factor": None}]
)
def test_values_that_no_image_processor_has_are_a_clean_error(
    clip_folder: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    shutil.copytree(clip_folder, tmp_path / "C")
    path = tmp_path / "C" / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=r"preprocessor_config.json is not a CLIP's \(.+\). Download"):
        load_encoder(f"hf:{tmp_path / 'C'}")


def test_a_clip_in_half_precision_is_opened_in_float32(clip_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(clip_folder, tmp_path / "half")
    weights = load_file(clip_folder / WEIGHTS_FILE)
    save_file({name: tensor.half() for name, tensor in weights.items()}, tmp_path / "half" / WEIGHTS_FILE)
    encoder = load_encoder(f"hf:{tmp_path / 'half'}")
    assert {weight.dtype for weight in encoder.model.parameters()} == {torch.float32}
    pixels = torch.randn(3, 3, 32, 32)
    cosine = (encoder.model(pixels) * load_encoder(f"hf:{clip_folder}").model(pixels)).sum(dim=1)
    assert cosine.min() > 0.9999


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_a_broken_configuration_of_a_clip_is_a_clean_error(clip_folder: Path, tmp_path: Path, text: str) -> None:
    shutil.copytree(clip_folder, tmp_path / "C")
    (tmp_path / "C" / CONFIG_FILE).write_text(text)
    with pytest.raises(InputError, match="Download it again"):
        load_encoder(f"hf:{tmp_path / 'C'}")
