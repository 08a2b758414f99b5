"""Multipart bodies: the same form however the body is cut, limits while it is read, nothing on a disk."""

import asyncio
import itertools
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.service.admission import Full
from search.service.uploads import BadUpload, Form, Upload, length_of, read_form, within

TYPE = "multipart/form-data; boundary=b"


async def pieces_of(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def read(pieces: Iterable[bytes], kind: str = TYPE, admit: Callable[[str], None] = lambda _: None) -> Form:
    return asyncio.run(read_form(pieces_of(pieces), kind, admit=admit))


def part(name: str, content: bytes, file: str | None = None) -> bytes:
    named = f'; filename="{file}"' if file is not None else ""
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode() + content + b"\r\n"


END = b"--b--\r\n"


@given(
    files=st.lists(st.binary(max_size=60), max_size=4),
    fields=st.dictionaries(st.sampled_from(["k", "region", "point"]), st.text(max_size=20)),
    cuts=st.lists(st.integers(0, 2000), max_size=30),
    every=st.booleans(),
)
def test_any_cut_of_a_body_gives_the_same_form(
    files: list[bytes], fields: dict[str, str], cuts: list[int], every: bool
) -> None:
    sent = [("photos", (f"{number}.jpg", content)) for number, content in enumerate(files)]
    request = httpx.Request("POST", "http://x", files=sent or [("photos", ("none", b""))], data=fields)
    body, kind = request.read(), request.headers["content-type"]  # as a client writes it, not as we would
    places = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))}) if not every else range(len(body) + 1)
    admitted: list[str] = []
    form = read((body[begin:end] for begin, end in itertools.pairwise(places)), kind, admitted.append)
    wanted = [Upload("photos", name, content) for _, (name, content) in sent] or [Upload("photos", "none", b"")]
    assert form.files == wanted
    assert form.fields == fields
    assert admitted == ["photos"] * len(wanted)


def test_a_file_is_admitted_before_any_of_it_is_kept_and_no_more_is_read() -> None:
    read_so_far = 0

    def pieces() -> Iterable[bytes]:
        nonlocal read_so_far
        for piece in (part("k", b"1"), part("photos", b"first", "a"), part("photos", b"x" * 100, "b"), END):
            read_so_far += 1
            yield piece

    rooms = iter([None, Full(7)])

    def admit(field: str) -> None:
        if error := next(rooms):
            raise error

    with pytest.raises(Full):
        read(pieces(), admit=admit)
    assert read_so_far == 3


def test_limits_hold_while_a_body_is_read() -> None:
    given_out = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal given_out
        yield part("photos", b"", "a")[:-2]
        while True:
            given_out += 1000
            yield b"x" * 1000

    with pytest.raises(BadUpload, match="larger than 50,000 bytes") as refused:
        asyncio.run(read_form(within(endless(), "", max_bytes=50_000), TYPE, admit=lambda _: None))
    assert refused.value.status == 413
    assert given_out <= 51_000
    given_out = 0
    with pytest.raises(BadUpload, match="larger than"):
        asyncio.run(read_form(within(endless(), "50001", max_bytes=50_000), TYPE, admit=lambda _: None))
    assert given_out == 0


@pytest.mark.parametrize(
    ("text", "length"),
    [("", None), ("12", 12), ("-1", None), ("1e3", None), ("²", None), ("٣", None), ("0x1", None), (" 1", None)],
)
def test_a_length_is_plain_digits(text: str, length: int | None) -> None:
    assert length_of(text) == length


def test_a_length_of_many_digits_is_a_large_one() -> None:
    assert (length_of("9" * 5000) or 0) > 10**18


@pytest.mark.parametrize(
    ("body", "kind", "status", "message"),
    [
        (b"", "image/jpeg", 415, "multipart/form-data"),
        (b"", "multipart/form-data", 415, "multipart/form-data"),
        (b"", "multipart/mixed; boundary=b", 415, "multipart/form-data"),
        (b"", "", 415, "multipart/form-data"),
        (END, "multipart/form-data; boundary=" + "b" * 5000, 400, "cannot be read"),
        (b"", TYPE, 400, "cut short"),
        (part("k", b"1"), TYPE, 400, "cut short"),
        (part("photos", b"x", "a")[:-9], TYPE, 400, "cut short"),
        (b"nonsense", TYPE, 400, "cannot be read"),
        (b"--b\r\n\r\nx\r\n" + END, TYPE, 400, "no name"),
        (b"--b\r\nContent-Disposition: attachment; name=k\r\n\r\nx\r\n" + END, TYPE, 400, "no name"),
        (b"--b\r\nX: " + b"y" * 100_000 + b"\r\n\r\nx\r\n" + END, TYPE, 400, "cannot be read"),
        (b"--b\r\n" + b"X: y\r\n" * 1000 + b"\r\nx\r\n" + END, TYPE, 400, "cannot be read"),
        (part("k", b"1") + part("k", b"2") + END, TYPE, 400, "twice"),
        (part("k", b"\xff") + END, TYPE, 400, "not UTF-8"),
        (b"".join(part(f"f{number}", b"") for number in range(33)) + END, TYPE, 400, "more than 32 fields"),
        (part("region", b"x" * 300_000) + END, TYPE, 413, "longer than 262,144 bytes"),
    ],
)
def test_a_body_that_cannot_be_used_says_why(body: bytes, kind: str, status: int, message: str) -> None:
    with pytest.raises(BadUpload, match=message) as refused:
        read([body], kind)
    assert refused.value.status == status


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\photos\\a.jpg", "a.jpg"),
        ("", "photo"),
        ("/", "photo"),
        ("a\x00\x1b[31m.jpg", "a[31m.jpg"),
        ("gpj.\u202e.exe", "gpj..exe"),
        ("x" * 1000, "x" * 255),
        ("Größe.jpg", "Größe.jpg"),
    ],
)
def test_names_of_files_are_plain(sent: str, name: str) -> None:
    (upload,) = read([part("photos", b"", sent) + END]).files
    assert upload.name == name


def test_no_file_appears_whatever_the_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(tempfile, "_TemporaryFileArgs", None, raising=False)
    opened: list[object] = []
    for name in ("TemporaryFile", "NamedTemporaryFile", "SpooledTemporaryFile", "mkstemp"):
        monkeypatch.setattr(tempfile, name, lambda *_, **__: opened.append("opened"))
    form = read([part("photos", b"x" * 5_000_000, "a") + END])
    assert len(form.files[0].content) == 5_000_000
    assert not opened
    assert not list(tmp_path.iterdir())
