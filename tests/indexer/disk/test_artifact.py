"""Folders are whole or absent: failures, leftovers, collisions."""

import errno
import itertools
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from indexer.disk.artifact import (
    Draft,
    check_file,
    check_target,
    remove_leftovers,
    replace_symlink,
    write_file,
    write_folder,
)
from indexer.disk.manifest import manifest_digest
from indexer.errors import InputError, WorkError
from tests.indexer.conftest import write

WRITER = """
import sys, time
from pathlib import Path
from indexer.disk.artifact import write_folder
with write_folder(Path(sys.argv[1]), kind="thing", schema_version=1) as draft:
    (draft.path / "a.bin").write_bytes(b"x" * 1000)
    print("writing", flush=True)
    time.sleep(60)
"""

FILE_WRITER = """
import sys, time
from pathlib import Path
from indexer.disk import artifact
def stay(path):
    print("writing", flush=True)
    time.sleep(60)
artifact.sync = stay
artifact.write_file(Path(sys.argv[1]), b"x" * 1000)
"""


def test_nothing_is_left_when_writing_fails(tmp_path: Path) -> None:
    def fail(draft: Draft) -> None:
        (draft.path / "a.bin").write_bytes(b"half")
        raise RuntimeError("broke")

    with pytest.raises(RuntimeError, match="broke"), write_folder(tmp_path / "T", kind="t", schema_version=1) as draft:
        fail(draft)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_never_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "T", b"first")
    with pytest.raises(InputError, match="exists already"):
        write(tmp_path / "T", b"second")
    assert (tmp_path / "T" / "sub" / "a.bin").read_bytes() == b"first"


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "T").mkdir()
    write(tmp_path / "T")


@pytest.mark.parametrize("name", ["file/T", "file/below/T", "n" * 300, "n" * 300 + "/T", "loop/T"])
def test_a_target_that_cannot_be_written_is_an_input_error_before_and_after_the_work(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    for attempt in (check_target, write):
        with pytest.raises(InputError, match="cannot be written" if "file" not in name else "file is a file, not a"):
            attempt(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "loop"]


def test_checking_a_target_leaves_no_trace(tmp_path: Path) -> None:
    check_target(tmp_path / "a" / "b" / "T")
    check_target(tmp_path / "T")
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "T")
    with pytest.raises(InputError, match="exists already"):
        check_target(tmp_path / "T")


def test_a_missing_input_is_not_blamed_on_the_target(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), write_folder(tmp_path / "T", kind="t", schema_version=1):
        (tmp_path / "input").read_bytes()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="no space left"), write_folder(tmp_path / "T", kind="t", schema_version=1):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_names_by_digest_are_the_manifests_and_equal_content_is_kept_once(tmp_path: Path) -> None:
    finals = []
    for _ in range(2):
        with write_folder(tmp_path / "V", kind="t", schema_version=1, name_by_digest=True) as draft:
            (draft.path / "a").write_bytes(b"same")
        finals.append(draft.final)
    assert finals[0] == finals[1]
    assert finals[0] is not None
    assert finals[0].name == manifest_digest(finals[0])
    assert [path.name for path in (tmp_path / "V").iterdir()] == [finals[0].name]


@pytest.mark.parametrize("script", [WRITER, FILE_WRITER], ids=["folder", "file"])
def test_killed_writers_leave_nothing_visible_and_the_next_one_cleans_up(tmp_path: Path, script: str) -> None:
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "T")], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (tmp_path / "T").exists()
    write(tmp_path / "T") if script == WRITER else write_file(tmp_path / "T", b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["T"]


def test_a_living_writers_folder_is_not_taken_for_a_leftover(tmp_path: Path) -> None:
    with write_folder(tmp_path / "T", kind="t", schema_version=1) as draft:
        (draft.path / "a").write_bytes(b"x")
        remove_leftovers(tmp_path, "T")
        assert (draft.path / "a").exists()


@pytest.mark.parametrize("stem", ["T", "T[1]", "T*"])
def test_only_what_this_software_left_is_cleared_away(tmp_path: Path, stem: str) -> None:
    dead = tmp_path / f"{stem}.tmp-4000000-0"
    kept = [tmp_path / name for name in (f"{stem}.tmp-backup", f"{stem}.tmp-1-0-old", "T1.tmp-1-0", f"{stem}2.tmp-1-0")]
    for folder in (dead, *kept):
        folder.mkdir()
        (folder / "work.txt").touch()
    (tmp_path / f"{stem}.tmp-7-7").write_text("a file, not a folder")
    write(tmp_path / stem)
    assert not dead.exists()
    assert all((folder / "work.txt").exists() for folder in kept)
    assert (tmp_path / f"{stem}.tmp-7-7").is_file()


def test_a_symlink_is_replaced_in_one_step(tmp_path: Path) -> None:
    for target in ("a", "b"):
        (tmp_path / target).mkdir()
        replace_symlink(tmp_path / "current", target)
        assert (tmp_path / "current").readlink() == Path(target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "current"]


def test_a_link_left_by_a_dead_process_of_our_number_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.disk.artifact._counter", itertools.repeat(5))
    (tmp_path / f"current.tmp-{os.getpid()}-5").symlink_to("gone")
    replace_symlink(tmp_path / "current", "a")
    assert [path.name for path in tmp_path.iterdir()] == ["current"]


def test_files_have_the_modes_the_user_gives_new_files(tmp_path: Path) -> None:
    with write_folder(tmp_path / "T", kind="t", schema_version=1) as draft:
        (draft.path / "a").touch(mode=0o600)  # as safetensors does
    new = tmp_path / "new"
    new.touch()
    assert {path.stat().st_mode for path in (tmp_path / "T").iterdir()} == {new.stat().st_mode}


def test_a_file_is_written_whole_and_never_over_another(tmp_path: Path) -> None:
    check_file(tmp_path / "below" / "a.bin")
    assert list(tmp_path.iterdir()) == []
    write_file(tmp_path / "below" / "a.bin", b"first")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("below/a.bin", "folder", "link"):
        with pytest.raises(InputError, match="exists already"):
            check_file(tmp_path / name)
        with pytest.raises(InputError, match="exists already"):
            write_file(tmp_path / name, b"second")
    assert [path.read_bytes() for path in (tmp_path / "below").iterdir()] == [b"first"]


def test_a_file_that_cannot_be_written_is_an_input_error_before_and_after_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("file/a.bin", "n" * 300):
        with pytest.raises(InputError, match="cannot be written"):
            check_file(tmp_path / name)
        with pytest.raises(InputError, match="cannot be written"):
            write_file(tmp_path / name, b"x")


def test_a_file_for_which_there_is_no_space_is_not_begun(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(WorkError, match="no space left"):
            write_file(tmp_path / "a.bin", b"x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
