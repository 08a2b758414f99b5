"""What a run is made from is opened when it is asked for, and says by itself what is wrong with it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

from encoder.class_maps.cache import MapOrigin, content_digest, write_cache
from encoder.config import FusionConfig
from indexer.errors import ArtifactError, InputError
from tests.training.conftest import LEARN, MODEL, changed
from training.config import FitConfig
from training.runs.inputs import RunInputs

FUSION = FusionConfig(classes=2, width=8, latent=4, heads=2, blocks=1, mlp_size=8)


def inputs(toy: Path, config: FitConfig = LEARN) -> RunInputs:
    data = replace(config.data, photos=str(toy / config.data.photos))
    return RunInputs(toy / "H", replace(config, data=data))


def test_nothing_is_opened_before_it_is_asked_for(toy: Path, tmp_path: Path) -> None:
    start, maps = {"start_from": str(tmp_path / "none")}, {"segmentation_cache": tmp_path / "absent"}
    lacking = RunInputs(tmp_path / "no hierarchy", inputs(toy, changed(model=start, data=maps)).config)
    assert lacking.source.n_photos == 120
    assert lacking.device == torch.device("cpu")
    for name in ("hierarchy", "cache", "start", "encoder", "head"):
        with pytest.raises((ArtifactError, InputError)):
            getattr(lacking, name)


def test_a_model_that_is_only_read_is_no_start_of_training(toy: Path, tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    ViTModel(ViTConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    for model in ({}, {"fusion": FUSION}):
        opened = inputs(toy, changed(model={"start_from": f"hf:{tmp_path}", **model}))
        with pytest.raises(InputError, match=r"^model.start_from: hf:.* can encode photos, but only a CLIP"):
            opened.encoder  # noqa: B018


def test_what_is_opened_goes_together(toy: Path) -> None:
    opened = inputs(toy)
    assert opened.head.temperatures.shape == (len(opened.hierarchy.levels),)
    assert opened.encoder is opened.encoder
    assert len(opened.learnt) == 90
    assert len(opened.validation) == 30
    assert opened.gallery is not None
    assert inputs(toy, replace(LEARN, gallery_per_leaf=0)).gallery is None
    known = opened.digests()
    assert [name for name, digest in known.items() if digest is not None] == ["photos", "hierarchy"]


def test_weights_begin_as_the_seed_says(toy: Path) -> None:
    torch.rand(3)
    one, same, other = (
        inputs(toy, replace(LEARN, seed_everything=seed)).encoder.projection.weight for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_segmenter_of_the_maps_is_put_on_record(toy: Path, tmp_path: Path) -> None:
    with write_cache(tmp_path / "S", MapOrigin("a" * 64, "m", ("sky", "road"), 384)) as cache:
        cache.add(content_digest(b"photo"), torch.zeros((2, 2), dtype=torch.uint8).numpy())
    config = replace(LEARN, model=replace(MODEL, fusion=FUSION))
    fused = inputs(toy, changed(config, data={"segmentation_cache": (tmp_path / "S",)}))
    assert fused.encoder.fusion_config == replace(FUSION, segmenter="a" * 64)
    assert fused.digests()["maps"] == "a" * 64
    fused.check_maps_come(fused.encoder)
    without = inputs(toy, config)
    with pytest.raises(InputError, match=r"none come with these\. Give data\.segmentation_cache"):
        without.check_maps_come(without.encoder)
    other = replace(config, model=replace(MODEL, fusion=replace(FUSION, segmenter="b" * 64)))
    with pytest.raises(InputError, match="these are of aaaaaaaa"):
        _ = inputs(toy, changed(other, data={"segmentation_cache": tmp_path / "S"})).encoder


@pytest.mark.parametrize(
    ("found", "message"), [(0, "torch finds none"), (2, "trainer.devices is 3, and torch finds 2 of them")]
)
def test_devices_that_are_not_there(toy: Path, monkeypatch: pytest.MonkeyPatch, found: int, message: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: found > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    with pytest.raises(InputError, match=message):
        _ = inputs(toy, changed(trainer={"accelerator": "gpu", "devices": 3})).device
