"""Folders and files that are whole or absent.

A folder is written as a sibling `<name>.tmp-<pid>-<n>`, synced, and renamed into place; its manifest
(`indexer.disk.manifest`) is written last. POSIX only: the temporary folder of a dead process is told from that of a
living one by `flock`, which the kernel releases on death.
"""

import contextlib
import errno
import fcntl
import itertools
import os
import re
import shutil
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from indexer.disk.manifest import MANIFEST, FileEntry, Manifest, code_version, entries_of, write_manifest
from indexer.errors import GeoError, InputError, WorkError

_VERSION_STEM = "version"  # of the temporary names of folders that are named by digest
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP}
_UNWRITABLE |= {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}


@dataclass(slots=True)
class Draft:
    """A folder being written: put files under `path`, and what readers should know into `facts`."""

    path: Path
    facts: dict[str, Any] = field(default_factory=dict)
    shared: dict[str, FileEntry] = field(default_factory=dict)  # files that `share` put here
    final: Path | None = None  # where the folder ended up, once the block has ended well

    def share(self, folder: Path, files: Mapping[str, FileEntry]) -> None:
        """Put files of another folder here that never change there, as hard links; copies where links are impossible.

        files: with what that folder's manifest says of them. They are not hashed again: if one was damaged since, the
        manifest of this folder must not call the damage sound.
        """
        for name, entry in files.items():
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                (self.path / name).hardlink_to(folder / name)
            except OSError:  # another disk, or a disk without links, or somebody else's file
                shutil.copyfile(folder / name, self.path / name)
            self.shared[name] = entry


@contextlib.contextmanager
def write_folder(
    target: Path,
    *,
    kind: str,
    schema_version: int,
    config: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str | None] | None = None,
    name_by_digest: bool = False,
) -> Iterator[Draft]:
    """Write a folder that appears at `target` complete or not at all.

    Yields a Draft; when the block ends well, its files are hashed, the manifest is written, everything is synced and
    renamed to `target` (with `name_by_digest`, to `target/<SHA-256 of the manifest>`; an equal folder that is already
    there is kept). When the block raises, nothing is left behind.

    Raises:
        InputError: `target` exists, or cannot be written.
        WorkError: the disk is full.
    """
    parent = target if name_by_digest else target.parent
    stem = _VERSION_STEM if name_by_digest else target.name
    with contextlib.ExitStack() as stack:
        with explain_unwritable(target):
            if not name_by_digest:
                _refuse_existing(target, but_empty_folder=True)
            parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(parent, stem)
            temporary = stack.enter_context(temporary_folder(parent, stem))
        draft = Draft(temporary)
        with explain_full(target):
            yield draft
        with explain_full(target), explain_unwritable(target):
            files = entries_of(temporary, known=draft.shared)
            manifest = Manifest(kind, schema_version, config or {}, inputs or {}, draft.facts, files, code_version())
            digest = write_manifest(temporary / MANIFEST, manifest)
            _sync_tree(temporary, shared=draft.shared)
            final = target / digest if name_by_digest else target
            try:
                temporary.rename(final)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                if not name_by_digest:  # another process finished first
                    raise _exists(target) from None
                if entries_of(final) != entries_of(temporary):  # what is there was damaged since
                    aside = _temporary_name(parent, stem)
                    final.rename(aside)
                    temporary.rename(final)
                    shutil.rmtree(aside, ignore_errors=True)
            sync(parent)
        draft.final = final


def write_file(target: Path, content: bytes) -> None:
    """Write one file that appears at `target` complete or not at all.

    It is written inside a temporary folder, which the next writer removes if this process dies.

    Raises:
        InputError: `target` exists, or cannot be written.
        WorkError: the disk is full.
    """
    with explain_full(target), explain_unwritable(target):
        _refuse_existing(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target.parent, target.name)
        with place_file(target) as aside:
            aside.write_bytes(content)


@contextlib.contextmanager
def place_file(target: Path) -> Iterator[Path]:
    """A name to write a file under, which takes the place of `target` in one rename when the block ends well."""
    with temporary_folder(target.parent, target.name) as folder:
        aside = folder / target.name
        yield aside
        place(aside, target)


def place(written: Path, target: Path) -> None:
    """Move a written file to where it belongs, in one rename, and wait until it is on disk."""
    sync(written)
    written.rename(target)
    sync(target.parent)


def check_file(target: Path) -> None:
    """Raise InputError where no file can be made at `target`, or one is there: call it before the work, not after."""
    with explain_unwritable(target):
        _refuse_existing(target)
    check_target(target)


def check_target(target: Path) -> None:
    """Raise InputError where no folder can be made at `target`, or one is there that is not empty: call it first."""
    with explain_unwritable(target):
        _refuse_existing(target, but_empty_folder=True)
        missing = next(path for path in (target.absolute(), *target.absolute().parents) if path.parent.exists())
        if missing.is_symlink():
            raise FileNotFoundError(errno.ENOENT, f"{missing} is a link to nowhere")
        # Tried, because `access` answers wrongly for root and on some network file systems.
        probe = _temporary_name(missing.parent, missing.name)
        probe.mkdir()
        probe.rmdir()


def remove_leftovers(parent: Path, stem: str | None = None) -> None:
    """Delete temporary folders of processes that died; those of living ones are locked and stay. stem: None is any."""
    for folder in _temporaries(parent, stem):
        with contextlib.suppress(OSError):  # another process may be clearing the same leftovers
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def remove_version(folder: Path) -> None:
    """Remove a folder that was written with `name_by_digest`: it vanishes in one rename and is deleted after that.

    If the process is killed in between, a temporary folder is left, which the next `write_folder` removes.
    """
    remove_leftovers(folder.parent, _VERSION_STEM)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # or a build would take it for a leftover while it is being deleted
        temporary = folder.rename(_temporary_name(folder.parent, _VERSION_STEM))
        sync(folder.parent)
        shutil.rmtree(temporary)
    finally:
        os.close(lock)


_counter = itertools.count()


def _temporary_name(parent: Path, stem: str) -> Path:
    return parent / f"{stem}.tmp-{os.getpid()}-{next(_counter)}"


def is_temporary(path: Path) -> bool:
    """Whether a name is one that this module gives to what is being written or deleted."""
    return re.fullmatch(r".+\.tmp-\d+-\d+", path.name) is not None


def _temporaries(parent: Path, stem: str | None) -> list[Path]:
    found = (path for path in parent.iterdir() if is_temporary(path))
    return [path for path in found if stem in (None, path.name.rpartition(".tmp-")[0])]


@contextlib.contextmanager
def temporary_folder(parent: Path, stem: str) -> Iterator[Path]:
    """A folder for as long as a block runs; if the process dies, `remove_leftovers` of the same stem clears it away."""
    while True:
        temporary = _temporary_name(parent, stem)
        try:
            temporary.mkdir()
        except FileExistsError:  # of a process with our number in another container, or on another machine
            continue
        try:
            lock = os.open(temporary, os.O_RDONLY)
        except FileNotFoundError:  # a cleaner took it for a leftover between our mkdir and our open
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        if temporary.exists():
            break
        os.close(lock)  # or between our open and our flock
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # after the rename there is nothing here
        os.close(lock)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(folder: Path, *, shared: Container[str]) -> None:
    readable = folder.stat().st_mode & 0o666  # as the user's umask has it; some libraries write for the owner alone
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in shared:
            path.chmod(readable)
        sync(path)
    sync(folder)


def _exists(target: Path) -> InputError:
    return InputError(f"{target}: exists already and is never overwritten. Choose another `out`, or remove it first.")


def _refuse_existing(target: Path, *, but_empty_folder: bool = False) -> None:
    empty = but_empty_folder and target.is_dir() and not any(target.iterdir())
    if target.is_symlink() or (target.exists() and not empty):
        raise _exists(target)


@contextlib.contextmanager
def explain_unwritable(target: Path) -> Iterator[None]:
    """Say in one sentence why `target` cannot be written: an InputError in place of the system's errors."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        reason = error.strerror
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            file = next((path for path in target.parents if path.is_file()), None)
            reason = f"{file} is a file, not a folder" if file else reason
        raise InputError(f"{target}: cannot be written ({reason}). Choose another folder.") from error


@contextlib.contextmanager
def explain_full(target: Path, *, kept: str = "Nothing was kept") -> Iterator[None]:
    """Say in one sentence that the disk is full, whichever library met it: a WorkError in place of their errors."""
    try:
        yield
    except Exception as error:
        # DuckDB and safetensors hand on the system's words, but not its number.
        full = getattr(error, "errno", None) in _FULL or any(os.strerror(code) in str(error) for code in _FULL)
        if isinstance(error, GeoError) or not full:
            raise
        raise WorkError(f"{target}: no space left. {kept}; free some space and run again.") from error


def replace_symlink(link: Path, target: str) -> None:
    """Point `link` at `target` in one rename: a reader sees the old one or the new one, never none.

    What a killed process left is removed first, so the caller must hold a lock: two processes at once would clash.
    """
    for leftover in _temporaries(link.parent, link.name):
        if leftover.is_symlink():
            leftover.unlink()
    temporary = _temporary_name(link.parent, link.name)
    temporary.symlink_to(target)
    temporary.rename(link)
    sync(link.parent)
