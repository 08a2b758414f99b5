import contextlib
import struct
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageFile
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from encoder.config import Preprocessing
from encoder.photos.crops import crop_photos
from encoder.photos.images import decode, file_of
from indexer.errors import BadImage
from tests.encoder.conftest import natural

RED = (200, 30, 40)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def decoded(path: Path, **options: int) -> Image.Image:
    return decode(path.read_bytes(), **options)


def code_of(path: Path, **options: int) -> str:
    with pytest.raises(BadImage) as caught:
        decoded(path, **options)
    assert caught.value.reason
    assert str(caught.value) == f"{caught.value.code}: {caught.value.reason}"
    return caught.value.code


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "gif", "webp", "jpg", "mpo"])
def test_every_format_photos_come_in(tmp_path: Path, suffix: str) -> None:
    image = decoded(saved(tmp_path / f"a.{suffix}", Image.new("RGB", (30, 20), RED)))
    assert image.mode == "RGB"
    assert image.size == (30, 20)
    assert np.abs(np.array(image.getpixel((5, 5))) - RED).max() <= 6


@pytest.mark.parametrize(
    ("mode", "value", "suffix", "want"),
    [
        ("1", 1, "png", (255, 255, 255)),
        ("L", 77, "png", (77, 77, 77)),
        ("LA", (77, 255), "png", (77, 77, 77)),
        ("RGBA", (*RED, 255), "png", RED),
        ("RGBA", (*RED, 0), "png", (255, 255, 255)),
        ("RGBA", (0, 0, 0, 128), "png", (127, 127, 127)),
        ("LA", (0, 0), "webp", (255, 255, 255)),
        ("L", 77, "jpg", (77, 77, 77)),
        ("CMYK", (0, 255, 255, 0), "tif", (255, 0, 0)),
        ("CMYK", (0, 255, 255, 0), "jpg", (255, 0, 0)),
        ("YCbCr", (128, 128, 128), "jpg", (128, 128, 128)),
        ("I;16", 77 * 257, "png", (77, 77, 77)),
        ("I;16", 77 * 257, "tif", (77, 77, 77)),
        ("I;16B", 77 * 257, "tif", (77, 77, 77)),
        ("I;16", 100, "tif", (0, 0, 0)),
        ("I", 77, "tif", (77, 77, 77)),
        ("I", 77 * 257, "tif", (77, 77, 77)),
        ("F", 0.5, "tif", (128, 128, 128)),
        ("F", 77.0, "tif", (77, 77, 77)),
    ],
)
def test_every_mode_becomes_rgb(
    tmp_path: Path, mode: str, value: float | tuple[int, ...], suffix: str, want: tuple[int, int, int]
) -> None:
    image = decoded(saved(tmp_path / f"a.{suffix}", Image.new(mode, (16, 16), value)))
    assert image.mode == "RGB"
    assert np.abs(np.array(image.getpixel((7, 7))) - want).max() <= 2


def test_palettes_with_and_without_transparency(tmp_path: Path) -> None:
    image = Image.new("RGB", (16, 16), RED).convert("P", palette=Image.Palette.ADAPTIVE)
    index = image.getpixel((0, 0))
    assert decoded(saved(tmp_path / "a.png", image)).getpixel((3, 3)) == RED
    assert decoded(saved(tmp_path / "b.png", image, transparency=index)).getpixel((3, 3)) == (255, 255, 255)


@pytest.mark.parametrize(("mode", "value"), [("RGB", (1, 2, 3)), ("L", 77), ("1", 0)])
def test_a_colour_that_stands_for_nothing_is_white(tmp_path: Path, mode: str, value: int | tuple[int, ...]) -> None:
    path = saved(tmp_path / "a.png", Image.new(mode, (16, 16), value), transparency=value)
    assert decoded(path).getpixel((3, 3)) == (255, 255, 255)


def test_palettes_with_their_own_alpha_and_with_one_for_each_pixel(tmp_path: Path) -> None:
    image = Image.new("RGB", (16, 16), RED).convert("P", palette=Image.Palette.ADAPTIVE)
    half = decoded(saved(tmp_path / "a.png", image, transparency=bytes([128] * 256))).getpixel((3, 3))
    np.testing.assert_allclose(half, (np.array(RED) + 255) / 2, atol=1)
    path = saved(tmp_path / "a.tif", image.convert("PA"))
    with Image.open(path) as stored:
        assert stored.mode == "PA"
    assert decoded(path).getpixel((3, 3)) == RED


@pytest.mark.parametrize("strip", [1 << 20, 7 * 16, 1])
def test_grey_of_sixteen_bits_keeps_its_shades(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strip: int) -> None:
    monkeypatch.setattr("encoder.photos.images._STRIP", strip)
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    values = np.asarray(decoded(saved(tmp_path / "a.png", Image.fromarray(ramp))))[..., 0]
    np.testing.assert_array_equal(values.ravel(), np.arange(256))


@pytest.mark.parametrize("value", [-5.0, 1e9, float("nan")])
def test_numbers_that_are_no_photo_are_refused(tmp_path: Path, value: float) -> None:
    assert code_of(saved(tmp_path / "a.tif", Image.new("F", (8, 8), value))) == "unreadable"


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in (RED, (0, 255, 0), (0, 0, 255))]
    for suffix in ("gif", "webp", "png", "tif"):
        path = saved(tmp_path / f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:], duration=50)
        assert np.abs(np.array(decoded(path).getpixel((5, 5))) - RED).max() <= 6, suffix


def test_a_progressive_jpeg_equals_a_plain_one(tmp_path: Path) -> None:
    plain, progressive = (saved(tmp_path / f"{p}.jpg", natural(90, 60), quality=90, progressive=p) for p in (0, 1))
    np.testing.assert_array_equal(np.asarray(decoded(plain)), np.asarray(decoded(progressive)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_every_orientation_comes_out_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = np.zeros((24, 40, 3), np.uint8)
    upright[:12, :20], upright[:12, 20:], upright[12:, :20] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    # How a camera held that way stores it; these undo each other.
    turns = {5: "TRANSPOSE", 6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}
    turns |= {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM"}
    stored = Image.fromarray(upright)
    if orientation > 1:
        stored = stored.transpose(Image.Transpose[turns[orientation]])
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image = decoded(saved(tmp_path / f"a.{suffix}", stored, exif=exif), shorter_edge=12)
    assert image.size == (40, 24)
    corners = np.array([image.getpixel(at) for at in ((8, 5), (32, 5), (8, 19), (32, 19))], int)
    assert np.abs(corners - [(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)]).max() < 40


def test_broken_metadata_does_not_cost_the_photo(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", natural(40, 30), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff broken")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert decoded(path).size == (40, 30)


def test_bytes_that_are_no_photo_have_their_code(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("a letter\n" * 100)
    (tmp_path / "eps.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    assert code_of(tmp_path / "empty.jpg") == "not_an_image"  # who reads it says `empty`
    assert code_of(tmp_path / "text.jpg") == "not_an_image"
    assert code_of(tmp_path / "eps.jpg") == "not_an_image"  # opening it would run Ghostscript


def test_a_right_photo_under_a_wrong_name_is_read(tmp_path: Path) -> None:
    natural(40, 30).save(tmp_path / "really_a_png.jpg", format="PNG")
    assert decoded(tmp_path / "really_a_png.jpg").size == (40, 30)
    natural(40, 30).save(tmp_path / "no_suffix", format="JPEG")
    assert decoded(tmp_path / "no_suffix").size == (40, 30)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "gif", "bmp", "webp"])
def test_a_file_that_ends_too_early_is_no_grey_half_photo(tmp_path: Path, suffix: str) -> None:
    whole = saved(tmp_path / f"a.{suffix}", natural(200, 150)).read_bytes()
    path = tmp_path / f"cut.{suffix}"
    for kept in (0.2, 0.6, 0.95):
        path.write_bytes(whole[: int(kept * len(whole))])
        assert code_of(path, shorter_edge=20) in {"damaged", "not_an_image"}
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "gif", "bmp", "webp"])
def test_whatever_is_wrong_with_a_file_it_is_an_image_or_a_bad_image(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    whole = np.frombuffer(saved(tmp_path / f"a.{suffix}", natural(60, 40), exif=exif).read_bytes(), np.uint8)
    rng = np.random.default_rng(0)
    path = tmp_path / f"b.{suffix}"
    for number in range(60):
        changed = whole.copy()
        place = rng.integers(0, 64 if number % 2 else len(whole), 4)  # headers are where decoders break
        changed[place] = rng.integers(0, 256, 4)
        path.write_bytes(changed.tobytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.suppress(BadImage):
                assert decoded(path, max_pixels=1_000_000).mode == "RGB"


def test_the_limit_on_pixels_is_exact_and_checked_before_decoding(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.new("RGB", (100, 50)))
    assert decoded(path, max_pixels=5000).size == (100, 50)
    with pytest.raises(BadImage, match="too_large: 100 x 50 pixels; at most 4,999"):
        decoded(path, max_pixels=4999)
    path.write_bytes(path.read_bytes()[:60])  # nothing but the header
    assert code_of(path, max_pixels=4999) == "too_large"


def test_a_decompression_bomb_is_refused_at_once(tmp_path: Path) -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)  # one bit of grey
    rows = zlib.compress(bytes(20_000 * (1 + 20_000 // 8)))
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(bomb)
    assert len(bomb) < 100_000
    assert code_of(tmp_path / "bomb.png") == "too_large"


@pytest.mark.parametrize(
    ("shape", "factor"), [((1600, 1200), 8), ((904, 1200), 8), ((700, 400), 4), ((404, 200), 2), ((300, 191), 1)]
)
def test_a_reduced_jpeg_shows_the_same_crop(tmp_path: Path, shape: tuple[int, int], factor: int) -> None:
    path = saved(tmp_path / "a.jpg", natural(*shape), quality=92)
    full, reduced = decoded(path), decoded(path, shorter_edge=48)
    assert full.size == shape
    assert reduced.size == (shape[0] // factor, shape[1] // factor)
    assert min(reduced.size) >= 96
    one, other = (
        crop_photos([torch.from_numpy(np.array(image))], Preprocessing(48, 48), crops="one").int()
        for image in (full, reduced)
    )
    assert (one - other).abs().float().mean() < 2.5


@pytest.mark.parametrize("turned", [1, 6])
@pytest.mark.parametrize("shape", [(1201, 900), (905, 1207), (785, 1571), (397, 401)])
def test_a_jpeg_of_any_edges_is_reduced_without_moving_it(tmp_path: Path, shape: tuple[int, int], turned: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turned
    path = saved(tmp_path / "a.jpg", natural(*shape), quality=92, exif=exif)
    full, reduced = decoded(path), decoded(path, shorter_edge=48)
    assert min(reduced.size) == 96
    assert full.size == (shape if turned == 1 else shape[::-1])
    wanted = full.resize(reduced.size, Image.Resampling.BICUBIC)

    def apart(east: int, south: int) -> float:
        """How far both are apart when one is moved."""
        one, other = (np.asarray(image, np.float64)[4:-4, 4:-4] for image in (reduced, wanted))
        return float(np.abs(np.roll(one, (south, east), (0, 1)) - other)[2:-2, 2:-2].mean())

    assert apart(0, 0) < 0.5 * min(apart(1, 0), apart(-1, 0), apart(0, 1), apart(0, -1))


@pytest.mark.parametrize(("shape", "factor"), [((1400, 1344), 2), ((3200, 2704), 4), ((2711, 2693), None)])
def test_a_reduced_jpeg_is_close_to_what_clips_own_processor_makes_of_all_of_it(
    tmp_path: Path, shape: tuple[int, int], factor: int | None
) -> None:
    path = saved(tmp_path / "a.jpg", natural(*shape), quality=92)
    reduced = decoded(path, shorter_edge=336)
    assert reduced.size == ((676, 672) if factor is None else (shape[0] // factor, shape[1] // factor))
    ours = crop_photos([torch.from_numpy(np.array(reduced))], Preprocessing(), crops="one")[0, 0].int()
    processor = CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    with Image.open(path) as image:
        theirs = processor(image, return_tensors="pt", do_rescale=False, do_normalize=False)["pixel_values"][0].int()
    difference = (ours - theirs).abs().float()
    assert difference.mean() < 1.0  # 0.86: these have more grain than photos
    assert (difference > 2).float().mean() < 0.06


def test_only_jpegs_with_pixels_to_spare_are_reduced(tmp_path: Path) -> None:
    image = natural(1600, 1200)
    assert decoded(saved(tmp_path / "a.png", image), shorter_edge=48).size == (1600, 1200)
    assert decoded(saved(tmp_path / "a.jpg", image), shorter_edge=336).size == (1600, 1200)
    assert decoded(saved(tmp_path / "a.jpg", image), shorter_edge=300).size == (800, 600)
    assert decoded(saved(tmp_path / "a.mpo", image), shorter_edge=300).size == (800, 600)


def test_threads_get_the_same_pixels_and_leave_no_settings_behind(tmp_path: Path) -> None:
    paths = [saved(tmp_path / f"{n}.jpg", natural(200, 150, seed=n)) for n in range(12)]
    before = (Image.MAX_IMAGE_PIXELS, list(warnings.filters), threading.active_count())
    alone = [np.asarray(decoded(path)) for path in paths]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda path: np.asarray(decoded(path)), paths))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters), threading.active_count()) == before


@pytest.mark.parametrize("name", ["a.png", "turned.jpg", "clear.webp", "grey.tif", "index.gif"])
def test_an_image_in_memory_goes_the_way_of_its_file(tmp_path: Path, name: str) -> None:
    image, options = natural(50, 31, seed=9), {}
    if name == "turned.jpg":
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        options = {"exif": exif}
    elif name == "clear.webp":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    elif name == "grey.tif":
        image = Image.fromarray(np.linspace(0, 65535, 31 * 50).astype(np.uint16).reshape(31, 50))
    elif name == "index.gif":
        image = image.quantize(16)
    want = np.asarray(decoded(saved(tmp_path / name, image, **options)))
    with Image.open(tmp_path / name) as opened:
        np.testing.assert_array_equal(np.asarray(decode(file_of(opened))), want)
        opened.load()
        np.testing.assert_array_equal(np.asarray(decode(file_of(opened))), want)


def test_an_image_in_memory_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    data = saved(tmp_path / "a.jpg", natural(200, 100)).read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[: len(data) // 2])
    with Image.open(tmp_path / "a.jpg") as cut, pytest.raises(BadImage) as caught:
        file_of(cut)
    assert caught.value.code == code_of(tmp_path / "a.jpg") == "damaged"
