"""One photo: its pixels and its map, or the reason that a row gives; and what a segmenter sees of it."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.oneformer.image_processing_pil_oneformer import OneFormerImageProcessorPil

from encoder.class_maps.class_map import encode_map
from encoder.config import MAX_ASPECT, CropName, Preprocessing, Resizing
from encoder.photos import photo_reader
from encoder.photos.crops import crop_maps, crop_photos
from encoder.photos.photo_reader import DecodedPhoto, PhotoReader, SegmenterInput
from indexer.errors import BadImage
from indexer.photos.photo import FileRange, Photo
from tests.encoder.conftest import natural

INPUT = SegmenterInput(64, 128, Image.Resampling.BILINEAR, 1 / 255, (0.5,) * 3, (0.5,) * 3)


def photo(path: Path, class_map: Path | bytes | None = None) -> Photo:
    lies = FileRange(str(class_map)) if isinstance(class_map, Path) else class_map
    return Photo(path.name, FileRange(str(path)), 1.0, 2.0, lies)


def test_pixels_are_those_of_the_file_and_no_map_is_read_unasked(tmp_path: Path) -> None:
    natural(40, 30, seed=1).save(tmp_path / "a.png")
    found = PhotoReader(Resizing(16))(photo(tmp_path / "a.png", tmp_path / "absent.png"))
    assert isinstance(found, DecodedPhoto)
    np.testing.assert_array_equal(found.pixels, np.asarray(natural(40, 30, seed=1)))
    assert found.class_map is None


def test_a_photo_far_larger_than_needed_is_made_smaller_here(tmp_path: Path) -> None:
    Image.new("RGB", (2400, 1200), (10, 200, 30)).save(tmp_path / "a.png")
    found = PhotoReader(Resizing(60))(photo(tmp_path / "a.png"))
    assert isinstance(found, DecodedPhoto)
    assert found.pixels.shape == (60, 120, 3)


def test_a_map_comes_along_in_its_own_size(tmp_path: Path) -> None:
    natural(80, 40, seed=2).save(tmp_path / "a.png")
    class_map = np.arange(200, dtype=np.uint8).reshape(10, 20) % 150
    Image.fromarray(class_map).save(tmp_path / "m.png")
    for source in (tmp_path / "m.png", (tmp_path / "m.png").read_bytes()):
        found = PhotoReader(Resizing(16), classes=150)(photo(tmp_path / "a.png", source))
        assert isinstance(found, DecodedPhoto)
        assert found.class_map is not None
        np.testing.assert_array_equal(found.class_map, class_map)


@pytest.mark.parametrize("crops", ["one", "ten"])
@pytest.mark.parametrize(
    ("photo_size", "map_size"),
    [
        ((48, 48), (1000, 1000)),
        ((64, 48), (1000, 750)),
        ((97, 61), (291, 183)),
        ((33, 57), (101, 174)),
        ((90, 50), (99, 55)),
        ((600, 450), (600, 450)),
    ],
)
def test_a_large_map_is_made_small_and_cut_to_the_same(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    photo_size: tuple[int, int],
    map_size: tuple[int, int],
    crops: CropName,
) -> None:
    monkeypatch.setattr(photo_reader, "MAX_SENT_PIXELS", 200_000)  # the largest photo is made smaller, too
    preprocessing = Preprocessing(32, 32)
    edge = preprocessing.shorter_edge(crops)
    natural(*photo_size, seed=4).save(tmp_path / "a.png")
    class_map = np.random.default_rng(0).integers(0, 150, map_size[::-1], dtype=np.uint8)
    Image.fromarray(class_map).save(tmp_path / "m.png")
    found = PhotoReader(preprocessing.resizing(crops), classes=150)(photo(tmp_path / "a.png", tmp_path / "m.png"))
    assert isinstance(found, DecodedPhoto)
    assert found.class_map is not None
    assert min(found.class_map.shape) == edge
    shape = found.pixels.shape[:2]
    small, whole = (
        crop_maps([torch.from_numpy(each)], [shape], preprocessing, crops=crops)
        for each in (found.class_map, class_map)
    )
    assert torch.equal(small, whole)


@pytest.mark.parametrize("squash", [False, True])
def test_a_large_photo_is_made_small_as_the_encoder_wants_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, squash: bool
) -> None:
    monkeypatch.setattr(photo_reader, "MAX_SENT_PIXELS", 2000)
    preprocessing, image = Preprocessing(32, 32, squash=squash, filter="bilinear"), natural(90, 61, seed=4)
    image.save(tmp_path / "a.png")
    found = PhotoReader(preprocessing.resizing("one"))(photo(tmp_path / "a.png"))
    assert isinstance(found, DecodedPhoto)
    assert found.pixels.shape == ((32, 32, 3) if squash else (32, 47, 3))
    small, whole = (
        crop_photos([torch.from_numpy(np.array(each))], preprocessing, crops="one").int()
        for each in (found.pixels, image)
    )
    assert (small - whole).abs().max() <= 1


def test_a_map_of_too_many_pixels_is_refused(tmp_path: Path) -> None:
    natural(48, 48, seed=5).save(tmp_path / "a.png")
    Image.new("L", (400, 400)).save(tmp_path / "m.png")
    found = PhotoReader(Resizing(16), max_pixels=10_000, classes=150)(photo(tmp_path / "a.png", tmp_path / "m.png"))
    assert isinstance(found, BadImage)
    assert (found.code, found.reason) == ("bad_map", "its class map: 400 x 400 pixels; at most 10,000 are decoded")


@pytest.mark.parametrize(
    ("shape", "value", "code", "reason"),
    [
        ((20, 10), 0, "map_size", "80 x 40"),
        ((10, 20), 151, "map_class", "class 151 in its map; the encoder knows 0 to 149"),
    ],
)
def test_maps_that_are_not_the_photos_are_named(
    tmp_path: Path, shape: tuple[int, int], value: int, code: str, reason: str
) -> None:
    natural(80, 40, seed=3).save(tmp_path / "a.png")
    Image.fromarray(np.full(shape, value, np.uint8)).save(tmp_path / "m.png")
    found = PhotoReader(Resizing(16), classes=150)(photo(tmp_path / "a.png", tmp_path / "m.png"))
    assert isinstance(found, BadImage)
    assert found.code == code
    assert reason in found.reason


def test_what_is_wrong_is_returned_with_its_code(tmp_path: Path) -> None:
    natural(40, 30).save(tmp_path / "good.png")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no picture")
    Image.new("L", (MAX_ASPECT * 4 + 4, 4)).save(tmp_path / "long.png")
    Image.new("L", (200, 100)).save(tmp_path / "large.png")
    reader = PhotoReader(Resizing(16), max_pixels=19_999, classes=150)
    codes = {}
    for name in ("good.png", "empty.jpg", "text.jpg", "long.png", "large.png", "absent.png"):
        found = reader(photo(tmp_path / name))
        assert isinstance(found, BadImage)
        codes[name] = found.code
    assert codes == {
        "good.png": "no_map",
        "empty.jpg": "empty",
        "text.jpg": "not_an_image",
        "long.png": "too_long",
        "large.png": "too_large",
        "absent.png": "missing",
    }


def test_a_photo_may_do_without_a_map_and_not_with_a_bad_one(tmp_path: Path) -> None:
    natural(80, 40, seed=3).save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"none")
    Image.new("L", (40, 40)).save(tmp_path / "square.png")
    Image.new("L", (20, 10), 151).save(tmp_path / "strange.png")
    reader = PhotoReader(Resizing(16), classes=150, needs_map=False)
    alone = reader(photo(tmp_path / "a.png"))
    assert isinstance(alone, DecodedPhoto)
    assert (alone.class_map, alone.to_segment) == (None, None)
    codes = [reader(photo(tmp_path / "a.png", tmp_path / f"{name}.png")) for name in ("broken", "square", "strange")]
    assert [found.code for found in codes if isinstance(found, BadImage)] == ["bad_map", "map_size", "map_class"]
    assert isinstance(reader(photo(tmp_path / "a.png", tmp_path / "absent.png")), BadImage)
    # Where maps are made on the way, there is none to do without.
    made = replace(reader, segmenter=INPUT)(photo(tmp_path / "a.png"))
    assert isinstance(made, DecodedPhoto)
    assert made.to_segment is not None


def test_photos_and_maps_from_memory_are_read_as_from_files(tmp_path: Path) -> None:
    image, class_map = natural(80, 40, seed=6), np.arange(200, dtype=np.uint8).reshape(10, 20) % 150
    image.save(tmp_path / "a.png")
    for data in (image, (tmp_path / "a.png").read_bytes()):
        for lies in (class_map, encode_map(class_map)):
            found = PhotoReader(Resizing(16), classes=150)(Photo("a", data, class_map=lies))
            assert isinstance(found, DecodedPhoto)
            np.testing.assert_array_equal(found.pixels, np.asarray(image))
            np.testing.assert_array_equal(found.class_map, class_map)
    for wrong in (class_map.astype(np.int64), class_map[None]):
        problem = PhotoReader(Resizing(16), classes=150)(Photo("a", image, class_map=wrong))
        assert isinstance(problem, BadImage)
        assert problem.code == "bad_map"
        assert str(wrong.shape) in problem.reason


@pytest.mark.parametrize("size", [(100, 80), (80, 100), (300, 60), (64, 64), (31, 400)])
def test_photos_get_the_pixels_of_transformers_own_processor(size: tuple[int, int]) -> None:
    image = natural(*size)
    processor = OneFormerImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 128})
    want = processor([image], ["semantic"], return_tensors="np", do_rescale=False, do_normalize=False)
    have = INPUT.prepare(image)
    np.testing.assert_array_equal(have.pixels, want["pixel_values"][0].transpose(1, 2, 0))
    np.testing.assert_array_equal(INPUT.prepare(np.asarray(image)).pixels, have.pixels)
    assert INPUT.resized(size) == have.pixels.shape[1::-1]


def test_a_strip_keeps_at_least_one_pixel() -> None:
    assert min(INPUT.resized((1, 4000))) == 1


def test_a_map_is_no_finer_than_wanted_than_the_photo_and_than_what_the_model_saw() -> None:
    image = natural(200, 100)
    assert INPUT.prepare(image, map_edge=50).map_shape == (50, 100)
    assert INPUT.prepare(image, map_edge=500).map_shape == (64, 128)
    assert replace(INPUT, longest_edge=1000).prepare(image, map_edge=500).map_shape == (100, 200)


def test_bytes_are_decoded_as_large_as_model_and_map_need() -> None:
    stream = io.BytesIO()
    natural(1200, 1000).save(stream, "JPEG", quality=95)
    content = stream.getvalue()
    small, whole = (INPUT.read(content, map_edge=edge, max_pixels=10**7) for edge in (64, 900))
    assert small.pixels.shape == whole.pixels.shape
    difference = np.abs(np.asarray(small.pixels, float) - np.asarray(whole.pixels, float))
    assert 0 < difference.mean() < 3  # one was decoded at a fraction of its size
    with pytest.raises(BadImage, match="too_large"):
        INPUT.read(content, map_edge=64, max_pixels=1000)
