"""Class maps as files: what a PNG says, what is refused, and which photo a map belongs to."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from encoder.class_maps.class_map import check_fit, decode_map, encode_map, map_shape
from indexer.errors import BadImage

SIZES = st.tuples(st.integers(1, 20_000), st.integers(1, 20_000))


def png(image: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def raw_png(bits: int, colour: int, row: bytes, width: int) -> bytes:
    """A PNG of one row, as tools other than Pillow may write it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(3 * (1 << bits))) if colour == 3 else b""
    data = chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + data + chunk(b"IEND", b"")


def code_of(data: bytes, **options: int) -> str:
    with pytest.raises(BadImage) as caught:
        decode_map(data, **options)
    assert caught.value.reason
    return caught.value.code


@given(arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_encoding_and_decoding_are_inverse(classes: np.ndarray) -> None:
    np.testing.assert_array_equal(decode_map(encode_map(classes)), classes)


def test_a_palette_is_read_by_its_indices_whatever_the_colours() -> None:
    classes = np.arange(256, dtype=np.uint8).reshape(8, 32)
    image = Image.fromarray(classes)
    image.putpalette(np.random.default_rng(0).bytes(768))
    np.testing.assert_array_equal(decode_map(png(image)), classes)
    np.testing.assert_array_equal(decode_map(png(image, optimize=True)), classes)
    few = Image.fromarray(classes % 3)
    few.putpalette(bytes(range(9)))
    np.testing.assert_array_equal(decode_map(png(few, bits=2)), classes % 3)
    assert decode_map(raw_png(4, 3, b"\x01\x2f", 4)).tolist() == [[0, 1, 2, 15]]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "I;16", "1"])
def test_pngs_of_other_kinds_are_refused(mode: str) -> None:
    assert code_of(png(Image.new(mode, (5, 4)))) == "bad_map"


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_is_refused_because_readers_disagree_on_it(bits: int) -> None:
    assert code_of(raw_png(bits, 0, b"\x1b\x1b\x1b\x1b", 4)) == "bad_map"


def test_what_is_no_whole_png_is_refused() -> None:
    good = encode_map(np.random.default_rng(0).integers(0, 9, (40, 50), dtype=np.uint8))
    jpeg = io.BytesIO()
    Image.new("L", (5, 4)).save(jpeg, "JPEG")
    for data in (b"", b"text", jpeg.getvalue(), good[:8], good[:20], good[:40], good[: len(good) // 2]):
        assert code_of(data) == "bad_map"
    assert code_of(good, max_pixels=1999) == "bad_map"
    assert decode_map(good, max_pixels=2000).shape == (40, 50)


@given(SIZES, st.integers(1, 1000), st.integers(1, 5000))
def test_a_map_of_our_own_making_fits_its_photo(size: tuple[int, int], edge: int, longest: int) -> None:
    shape = map_shape(size, edge=edge, longest=longest)
    assert 1 <= min(shape) <= max(1, edge)
    assert 1 <= max(shape) <= max(1, longest)
    assert shape[0] <= size[1]
    assert shape[1] <= size[0]
    check_fit(shape, size)


@given(SIZES, st.integers(1, 3000), st.sampled_from([int, round, lambda edge: -int(-edge // 1)]))
def test_maps_of_others_fit_however_they_round(size: tuple[int, int], shorter: int, rounded: object) -> None:
    scale = shorter / min(size)
    width, height = (max(1, rounded(round(scale * edge, 6))) for edge in size)
    check_fit((height, width), size)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((640, 480), (640, 480)),  # turned: of the photo as it lies in the file
        ((384, 384), (640, 480)),  # a square crop
        ((480, 643), (640, 480)),
        ((478, 640), (640, 480)),
        ((1440, 1926), (640, 480)),  # larger than the photo, and more than a pixel of it off
        ((0, 0), (640, 480)),
    ],
)
def test_a_map_of_another_shape_is_refused_with_both_sizes(shape: tuple[int, int], size: tuple[int, int]) -> None:
    with pytest.raises(BadImage, match=rf"map_size: a class map of {shape[1]} x {shape[0]} .* {size[0]} x {size[1]} "):
        check_fit(shape, size)


@pytest.mark.parametrize("shape", [(480, 640), (240, 320), (384, 512), (384, 511), (480, 641), (1440, 1921), (3, 4)])
def test_a_map_of_the_same_shape_at_any_scale_fits(shape: tuple[int, int]) -> None:
    check_fit(shape, (640, 480))
