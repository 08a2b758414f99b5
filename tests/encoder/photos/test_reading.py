"""Bytes of photos from files, parts of files and URIs; each reason why there are none."""

import errno
import os
import pickle
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from encoder.photos import reading
from encoder.photos.reading import read_bytes
from indexer.errors import BadImage, MissingBackend
from indexer.photos.photo import FileRange
from indexer.photos.uris import SCHEMES
from tests.web import served

OPEN = (*SCHEMES, "memory", "http")


@pytest.fixture(autouse=True)
def low_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_BYTES", 1000)
    monkeypatch.setattr(reading, "_WAIT_S", 0.01)


def refused(data: FileRange | bytes | None, schemes: tuple[str, ...] = OPEN) -> tuple[str, str]:
    with pytest.raises(BadImage) as caught:
        read_bytes(data, schemes=schemes)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value.code, caught.value.reason


def test_whole_files_and_parts_of_them(tmp_path: Path) -> None:
    path = tmp_path / "a%20b::c.bin"
    path.write_bytes(bytes(range(200)))
    for uri in (str(path), path.as_uri()):
        assert read_bytes(FileRange(uri), schemes=OPEN) == bytes(range(200))
        assert read_bytes(FileRange(uri, 10, 5), schemes=OPEN) == bytes(range(10, 15))
        assert read_bytes(FileRange(uri, 190), schemes=OPEN) == bytes(range(190, 200))
    assert read_bytes(b"as it is", schemes=OPEN) == b"as it is"


def test_what_is_not_there_each_has_its_reason(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("a letter")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.jpg")
    for name, code in {
        "absent.jpg": "missing",
        "text.jpg/inside.jpg": "missing",
        "link.jpg": "missing",
        "empty.jpg": "empty",
        "": "not_an_image",
        "x" * 300: "unreadable",
        "nul\0.jpg": "unreadable",
        "pipe.jpg": "unreadable",
    }.items():
        assert refused(FileRange(f"{tmp_path}/{name}"))[0] == code, name
    assert refused(FileRange("/dev/zero"))[0] == "unreadable"
    assert refused(None) == ("missing", "no photo is named here")
    assert refused(b"") == ("empty", "the file has no bytes")
    assert refused(FileRange(str(tmp_path / "text.jpg"), 4, 100)) == ("damaged", "4 bytes of 100 are there")
    assert refused(FileRange(str(tmp_path / "text.jpg"), 100, 4))[0] == "damaged"


def test_a_file_we_may_not_read_is_no_damaged_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")  # root may read anything, so a mode of 000 shows nothing

    monkeypatch.setattr("encoder.photos.reading.os.open", refuse)
    assert refused(FileRange(str(tmp_path / "a.jpg"))) == ("unreadable", "Permission denied")


def test_the_limit_on_bytes_is_exact_and_nothing_beyond_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(bytes(1000))
    assert len(read_bytes(FileRange(str(path)), schemes=OPEN)) == 1000
    os.truncate(path, 1001)
    assert refused(FileRange(str(path))) == ("too_large", "1,001 bytes; at most 1,000 are read")
    os.truncate(path, 1 << 40)  # a sparse file: reading it would take the memory
    assert refused(FileRange(str(path)))[0] == "too_large"
    assert refused(FileRange(str(path), 0, 1 << 39))[0] == "too_large"
    assert refused(bytes(1001))[0] == "too_large"


@pytest.fixture
def bucket() -> Iterator[str]:
    system = fsspec.filesystem("memory")
    system.pipe({"/reading/a.jpg": bytes(range(200)), "/reading/empty.jpg": b"", "/reading/large.jpg": bytes(1001)})
    yield "memory://reading"
    system.rm("/reading", recursive=True)


def test_a_bucket_is_read_as_files_are(bucket: str) -> None:
    assert read_bytes(FileRange(f"{bucket}/a.jpg"), schemes=OPEN) == bytes(range(200))
    assert read_bytes(FileRange(f"{bucket}/a.jpg", 10, 5), schemes=OPEN) == bytes(range(10, 15))
    assert refused(FileRange(f"{bucket}/absent.jpg"))[0] == "missing"
    assert refused(FileRange(f"{bucket}/empty.jpg"))[0] == "empty"
    assert refused(FileRange(f"{bucket}/large.jpg"))[0] == "too_large"
    assert refused(FileRange(f"{bucket}/a.jpg", 190, 20))[0] == "damaged"


def test_a_store_that_refuses_ranges_of_nothing_has_empty_photos(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(22, "The requested range is not satisfiable")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.cat_file", refuse)
    assert refused(FileRange(f"{bucket}/empty.jpg"))[0] == "empty"
    assert refused(FileRange(f"{bucket}/a.jpg")) == ("unreadable", "The requested range is not satisfiable")


@pytest.mark.parametrize("ranges", [True, False])
def test_the_web_is_read_once_and_with_limits(ranges: bool) -> None:
    files = {"/a.jpg": bytes(range(200)), "/empty.jpg": b"", "/large.jpg": bytes(1001), "/b c.jpg": b"space"}
    status = {"/secret.jpg": 403, "/broken.jpg": 500}
    with served(
        files=files, ranges=ranges, status=status, redirects={"/moved.jpg": "/a.jpg"}, endless={"/endless"}
    ) as web:
        assert read_bytes(FileRange(f"{web.root}/a.jpg?w=1"), schemes=OPEN) == bytes(range(200))
        assert [sent for _, _, sent in web.asked] == [200]  # one request
        assert read_bytes(FileRange(f"{web.root}/moved.jpg"), schemes=OPEN) == bytes(range(200))
        for name, code in {
            "absent.jpg": "missing",
            "empty.jpg": "empty",
            "large.jpg": "too_large",
            "endless": "too_large",
            "broken.jpg": "unreadable",
        }.items():
            assert refused(FileRange(f"{web.root}/{name}"))[0] == code, name
        part = FileRange(f"{web.root}/a.jpg", 10, 5)
        if ranges:
            assert read_bytes(part, schemes=OPEN) == bytes(range(10, 15))
        else:
            assert refused(part)[0] == "unreadable"
        with_password = web.root.replace("http://", "http://u:S3CRET@")
        code, reason = refused(FileRange(f"{with_password}/secret.jpg?token=S3CRET"))
        assert code == "unreadable"
        assert "403" in reason
        assert "S3CRET" not in reason
    assert refused(FileRange(f"{web.root}/a.jpg"))[0] == "unreadable"  # the server is gone


@pytest.mark.parametrize(
    "uri", ["http://h/a.jpg", "ftp://u:S3CRET@h/a.jpg", "simplecache::s3://b/k", "s3://b/k::file:///x", "file://h/x"]
)
def test_uris_outside_the_rules_are_rows_with_a_reason(uri: str) -> None:
    code, reason = refused(FileRange(uri), SCHEMES)
    assert code == "scheme"
    assert "S3CRET" not in reason
    assert "u:" not in reason


def test_local_files_can_be_closed_too(tmp_path: Path) -> None:
    assert refused(FileRange("/etc/passwd"), ("s3",))[0] == "scheme"


def test_a_missing_driver_ends_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", fail)
    with pytest.raises(MissingBackend, match="pip install s3fs"):
        read_bytes(FileRange("s3://bucket/a.jpg"))


def test_an_address_that_makes_no_sense_is_one_row() -> None:
    assert refused(FileRange("nosuchscheme://x/y"), ("nosuchscheme",))[0] == "unreadable"


def read_here(data: FileRange) -> bytes:
    return read_bytes(data, schemes=OPEN)


def test_threads_and_processes_read_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(range(250)))
    with served(files={"/a.bin": path.read_bytes()}) as web:
        ranges = [FileRange(uri, at, 10) for at in range(0, 200, 10) for uri in (str(path), f"{web.root}/a.bin")]
        want = [bytes(range(place.offset, place.offset + 10)) for place in ranges]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(read_here, ranges)) == want
        context = get_context("forkserver")
        # The one server of this process, for all tests to come.
        context.set_forkserver_preload(["encoder.photos.decoding"])
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            assert list(pool.map(read_here, ranges)) == want
    assert pickle.loads(pickle.dumps(ranges)) == ranges
    assert len(pickle.dumps(ranges[0])) < 300


class Flaky(MemoryFileSystem):
    """A store that fails to give a file a few times before it does."""

    protocol = "flaky"
    failures: ClassVar[list[Exception]] = []
    requests: ClassVar[int] = 0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("flaky://")))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: object) -> bytes:
        type(self).requests += 1
        if self.failures:
            raise self.failures.pop(0)
        return super().cat_file(path, start, end, **options)


class Refused(OSError):
    status = 403


class TooOften(OSError):
    status = 429


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    Flaky.failures, Flaky.requests = [], 0
    fsspec.filesystem("flaky").pipe("/a.jpg", b"photo")
    monkeypatch.setattr(reading, "_WAIT_S", 0.5)
    monkeypatch.setattr(time, "sleep", lambda seconds: waits.append(seconds))
    waits.clear()
    yield "flaky://a.jpg"
    fsspec.filesystem("flaky").rm("/a.jpg")


waits: list[float] = []
FLAKY = (*SCHEMES, "flaky")


def test_a_store_that_fails_now_and_then_is_asked_again_and_less_and_less_often(flaky: str) -> None:
    Flaky.failures = [ConnectionResetError("reset"), TimeoutError(), TooOften("slow down")]
    assert read_bytes(FileRange(flaky), schemes=FLAKY) == b"photo"
    assert Flaky.requests == 4
    for wait, nominal in zip(waits, (0.5, 1, 2), strict=True):
        assert 0.75 * nominal <= wait <= 1.25 * nominal


def test_a_store_that_goes_on_failing_is_a_row_with_its_reason(flaky: str) -> None:
    Flaky.failures = [ConnectionResetError(errno.ECONNRESET, "reset by peer") for _ in range(9)]
    assert refused(FileRange(flaky), FLAKY) == ("unreadable", "reset by peer")
    assert Flaky.requests == 4


@pytest.mark.parametrize("error", [FileNotFoundError("no"), PermissionError("no"), Refused("no"), ValueError("no")])
def test_what_stays_so_is_asked_once(flaky: str, error: Exception) -> None:
    Flaky.failures = [error]
    refused(FileRange(flaky), FLAKY)
    assert (Flaky.requests, waits) == (1, [])
