import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from encoder.config import CLIP_MEAN, CLIP_STD, CropName, Preprocessing
from encoder.photos.crops import N_CROPS, crop_maps, crop_photos, normalise
from indexer.errors import InputError
from tests.encoder.conftest import natural

SHAPES = [(640, 480), (480, 640), (336, 336), (337, 335), (1000, 333), (37, 53), (20, 300), (1, 1), (500, 41)]


def as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image))


def centre(image: Image.Image, resize: int, crop: int) -> np.ndarray:
    crops = crop_photos([as_tensor(image)], Preprocessing(resize, crop), crops="one")
    assert crops.shape == (1, 1, 3, crop, crop)
    assert crops.dtype == torch.uint8
    return crops[0, 0].numpy()


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
    assert np.abs(centre(image, resize, crop) - clip_pixels(image, resize, crop)).max() <= 2


def test_noise_of_a_camera_differs_by_one_at_most() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    difference = np.abs(centre(Image.fromarray(noise), 336, 336) - clip_pixels(Image.fromarray(noise), 336, 336))
    assert difference.max() <= 1.01
    assert (difference > 0.5).mean() < 0.01


def test_a_photo_of_the_right_size_keeps_its_exact_pixels() -> None:
    image = natural(48, 48)
    pixels = np.asarray(image).transpose(2, 0, 1)
    np.testing.assert_array_equal(centre(image, 48, 48), pixels)
    np.testing.assert_array_equal(centre(image, 48, 32), pixels[:, 8:40, 8:40])
    wide = natural(61, 48)
    np.testing.assert_array_equal(centre(wide, 48, 48), np.asarray(wide).transpose(2, 0, 1)[:, :, 6:54])


@pytest.mark.parametrize("crops", ["one", "five", "ten"])
def test_photos_of_many_shapes_are_cut_as_if_each_were_alone(crops: CropName) -> None:
    preprocessing = Preprocessing(56, 56)
    photos = [as_tensor(natural(*shape, seed=seed)) for seed, shape in enumerate([*SHAPES[3:7], *SHAPES[3:7]])]
    together = crop_photos(photos, preprocessing, crops=crops)
    alone = torch.cat([crop_photos([photo], preprocessing, crops=crops) for photo in photos])
    assert torch.equal(together, alone)


def test_ten_crops_are_corners_centre_and_mirror_images() -> None:
    # 64 = 56 x 8/7: no pixel is resampled.
    photo = torch.arange(64 * 80 * 3, dtype=torch.int32).view(64, 80, 3).remainder(251).to(torch.uint8)
    plain = photo.permute(2, 0, 1)
    ten = crop_photos([photo], Preprocessing(56, 56), crops="ten")[0]
    for crop, (top, left) in zip(ten[:5], [(0, 0), (0, 24), (8, 0), (8, 24), (4, 12)], strict=True):
        assert torch.equal(crop, plain[:, top : top + 56, left : left + 56])
    assert torch.equal(ten[5:], ten[:5].flip(-1))
    assert torch.equal(crop_photos([photo], Preprocessing(56, 56), crops="five")[0], ten[:5])


def test_crops_of_squashed_photos_show_all_of_them() -> None:
    photo = as_tensor(natural(200, 50, seed=3))
    squashed = Preprocessing(56, 56, squash=True)
    (whole,) = crop_photos([photo], squashed, crops="one")[0]
    assert (
        whole.int() - crop_photos([whole.permute(1, 2, 0)], Preprocessing(56, 56), crops="one")[0, 0]
    ).abs().max() == 0
    ten = crop_photos([photo], squashed, crops="ten")[0]
    (larger,) = crop_photos([photo], Preprocessing(64, 64, squash=True), crops="one")[0]
    for crop, (top, left) in zip(ten[:5], [(0, 0), (0, 8), (8, 0), (8, 8), (4, 4)], strict=True):
        assert torch.equal(crop, larger[:, top : top + 56, left : left + 56])
    assert torch.equal(ten[5:], ten[:5].flip(-1))


def test_the_papers_ten_crops_come_from_384_pixels() -> None:
    assert Preprocessing(336, 336).shorter_edge("one") == 336
    assert Preprocessing(336, 336).shorter_edge("ten") == 384
    assert Preprocessing(224, 224).shorter_edge("five") == 256


@given(
    height=st.integers(9, 90),
    width=st.integers(9, 90),
    crops=st.sampled_from(["one", "five", "ten"]),
)
def test_a_map_is_cut_like_its_photo(height: int, width: int, crops: CropName) -> None:
    # A photo whose channels are its map: wherever nothing is resampled, crops of both are the same.
    preprocessing = Preprocessing(14, 14)
    shape = preprocessing.resizing(crops).shape(height, width)
    class_map = torch.from_numpy(np.random.default_rng(0).integers(0, 150, shape, dtype=np.uint8))
    photo = class_map[..., None].expand(*shape, 3)
    photos = crop_photos([photo], preprocessing, crops=crops)
    maps = crop_maps([class_map], [shape], preprocessing, crops=crops)
    assert maps.shape == (1, N_CROPS[crops], 14, 14)
    assert torch.equal(photos[:, :, 0], maps)


def test_a_map_of_another_size_is_resized_by_nearest_pixels() -> None:
    halves = torch.zeros((30, 40), dtype=torch.uint8)
    halves[:, 20:] = 7
    maps = crop_maps([halves, halves[::2, ::2]], [(300, 400), (300, 400)], Preprocessing(48, 48), crops="one")
    assert torch.equal(maps[0], maps[1])
    assert set(maps.unique().tolist()) == {0, 7}
    assert (maps[0, 0, :, :24] == 0).all()
    assert (maps[0, 0, :, 24:] == 7).all()
    whole = np.asarray(Image.fromarray(halves.numpy()).resize((64, 48), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(maps[0, 0].numpy(), whole[:, 8:56])


def test_normalise_is_clips_formula_for_bytes_and_floats() -> None:
    pixels = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)
    want = (pixels.double().numpy() / 255 - np.array(CLIP_MEAN)[:, None, None]) / np.array(CLIP_STD)[:, None, None]
    for given_pixels in (pixels, pixels.float()):
        have = normalise(given_pixels, Preprocessing(4, 4))
        assert have.dtype == torch.float32
        np.testing.assert_allclose(have.numpy(), want, atol=1e-6)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48})
    image = natural(48, 48)
    theirs = processor(image, return_tensors="np")["pixel_values"]
    ours = normalise(torch.from_numpy(centre(image, 48, 48)[None]), Preprocessing(48, 48))
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-5)


@pytest.mark.parametrize(("resize", "crop"), [(48, 49), (48, 0), (0, 0)])
def test_a_crop_larger_than_the_photo_is_refused(resize: int, crop: int) -> None:
    with pytest.raises(InputError, match="crop"):
        Preprocessing(resize, crop)


@pytest.mark.gpu
@pytest.mark.parametrize("crops", ["one", "ten"])
def test_a_gpu_cuts_what_a_cpu_cuts(crops: CropName) -> None:
    photos = [as_tensor(natural(*shape, seed=seed)) for seed, shape in enumerate(SHAPES)]
    here = crop_photos(photos, Preprocessing(56, 56), crops=crops)
    there = crop_photos([photo.cuda() for photo in photos], Preprocessing(56, 56), crops=crops).cpu()
    assert (here.int() - there.int()).abs().max() <= 1
