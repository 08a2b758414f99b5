"""Folders here and at URIs list the same files in the same order."""

import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.errors import InputError
from indexer.photos.folders import _DEPTH, files_below
from tests.web import served

FILES = ["a.jpg", "a/x.jpg", "a-b/1.jpg", "a/b/c.jpg", "a0.jpg", "b/2.png", "b/.hidden", "z"]


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

    monkeypatch.setattr("indexer.photos.folders.file_system", lambda uri: (Endless(), uri))
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
