"""Opening files of images: which are refused, and what Pillow's errors become."""

from pathlib import Path

import pytest

from indexer.errors import BadImage
from indexer.photos.image_files import opened_image, problems_named
from tests.photo_files import jpeg


def test_a_path_and_its_bytes_are_the_same_image(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    for file in (tmp_path / "a.jpg", jpeg()):
        with opened_image(file, max_pixels=96 * 96) as image:
            assert (image.size, image.format) == ((96, 96), "JPEG")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"text", "not_an_image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_an_image"),  # opening it would run Ghostscript
        (jpeg(), "too_large"),
        (jpeg()[:20], "not_an_image"),
    ],
)
def test_what_cannot_be_used_has_a_code(data: bytes, code: str) -> None:
    with pytest.raises(BadImage) as caught, opened_image(data, max_pixels=96 * 96 - 1):
        pass
    assert caught.value.code == code


def test_what_fails_inside_is_named_too() -> None:
    with pytest.raises(BadImage, match="damaged"), opened_image(jpeg()[:-500], max_pixels=10**6) as image:
        image.load()
    with pytest.raises(BadImage, match="no_memory"), problems_named():
        raise MemoryError
