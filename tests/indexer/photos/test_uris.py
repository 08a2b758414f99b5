"""Where bytes may lie: what is refused, what is masked, where relative names lead, and what folders list."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.errors import InputError, MissingBackend
from indexer.photos.uris import (
    _DEPTH,
    SCHEMES,
    _refuse_plain,
    check_location,
    explained,
    file_system,
    files_below,
    folder_of,
    is_uri,
    join,
    local_path,
    masked,
    reading,
    refusal,
)
from tests.web import served

FILES = ["a.jpg", "a/x.jpg", "a-b/1.jpg", "a/b/c.jpg", "a0.jpg", "b/2.png", "b/.hidden", "z"]
SIGNED = "https://h/a.jpg?w=3&X-Amz-Signature=S3CRET&X-Amz-Credential=S3CRET&sig=S3CRET"


@pytest.mark.parametrize(
    "location", ["a.jpg", "/a:b/c::d.jpg", "C:/x", "a://", "simplecache::x.jpg", "1://x", "./s3://x"]
)
def test_what_names_no_scheme_is_a_local_path(location: str) -> None:
    assert local_path(location) == location
    assert refusal(location, SCHEMES) is None


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///a/b.jpg", "/a/b.jpg"),
        ("FILE://localhost/a%20b%25.jpg", "/a b%.jpg"),
        ("file:///caf%E9.jpg", "/caf\udce9.jpg"),
        ("s3://bucket/key", None),
    ],
)
def test_file_uris_are_local_paths(uri: str, path: str | None) -> None:
    assert is_uri(uri)
    assert local_path(uri) == path
    assert refusal(uri, SCHEMES) is None


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://h/a.jpg", "scheme 'http' is not allowed (allowed: file, s3,"),
        ("FTP://h/a.jpg", "scheme 'ftp' is not allowed"),
        ("memory://a", "scheme 'memory' is not allowed"),
        ("simplecache::s3://b/k", "cannot be chained"),
        ("zip://a.jpg::https://h/b.zip", "cannot be chained"),
        ("s3://b/k::file:///etc/passwd", "cannot be chained"),
        ("file://host/a.jpg", "has no host"),
        ("file://a.jpg", "has no host"),
    ],
)
def test_what_may_not_be_read_is_refused_with_its_reason(location: str, reason: str) -> None:
    assert reason in (refusal(location, SCHEMES) or "")
    with pytest.raises(InputError, match="Copy it to where it may be read") as caught:
        check_location(location, SCHEMES)
    assert ("allow its scheme" in str(caught.value)) == ("not allowed" in reason)


def test_local_paths_are_of_scheme_file() -> None:
    assert "scheme 'file' is not allowed" in (refusal("/etc/passwd", ("s3",)) or "")
    assert refusal("http://h/x", (*SCHEMES, "http")) is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:S3CRET@h/a", "https://***@h/a"),
        ("https://S3CRET@h/a", "https://***@h/a"),
        ("https://u:p@S3CRET@h/a", "https://***@h/a"),
        ("see s3://S3CRET:S3CRET@b/k and https://u:S3CRET@h.", "see s3://***@b/k and https://***@h."),
        (SIGNED, "https://h/a.jpg?w=3&X-Amz-Signature=***&X-Amz-Credential=***&sig=***"),
        ("403, url='https://h/a?token=S3CRET'", "403, url='https://h/a?token=***'"),
        ("abfs://container@account.dfs.core.windows.net/k", "abfs://container@account.dfs.core.windows.net/k"),
        ("https://h/a@b.jpg?size=3&design=x", "https://h/a@b.jpg?size=3&design=x"),
        ("/home/u:p@h/a?token=x", "/home/u:p@h/a?token=x"),
    ],
)
def test_credentials_are_masked_and_nothing_else(text: str, shown: str) -> None:
    assert masked(text) == shown


def test_no_message_of_an_error_has_credentials() -> None:
    with pytest.raises(InputError) as caught, reading(SIGNED):
        raise ValueError(f"403 for {SIGNED}")
    assert "S3CRET" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    with pytest.raises(InputError, match="no such file"), reading(SIGNED):
        raise FileNotFoundError(SIGNED)
    assert explained(TimeoutError()) == "TimeoutError"
    with pytest.raises(InputError) as caught:
        check_location(SIGNED.replace("https", "http"), SCHEMES)
    assert "S3CRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("root", "name", "place"),
    [
        ("", "a.jpg", "a.jpg"),
        ("/data", "a.jpg", "/data/a.jpg"),
        ("/data/", "../a.jpg", "/data/../a.jpg"),
        ("/", "a.jpg", "/a.jpg"),
        ("/data", "/a.jpg", "/a.jpg"),
        ("/data", "s3://b/a.jpg", "s3://b/a.jpg"),
        ("/data", "x::s3://b/a.jpg", "x::s3://b/a.jpg"),
        ("/data", "a::b:c.jpg", "/data/a::b:c.jpg"),
        ("s3://b/t", "a.jpg", "s3://b/t/a.jpg"),
        ("s3://b/t", "./x/../a.jpg", "s3://b/t/a.jpg"),
        ("s3://b/t", "../p/a.jpg", "s3://b/p/a.jpg"),
        ("s3://b/t", "../../../../etc/passwd", "s3://b/etc/passwd"),
        ("s3://b/t", "/etc/passwd", "s3://b/etc/passwd"),
        ("s3://b", "a.jpg", "s3://b/a.jpg"),
        ("https://h:8/t", "x//a.jpg", "https://h:8/t/x//a.jpg"),
    ],
)
def test_names_lead_where_their_table_says(root: str, name: str, place: str) -> None:
    assert join(root, name) == place


@given(st.text(alphabet="a./:", max_size=12), st.sampled_from(["s3://bucket", "s3://bucket/t", "https://h/a/b"]))
def test_no_relative_name_leaves_its_bucket_or_host(name: str, root: str) -> None:
    place = join(root, name)
    if not is_uri(name):
        assert f"{place}/".startswith("/".join(root.split("/")[:3]) + "/")
        assert ".." not in PurePosixPath(place).parts


def test_a_table_on_the_web_is_in_the_folder_before_its_query() -> None:
    assert folder_of("https://h/t/a.csv?sig=a/b") == "https://h/t"
    assert folder_of("s3://b/t?/a.csv") == "s3://b/t?"


def test_a_missing_driver_is_one_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise ImportError("Install s3fs")

    monkeypatch.setattr("fsspec.core.url_to_fs", fail)
    with pytest.raises(MissingBackend, match=r"s3:// needs another package here: pip install s3fs"):
        file_system("s3://bucket/key")
    with pytest.raises(InputError, match=r"ftp:// needs another package here: Install s3fs"):
        file_system("ftp://u:p@h/key")


def test_an_address_that_makes_no_sense_is_an_error_of_the_input() -> None:
    with pytest.raises(InputError, match="Check how the address is written"):
        file_system("nosuchscheme://u:S3CRET@x/y")


def test_https_is_never_sent_on_to_http() -> None:
    def follow(scheme: str, target: str) -> None:
        redirect = SimpleNamespace(
            url=SimpleNamespace(scheme=scheme), response=SimpleNamespace(headers={"Location": target})
        )
        asyncio.run(_refuse_plain(None, None, redirect))

    follow("https", "https://elsewhere/")
    follow("https", "/here")
    follow("http", "http://elsewhere/")
    with pytest.raises(PermissionError, match="not encrypted"):
        follow("https", "HTTP://elsewhere/")


@pytest.fixture
def bucket() -> Iterator[str]:
    system = fsspec.filesystem("memory")
    for name in FILES:
        system.pipe_file(f"/folders/in/{name}", name.encode())
    yield "memory://folders/in"
    system.rm("/folders", recursive=True)


def made(folder: Path) -> Path:
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def test_here_and_in_a_bucket_alike(tmp_path: Path, bucket: str) -> None:
    want = sorted(FILES)
    for folder in (str(made(tmp_path)), f"{tmp_path}/", bucket, f"{bucket}/", made(tmp_path).as_uri()):
        assert list(files_below(folder)) == want


@given(st.sets(st.text("ab.-/0", min_size=1, max_size=6), max_size=8))
def test_the_order_is_that_of_the_names(names: set[str]) -> None:
    system = fsspec.filesystem("memory")
    wanted = set()
    for name in names:
        parts = name.split("/")
        if all(part.strip(".") for part in parts):
            wanted.add(name)
    wanted = {name for name in wanted if not any(other.startswith(f"{name}/") for other in wanted)}
    system.pipe({f"/order/{name}": b"" for name in [*wanted, "~"]})
    try:
        assert list(files_below("memory://order")) == sorted([*wanted, "~"])
    finally:
        system.rm("/order", recursive=True)


def test_links_to_files_are_files_and_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "link.jpg").symlink_to(tmp_path / "a.jpg")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "nowhere.jpg").symlink_to(tmp_path / "absent")  # a row with its reason
    assert list(files_below(str(tmp_path))) == sorted([*FILES, "link.jpg", "nowhere.jpg"])


def test_names_that_are_no_text_are_listed(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    (tmp_path / name).touch()
    assert list(files_below(str(tmp_path))) == [name]


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no such file"):
        list(files_below(str(tmp_path / "absent")))
    with pytest.raises(InputError, match="no such file"):
        list(files_below("memory://absent"))

    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\)"):
        list(files_below(str(tmp_path)))


def test_a_server_that_makes_up_folders_or_links_elsewhere_is_no_trap(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless:
        def ls(self, path: str, detail: bool) -> list[dict[str, str]]:
            return [{"name": f"{path}/again/", "type": "directory"}, {"name": f"{path}/../x/", "type": "directory"}]

        def invalidate_cache(self, path: str) -> None:
            pass

    monkeypatch.setattr("indexer.photos.uris.file_system", lambda uri: (Endless(), uri))
    with pytest.raises(InputError, match=f"more than {_DEPTH} folders in each other"):
        list(files_below("https://h/x"))

    def elsewhere(self: Endless, path: str, detail: bool) -> list[dict[str, str]]:
        names = ["http://other/a.jpg", "https://h/xy/a.jpg", path, f"{path}/", f"{path}/a.jpg", f"{path}/../b.jpg"]
        return [{"name": name, "type": "file"} for name in names]

    monkeypatch.setattr(Endless, "ls", elsewhere)
    assert list(files_below("https://h/x/")) == ["a.jpg"]


def test_a_folder_on_the_web_is_what_its_page_links_to() -> None:
    links = ("b.jpg", "sub/", "../", "?C=N", "/x.jpg", "http://elsewhere/y.jpg")
    page = "".join(f'<a href="{link}">{link}</a>\n' for link in links).encode()
    with served(files={"/d": page, "/d/sub": b'<a href="c.jpg">c</a>'}) as web:
        found = list(files_below(f"{web.root}/d/"))
    assert [name for name in found if name.endswith(".jpg")] == ["b.jpg", "sub/c.jpg"]
