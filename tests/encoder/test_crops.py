import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from encoder.crops import CLIP_MEAN, CLIP_STD, Preprocessing, centre_crop, normalise
from indexer.errors import InputError
from tests.encoder.conftest import natural

SHAPES = [(640, 480), (480, 640), (336, 336), (337, 335), (1000, 333), (37, 53), (20, 300), (1, 1), (500, 41)]


def clip_pixels(image: Image.Image, resize: int, crop: int) -> np.ndarray:
    """What CLIP's own image processor makes of it, before normalisation: (3, crop, crop) from 0 to 255."""
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": resize}, crop_size={"height": crop, "width": crop}, do_normalize=False
    )
    return np.asarray(processor(image, return_tensors="np")["pixel_values"][0]) * 255


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("resize", "crop"), [(224, 224), (336, 336), (256, 224), (64, 47)])
def test_equals_clips_own_image_processor(shape: tuple[int, int], resize: int, crop: int) -> None:
    image = natural(*shape)
    ours = centre_crop(image, Preprocessing(resize, crop))
    assert ours.shape == (3, crop, crop)
    assert ours.dtype == np.uint8
    assert np.abs(ours - clip_pixels(image, resize, crop)).max() <= 2


def test_noise_of_a_camera_differs_by_one_at_most() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    difference = np.abs(centre_crop(image, Preprocessing(336, 336)) - clip_pixels(image, 336, 336))
    assert difference.max() <= 1.01
    assert (difference > 0.5).mean() < 0.01


def test_a_photo_of_the_right_size_keeps_its_exact_pixels() -> None:
    image = natural(48, 48)
    pixels = np.asarray(image).transpose(2, 0, 1)
    np.testing.assert_array_equal(centre_crop(image, Preprocessing(48, 48)), pixels)
    np.testing.assert_array_equal(centre_crop(image, Preprocessing(48, 32)), pixels[:, 8:40, 8:40])
    wide = natural(61, 48)
    np.testing.assert_array_equal(
        centre_crop(wide, Preprocessing(48, 48)), np.asarray(wide).transpose(2, 0, 1)[:, :, 6:54]
    )


@pytest.mark.parametrize("shape", [(1, 60_000), (60_000, 1)])
def test_a_very_long_photo_takes_no_more_memory_than_a_square_one(shape: tuple[int, int]) -> None:
    # Resized as a whole it would be 336 x 20,160,000 pixels: 20 GB.
    assert centre_crop(Image.new("RGB", shape, (10, 20, 30)), Preprocessing(336, 336)).shape == (3, 336, 336)


def test_normalise_is_clips_formula_for_bytes_and_floats() -> None:
    pixels = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)
    want = (pixels.double().numpy() / 255 - np.array(CLIP_MEAN)[:, None, None]) / np.array(CLIP_STD)[:, None, None]
    for given in (pixels, pixels.float()):
        have = normalise(given, Preprocessing(4, 4))
        assert have.dtype == torch.float32
        np.testing.assert_allclose(have.numpy(), want, atol=1e-6)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48})
    image = natural(48, 48)
    theirs = processor(image, return_tensors="np")["pixel_values"]
    ours = normalise(torch.from_numpy(centre_crop(image, Preprocessing(48, 48))[None]), Preprocessing(48, 48))
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-5)


@pytest.mark.parametrize(("resize", "crop"), [(48, 49), (48, 0), (0, 0)])
def test_a_crop_larger_than_the_photo_is_refused(resize: int, crop: int) -> None:
    with pytest.raises(InputError, match="crop"):
        Preprocessing(resize, crop)


@pytest.mark.parametrize(
    ("mean", "std"),
    [((0.5,), CLIP_STD), (CLIP_MEAN, (0.2, 0.2)), (CLIP_MEAN, (0.2, 0.0, 0.2)), (CLIP_MEAN, (-1, 1, 1))],
)
def test_statistics_that_give_no_numbers_or_other_channels_are_refused(
    mean: tuple[float, float, float], std: tuple[float, float, float]
) -> None:
    with pytest.raises(InputError, match="three means and three stds above 0"):
        Preprocessing(48, 48, mean, std)


def test_preprocessing_survives_json() -> None:
    preprocessing = Preprocessing(50, 40, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing
