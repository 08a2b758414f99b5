"""OneFormer against transformers' own processing before and after the model; what is no OneFormer is refused."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import OneFormerForUniversalSegmentation
from transformers.models.oneformer.image_processing_pil_oneformer import OneFormerImageProcessorPil

from encoder.config import MAP_EDGE
from encoder.models.files import CONFIG_FILE, WEIGHTS_FILE
from encoder.models.segmentation import Segmenter, load_segmenter
from indexer.errors import ArtifactError, InputError
from tests.encoder.conftest import natural

# Sizes that are exact, odd, smaller and larger than the model's input, and long enough for its longest edge.
SIZES = [(100, 80), (64, 64), (33, 47), (65, 64), (201, 90), (90, 201), (300, 20), (5, 400), (640, 480), (1, 1)]
TASK = [49406, 518, 10549, 533, 29119, 1550, 49407] + [0] * 70


def segment(segmenter: Segmenter, *images: Image.Image | np.ndarray, map_edge: int = MAP_EDGE) -> list[np.ndarray]:
    return segmenter.segment([segmenter.input.prepare(image, map_edge=map_edge) for image in images])


def transformers_maps(
    model: OneFormerForUniversalSegmentation, folder: Path, images: Sequence[Image.Image], sizes: Sequence[object]
) -> list[np.ndarray]:
    """The maps as a user of transformers makes them."""
    processor = OneFormerImageProcessorPil.from_pretrained(folder)
    inputs = processor(images, ["semantic"] * len(images), return_tensors="pt")
    task = torch.tensor([TASK] * len(images))
    with torch.inference_mode():
        output = model(pixel_values=inputs["pixel_values"], pixel_mask=inputs["pixel_mask"], task_inputs=task)
    return [classes.numpy() for classes in processor.post_process_semantic_segmentation(output, target_sizes=sizes)]


@pytest.mark.parametrize("size", SIZES)
def test_maps_are_those_of_transformers(
    segmenter: Segmenter, oneformer: OneFormerForUniversalSegmentation, oneformer_folder: Path, size: tuple[int, int]
) -> None:
    image = natural(*size, seed=size[0])
    for edge in (48, 10_000):
        (ours,) = segment(segmenter, image, map_edge=edge)
        (theirs,) = transformers_maps(oneformer, oneformer_folder, [image], [ours.shape])
        assert ours.dtype == np.uint8
        np.testing.assert_array_equal(ours, theirs)


def test_maps_show_several_classes_and_keep_the_photos_shape(segmenter: Segmenter) -> None:
    (classes,) = segment(segmenter, natural(100, 80), map_edge=48)
    assert classes.shape == (48, 60)
    assert len(np.unique(classes)) >= 3
    assert classes.max() < segmenter.n_classes == 7
    assert segmenter.class_names[:3] == ("wall", "sky", "tree")
    assert segment(segmenter, natural(40, 30))[0].shape == (30, 40)  # never larger than the photo
    assert segment(segmenter, natural(4000, 40))[0].shape == (1, 128)  # nor than what the model saw


def test_a_batch_gives_the_maps_of_single_photos_whatever_its_sizes(segmenter: Segmenter) -> None:
    images = [natural(*size, seed=seed) for seed, size in enumerate([(100, 80), (90, 200), (110, 88), (100, 80)])]
    together = segment(segmenter, *images, np.asarray(images[1]))
    for image, classes in zip([*images, images[1]], together, strict=True):
        check_same_but_for_ties(segmenter, image, classes, segment(segmenter, image)[0])
    assert segment(segmenter) == []


def check_same_but_for_ties(segmenter: Segmenter, image: Image.Image, ours: np.ndarray, alone: np.ndarray) -> None:
    """A batch may be summed in another order than a photo alone; what decides a pixel then lies within rounding."""
    assert ours.shape == alone.shape
    photo = segmenter.input.prepare(image, map_edge=MAP_EDGE)
    with torch.inference_mode():
        batch = segmenter._normalised(torch.as_tensor(photo.pixels)[None])
        output = segmenter.model(pixel_values=batch, task_inputs=batch.new_zeros(1, 1))
        of_class = output.class_queries_logits.softmax(dim=-1)[..., :-1]
        semantic = torch.einsum("bqc,bqhw->bchw", of_class, output.masks_queries_logits.sigmoid())
        scores = torch.nn.functional.interpolate(semantic, size=ours.shape, mode="bilinear", align_corners=False)[0]
    rows = [torch.from_numpy(classes.astype(np.int64))[None] for classes in (ours, alone)]
    one, other = (scores.gather(0, row)[0].numpy() for row in rows)
    np.testing.assert_allclose(one, other, rtol=1e-5)
    assert (ours != alone).mean() < 1e-3


def test_padding_would_change_maps_so_none_is_used(
    segmenter: Segmenter, oneformer: OneFormerForUniversalSegmentation, oneformer_folder: Path
) -> None:
    """The day that this fails, photos of several sizes can share a batch."""
    images = [natural(100, 80), natural(90, 200)]
    alone = segment(segmenter, *images)
    padded = transformers_maps(oneformer, oneformer_folder, images, [classes.shape for classes in alone])
    assert (padded[0] != alone[0]).mean() > 0.05


def test_arrays_are_photos_too(segmenter: Segmenter) -> None:
    image = natural(100, 80)
    np.testing.assert_array_equal(segment(segmenter, np.asarray(image))[0], segment(segmenter, image)[0])


def test_loading_keeps_every_weight_and_draws_no_random_number(
    oneformer: OneFormerForUniversalSegmentation, oneformer_folder: Path
) -> None:
    torch.manual_seed(9)
    before = torch.get_rng_state()
    loaded = load_segmenter(str(oneformer_folder)).model
    assert torch.equal(torch.get_rng_state(), before)
    assert not loaded.training
    ours, theirs = loaded.state_dict(), oneformer.state_dict()
    assert {key for key in theirs if not key.startswith("model.task_encoder.")} == set(ours)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_the_digest_is_that_of_configuration_weights_and_processor(oneformer_folder: Path, tmp_path: Path) -> None:
    digests = {load_segmenter(str(oneformer_folder)).digest}
    for file, old, new in (
        (CONFIG_FILE, '"dropout": 0.1', '"dropout": 0.2'),
        ("preprocessor_config.json", '"longest_edge": 128', '"longest_edge": 129'),
    ):
        changed = shutil.copytree(oneformer_folder, tmp_path / file)
        (changed / file).write_text((changed / file).read_text().replace(old, new))
        digests.add(load_segmenter(str(changed)).digest)
    changed = shutil.copytree(oneformer_folder, tmp_path / "weights")
    weights = load_file(changed / WEIGHTS_FILE)
    weights["model.transformer_module.decoder.class_embed.bias"] += 1
    save_file(weights, changed / WEIGHTS_FILE)
    digests.add(load_segmenter(str(changed)).digest)
    assert len(digests) == 4
    assert load_segmenter(str(shutil.copytree(oneformer_folder, tmp_path / "same"))).digest in digests


@pytest.fixture
def folder(oneformer_folder: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(oneformer_folder, tmp_path / "model")


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_a_checkpoint_that_was_trained_and_its_processor_of_old_are_read(folder: Path, segmenter: Segmenter) -> None:
    """As published: the text tower of training is there, and files name a repository of class names."""
    change(folder / CONFIG_FILE, is_training=True, use_auxiliary_loss=True)
    weights = load_file(folder / WEIGHTS_FILE)
    del weights["criterion.empty_weight"]
    save_file(weights | {"model.text_mapper.prompt_ctx.weight": torch.zeros(3, 3)}, folder / WEIGHTS_FILE)
    change(
        folder / "preprocessor_config.json",
        class_info_file="ade20k_panoptic.json",
        repo_path="shi-labs/oneformer_demo",
        metadata={"0": "wall"},
        size=64,
        max_size=128,
    )
    loaded = load_segmenter(str(folder))
    assert loaded.input == segmenter.input
    assert loaded.digest != segmenter.digest
    image = natural(100, 80)
    np.testing.assert_array_equal(segment(loaded, image)[0], segment(segmenter, image)[0])


def test_a_processor_of_newer_releases_is_read(folder: Path, segmenter: Segmenter) -> None:
    old = folder / "preprocessor_config.json"
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": json.loads(old.read_text())}))
    old.unlink()
    assert load_segmenter(str(folder)).input == segmenter.input


def test_weights_in_half_precision_are_opened_in_float32(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS_FILE)
    save_file({name: tensor.half() for name, tensor in weights.items()}, folder / WEIGHTS_FILE)
    change(folder / CONFIG_FILE, dtype="float16")
    assert {weight.dtype for weight in load_segmenter(str(folder)).model.model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "maskformer"}, "its model type is 'maskformer'; a OneFormer"),
        ({"hidden_dim": "wide"}, "is not a OneFormer's"),
        ({"backbone_config": 5}, "is not a OneFormer's"),
        ({"task_seq_len": 3}, "the task takes 7 tokens"),
        ({"id2label": {"0": "a", "2": "b"}}, "is not a OneFormer's"),
        ({"id2label": {str(number): "x" for number in range(256)}}, "256 classes; a class map holds at most 255"),
        ({"conv_dim": 64}, "must be equal"),
        ({"enforce_input_proj": True}, "must be equal"),
        ({"num_queries": 11}, "cannot be loaded as the segmenter's weights"),
        ({"encoder_layers": 3}, "cannot be loaded as the segmenter's weights .missing: model"),
        ({"num_attention_heads": 5}, "cannot be loaded as the segmenter's weights"),
    ],
)
def test_configurations_that_cannot_be_used_are_a_clean_error(
    folder: Path, values: dict[str, object], message: str
) -> None:
    change(folder / CONFIG_FILE, **values)
    with pytest.raises(InputError, match=message):
        load_segmenter(str(folder))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"do_normalize": False}, "does not prepare photos as OneFormer does"),
        ({"size": {"height": 64, "width": 64}}, "does not prepare photos as OneFormer does"),
        ({"size": {"shortest_edge": 64}}, "does not prepare photos as OneFormer does"),
        ({"size": "big"}, "is not a OneFormer's"),
        ({"image_mean": 0.5}, "is not a OneFormer's"),
        ({"image_std": [1, 1, 0]}, "is not a OneFormer's"),
        ({"resample": 77}, "is not a OneFormer's"),
        ({"rescale_factor": None}, "is not a OneFormer's"),
    ],
)
def test_processors_that_cannot_be_used_are_a_clean_error(
    folder: Path, values: dict[str, object], message: str
) -> None:
    change(folder / "preprocessor_config.json", **values)
    with pytest.raises(InputError, match=message):
        load_segmenter(str(folder))


def test_damaged_weights_and_pickles_are_a_clean_error(folder: Path) -> None:
    path = folder / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ArtifactError, match="cannot be loaded as the segmenter's weights"):
        load_segmenter(str(folder))
    path.rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="only as a pickle"):
        load_segmenter(str(folder))


def test_an_unreachable_hub_is_said_with_what_to_do() -> None:
    with pytest.raises(InputError, match=r"shi-labs/oneformer_ade20k_swin_large: config.json cannot be had .* folder"):
        load_segmenter("shi-labs/oneformer_ade20k_swin_large")


def test_loading_says_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    change(folder / CONFIG_FILE, num_queries=11)
    with pytest.raises(ArtifactError):
        load_segmenter(str(folder))
    assert capfd.readouterr() == ("", "")


@pytest.mark.gpu
def test_a_gpu_gives_nearly_the_maps_of_the_cpu(oneformer_folder: Path, segmenter: Segmenter) -> None:
    fast = load_segmenter(str(oneformer_folder), device=torch.device("cuda"))
    images = [natural(100 + 3 * seed, 80, seed=seed) for seed in range(8)]
    same = [(a == b).mean() for a, b in zip(segment(fast, *images), segment(segmenter, *images), strict=True)]
    assert np.mean(same) > 0.9  # bfloat16
