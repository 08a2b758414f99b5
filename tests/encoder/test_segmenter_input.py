"""What a segmenter sees of a photo: sizes as transformers has them, and the shape of the map."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from transformers.models.oneformer.image_processing_pil_oneformer import OneFormerImageProcessorPil

from encoder.images import BadImage
from encoder.segmenter_input import SegmenterInput
from tests.encoder.conftest import natural

INPUT = SegmenterInput(64, 128, Image.Resampling.BILINEAR, 1 / 255, (0.5,) * 3, (0.5,) * 3)


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
