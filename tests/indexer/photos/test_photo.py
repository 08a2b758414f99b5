"""A photo's name is text that any table can hold, and no secret of where it lies is shown."""

import os

import pytest

from indexer.photos.photo import FileRange, Photo, text_of


@pytest.mark.parametrize(
    ("name", "text"), [(b"caf\xc3\xa9.jpg", "café.jpg"), (b"caf\xe9.jpg", "caf\\xe9.jpg"), (b"\xff\xfe", "\\xff\\xfe")]
)
def test_names_that_are_no_text_become_text(name: bytes, text: str) -> None:
    assert text_of(os.fsdecode(name)) == text
    text_of(os.fsdecode(name)).encode()  # which halves of letters would not let pass


def test_credentials_are_kept_to_read_with_and_never_shown() -> None:
    place = FileRange("https://user:S3CRET@host/a.tar", offset=512, size=7)
    assert "S3CRET" in place.uri
    shown = repr(Photo("a.jpg", place, 0.0, 0.0, class_map=place))
    assert "S3CRET" not in shown
    assert "FileRange('https://***@host/a.tar', offset=512, size=7)" in shown
