"""Texts get the vectors that their model's own tokenizer and feature call give; files that do not fit are refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, MetaClip2Config, MetaClip2Model

from encoder.models.checkpoint import load_encoder
from encoder.models.files import CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from encoder.models.pickled_weights import convert
from encoder.models.text_tower import load_text_tower
from indexer.errors import ArtifactError, InputError
from tests.encoder.conftest import VISION
from tests.text_clips import CONTEXT, WIDTH, byte_tokenizer, own_text_vectors, save_text_clip

TEXTS = ["A photo in Lyon.", "a", "São Paulo, Brazil", "A photo near\tthe  town", "東京", "A PHOTO IN LYON."]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[CLIPModel, Path]:
    folder = tmp_path_factory.mktemp("text_clip")
    return save_text_clip(folder), folder


@pytest.fixture
def copy(saved: tuple[CLIPModel, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved[1], tmp_path / "C"))


def test_texts_get_the_models_own_vectors(saved: tuple[CLIPModel, Path]) -> None:
    model, folder = saved
    tower = load_text_tower(f"hf:{folder}")
    own = own_text_vectors(model, folder, TEXTS).numpy()
    for batch_size in (1, 4, 100):
        found = tower.vectors(TEXTS, batch_size=batch_size)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, own, atol=2e-6)
    np.testing.assert_allclose(own[0], own[-1], atol=2e-6)  # the tokenizer's own lower case
    assert (own[:4] @ own[:4].T)[np.triu_indices(4, 1)].max() < 0.99, "the texts do not differ"
    assert (tower.width, tower.context) == (WIDTH, CONTEXT)
    assert tower.temperature == pytest.approx(torch.exp(-model.logit_scale).item())


def test_clips_of_before_2023_end_where_theirs_end(tmp_path: Path) -> None:
    model = save_text_clip(tmp_path, old_end=True)
    own = own_text_vectors(model, tmp_path, TEXTS).numpy()
    np.testing.assert_allclose(load_text_tower(f"hf:{tmp_path}").vectors(TEXTS, batch_size=4), own, atol=2e-6)


def test_metaclip_2_has_a_text_tower_too(tmp_path: Path) -> None:
    save_text_clip(tmp_path)  # for its tokenizer and image processor
    tokenizer = byte_tokenizer()
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    sizes = {key: VISION[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers")}
    text = {**sizes, "num_attention_heads": 2, "vocab_size": len(tokenizer), "max_position_embeddings": CONTEXT, **ends}
    torch.manual_seed(3)
    model = MetaClip2Model(MetaClip2Config(vision_config=VISION, text_config=text, projection_dim=WIDTH)).eval()
    model.save_pretrained(tmp_path)
    own = own_text_vectors(model, tmp_path, TEXTS).numpy()
    np.testing.assert_allclose(load_text_tower(f"hf:{tmp_path}").vectors(TEXTS, batch_size=4), own, atol=2e-6)


def test_texts_and_photos_of_a_model_have_one_digest(saved: tuple[CLIPModel, Path], tmp_path: Path) -> None:
    _, folder = saved
    assert load_text_tower(f"hf:{folder}").digest == load_encoder(f"hf:{folder}").digest
    save_text_clip(tmp_path, seed=1)
    assert load_text_tower(f"hf:{tmp_path}").digest != load_text_tower(f"hf:{folder}").digest


def test_a_tokenizer_that_cuts_or_pads_does_neither_here(copy: Path) -> None:
    tower = load_text_tower(f"hf:{copy}")
    own = tower.tokens(["a photo in a very long name"])
    tower.tokenizer.enable_truncation(4)
    tower.tokenizer.enable_padding(length=60)
    tower.tokenizer.save(str(copy / TOKENIZER_FILE))
    assert load_text_tower(f"hf:{copy}").tokens(["a photo in a very long name"]) == own


def test_what_has_no_texts_is_refused(saved: tuple[CLIPModel, Path], copy: Path, checkpoint: Path) -> None:
    with pytest.raises(InputError, match="a checkpoint of this project has none"):
        load_text_tower(str(checkpoint))
    settings = json.loads((copy / CONFIG_FILE).read_text())
    (copy / CONFIG_FILE).write_text(json.dumps(settings["vision_config"] | {"model_type": "clip_vision_model"}))
    with pytest.raises(InputError, match="'clip_vision_model', of which no texts are read"):
        load_text_tower(f"hf:{copy}")
    with pytest.raises(InputError, match=r"no such folder\. Give one that exists, or a hub id: hf:<owner>/<name>\.$"):
        load_text_tower("hf:/nowhere/at/all")
    with pytest.raises(
        InputError, match=r"cannot be had .* Without a network: copy config\.json, .* and tokenizer\.json of"
    ):
        load_text_tower("hf:nobody/nothing")


def test_files_that_are_missing_or_damaged_are_named(copy: Path) -> None:
    (copy / TOKENIZER_FILE).write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer\.json: cannot be read as a tokenizer"):
        load_text_tower(f"hf:{copy}")
    (copy / TOKENIZER_FILE).unlink()
    with pytest.raises(InputError, match=r"has no tokenizer\.json"):
        load_text_tower(f"hf:{copy}")


def test_weights_without_the_text_half_are_refused(copy: Path) -> None:
    weights = load_file(copy / WEIGHTS_FILE)
    save_file({key: each for key, each in weights.items() if key != "logit_scale"}, copy / WEIGHTS_FILE)
    with pytest.raises(ArtifactError, match="no logit_scale"):
        load_text_tower(f"hf:{copy}")
    save_file({key: each for key, each in weights.items() if not key.startswith("text")}, copy / WEIGHTS_FILE)
    with pytest.raises(ArtifactError, match="missing or of another shape"):
        load_text_tower(f"hf:{copy}")


def test_the_tokenizer_of_another_model_is_refused(copy: Path) -> None:
    settings = json.loads((copy / CONFIG_FILE).read_text())
    end = settings["text_config"]["eos_token_id"]
    settings["text_config"]["eos_token_id"] = end - 1
    (copy / CONFIG_FILE).write_text(json.dumps(settings))
    with pytest.raises(InputError, match=f"must end with token {end - 1}"):
        load_text_tower(f"hf:{copy}")
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["one_more"])
    tokenizer.save_pretrained(copy)
    with pytest.raises(InputError, match=r"has 515 tokens, of which the model knows 514"):
        load_text_tower(f"hf:{copy}")


def test_a_model_whose_weights_are_a_pickle_is_converted_with_its_tokenizer(
    saved: tuple[CLIPModel, Path], copy: Path, tmp_path: Path
) -> None:
    model, folder = saved
    torch.save(model.state_dict(), copy / "pytorch_model.bin")
    (copy / WEIGHTS_FILE).unlink()
    with pytest.raises(InputError, match="python -m encoder convert"):
        load_text_tower(f"hf:{copy}")
    convert(copy, tmp_path / "converted")
    own = own_text_vectors(model, folder, TEXTS).numpy()
    np.testing.assert_allclose(
        load_text_tower(f"hf:{tmp_path / 'converted'}").vectors(TEXTS, batch_size=8), own, atol=2e-6
    )
