from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTModel
from transformers.utils import logging

from encoder.models.weights import Misfits, open_weights
from tests.encoder.conftest import EDGE, VISION

FILE = "model.safetensors"


def test_a_model_is_opened_and_what_does_not_fit_is_told(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ViTModel(ViTConfig(**VISION)).eval()
    model.save_pretrained(tmp_path)
    opened, misfits = open_weights(ViTModel, model.config, tmp_path / FILE)
    assert misfits == Misfits([], [], [])
    pixels = torch.randn(2, 3, EDGE, EDGE)
    assert torch.equal(opened(pixels).pooler_output, model(pixels).pooler_output)
    assert not opened.training
    assert not any(weight.requires_grad for weight in opened.parameters())

    weights = load_file(tmp_path / FILE)
    weights["more.weight"] = weights.pop("pooler.dense.weight")
    weights["pooler.dense.bias"] = torch.zeros(3)
    save_file(weights, tmp_path / FILE)
    before, verbosity = torch.get_rng_state(), logging.get_verbosity()
    _, misfits = open_weights(ViTModel, model.config, tmp_path / FILE)
    assert misfits == Misfits(["pooler.dense.weight"], ["more.weight"], ["pooler.dense.bias"])
    assert torch.equal(torch.get_rng_state(), before)
    assert logging.get_verbosity() == verbosity


def test_weights_of_half_the_bits_are_opened_in_float32(tmp_path: Path) -> None:
    model = ViTModel(ViTConfig(**VISION))
    model.half().save_pretrained(tmp_path)
    opened, _ = open_weights(ViTModel, model.config, tmp_path / FILE)
    assert {weight.dtype for weight in opened.parameters()} == {torch.float32}
