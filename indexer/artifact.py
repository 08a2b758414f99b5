"""Folders that are whole or absent, each with a manifest that says what made it and what is in it; single files too.

A folder is written as a sibling `<name>.tmp-<pid>-<n>`, synced, and renamed into place; its manifest is written last.
Readers check the manifest, the schema version and every file's size; `verify` re-hashes every file. POSIX only: the
temporary folder of a dead process is told from that of a living one by `flock`, which the kernel releases on death.
"""

import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from indexer.errors import ArtifactError, GeoError, InputError, WorkError

MANIFEST = "manifest.json"
ROWS_MANIFEST = "_manifest.json"  # in folders of Parquet rows, which readers of Parquet pass over

_VERSION_STEM = "version"  # of the temporary names of folders that are named by digest
_MEND = "Restore the folder from a copy, or rebuild it."
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_UNWRITABLE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
}


@dataclass(frozen=True, slots=True)
class Manifest:
    """What `manifest.json` holds. `facts` is what a reader wants to know before it opens a file."""

    kind: str
    schema_version: int
    config: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str | None] = field(default_factory=dict)  # name -> digest, None where it is unknown
    facts: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # path -> {"sha256", "size_bytes"}
    made_by: Mapping[str, str] = field(default_factory=dict)  # versions of the code that wrote it


@dataclass(slots=True)
class Draft:
    """A folder being written: put files under `path`, and what readers should know into `facts`."""

    path: Path
    facts: dict[str, Any] = field(default_factory=dict)
    final: Path | None = None  # where the folder ended up, once the block has ended well


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@cache
def code_version() -> Mapping[str, str]:
    """The package's version and, in a checkout, the commit it was run from."""
    try:
        made_by = {"geosurge": version("geosurge")}
    except PackageNotFoundError:  # run from a checkout that was never installed
        made_by = {"geosurge": "unknown"}
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        _git("ls-files", "--error-unmatch", Path(__file__).name)  # an installed copy may lie in another project's tree
        made_by["commit"] = _git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    return made_by


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()


@contextlib.contextmanager
def write_folder(
    target: Path,
    *,
    kind: str,
    schema_version: int,
    config: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str | None] | None = None,
    manifest_name: str = MANIFEST,
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
                _refuse_existing(target)
            parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(parent, stem)
            temporary = stack.enter_context(_locked_temporary(parent, stem))
        draft = Draft(temporary)
        with _explain_full(target):
            yield draft
        with _explain_full(target), explain_unwritable(target):
            manifest = Manifest(
                kind, schema_version, config or {}, inputs or {}, draft.facts, _entries(temporary), code_version()
            )
            digest = _write_manifest(temporary / manifest_name, manifest)
            _sync_tree(temporary)
            final = target / digest if name_by_digest else target
            try:
                temporary.rename(final)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                if not name_by_digest:  # somebody else finished first
                    raise _exists(target) from None
                if _entries(final) != _entries(temporary):  # what is there was damaged since
                    aside = _temporary_name(parent, stem)
                    final.rename(aside)
                    temporary.rename(final)
                    shutil.rmtree(aside, ignore_errors=True)
            sync(parent)
        draft.final = final


def write_file(target: Path, content: bytes) -> None:
    """Write one file that appears at `target` complete or not at all.

    It is written inside a temporary folder, which the next writer clears away if this process dies.

    Raises:
        InputError: `target` exists, or cannot be written.
        WorkError: the disk is full.
    """
    with _explain_full(target), explain_unwritable(target):
        _refuse_existing_file(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target.parent, target.name)
        with _locked_temporary(target.parent, target.name) as folder:
            file = folder / target.name
            file.write_bytes(content)
            sync(file)
            file.rename(target)
            sync(target.parent)


def check_file(target: Path) -> None:
    """Make sure that a file can be written at `target`; ask before the work, not after.

    Raises:
        InputError: `target` exists, or cannot be made.
    """
    with explain_unwritable(target):
        _refuse_existing_file(target)
    check_target(target)


def check_target(target: Path) -> None:
    """Make sure that a folder can be written at `target`; ask before hours of work, not after.

    Raises:
        InputError: `target` exists and is not an empty folder, or cannot be made.
    """
    with explain_unwritable(target):
        _refuse_existing(target)
        missing = next(path for path in (target.absolute(), *target.absolute().parents) if path.parent.exists())
        if missing.is_symlink():
            raise FileNotFoundError(errno.ENOENT, f"{missing} is a link to nowhere")
        # Tried, not asked: the answer of `access` is wrong for root and on some network file systems.
        probe = _temporary_name(missing.parent, missing.name)
        probe.mkdir()
        probe.rmdir()


def remove_leftovers(parent: Path, stem: str) -> None:
    """Delete temporary folders of processes that died; those of living processes are locked and stay."""
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

    What a kill in between leaves is a temporary folder like any other, which the next `write_folder` clears away.
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


def read_manifest(folder: Path, *, kind: str, schema_version: int, name: str = MANIFEST) -> Manifest:
    """Read a folder's manifest and check its kind, its schema version and the size of every file.

    Raises:
        ArtifactError: not such a folder, damaged, incomplete, or written by a newer version.
    """
    manifest = parse_manifest(folder, kind=kind, schema_version=schema_version, name=name)
    check_sizes(folder, manifest)
    return manifest


def parse_manifest(folder: Path, *, kind: str, schema_version: int, name: str = MANIFEST) -> Manifest:
    """Read a folder's manifest and check its kind and its schema version, whatever became of the other files.

    Raises:
        ArtifactError: not such a folder, its manifest is damaged, or it was written by a newer version.
    """
    path = folder / name
    if not path.is_file():
        found = "there is no such folder" if not folder.exists() else f"it has no {name}"
        raise ArtifactError(f"{folder}: not a {kind} folder ({found}).")
    try:
        manifest = Manifest(**json.loads(path.read_bytes()))
        _check_types(manifest)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"{path}: damaged manifest ({error}). {_MEND}") from None
    if manifest.kind != kind:
        raise ArtifactError(f"{folder}: this is a {manifest.kind} folder; a {kind} folder is needed here.")
    if manifest.schema_version > schema_version:
        raise ArtifactError(
            f"{folder}: schema version {manifest.schema_version}; this release reads up to {schema_version}. "
            "Update geosurge."
        )
    return manifest


def check_sizes(folder: Path, manifest: Manifest) -> None:
    """Make sure that every file a manifest names is there, in its size.

    Raises:
        ArtifactError: one is not; the first of them is named.
    """
    fault = next(_size_faults(folder, manifest), None)
    if fault is not None:
        raise ArtifactError(fault)


def manifest_digest(folder: Path, *, name: str = MANIFEST) -> str:
    """SHA-256 of the manifest, which names every other file's: the digest of the whole folder."""
    return file_digest(folder / name)


def verify_folder(folder: Path, manifest: Manifest, *, name: str = MANIFEST) -> list[str]:
    """Compare a folder with its manifest, to the last byte; returns one sentence for each file that is not as it says.

    Found are files that are missing, shorter or longer, of other content, unreadable, or not named in the manifest.

    Raises:
        ArtifactError: the manifest names a file outside the folder.
    """
    faults = list(_size_faults(folder, manifest))
    for file, entry in manifest.files.items():
        try:
            differs = _size(folder, file) == entry["size_bytes"] and file_digest(folder / file) != entry["sha256"]
        except OSError as error:
            faults.append(f"{folder / file}: cannot be read ({error.strerror}). Restore the folder from a copy.")
            continue
        if differs:
            faults.append(f"{folder / file}: content differs from its manifest. {_MEND}")
    return faults + [
        f"{path}: not named in the manifest. Remove the file."
        for path in sorted(folder.rglob("*"))
        if (path.is_symlink() or not path.is_dir())
        and path.relative_to(folder).as_posix() not in {name, *manifest.files}
    ]


def _check_types(manifest: Manifest) -> None:
    if type(manifest.schema_version) is not int or manifest.schema_version < 1:
        raise ValueError(f"{manifest.schema_version!r} is no schema version")
    for value in (manifest.config, manifest.inputs, manifest.facts, manifest.files, *manifest.files.values()):
        if not isinstance(value, dict):
            raise TypeError(f"{value!r} where a table is expected")
    for file, entry in manifest.files.items():
        if type(entry["size_bytes"]) is not int or type(entry["sha256"]) is not str:
            raise TypeError(f"size or digest of {file} is of another type")


def _size_faults(folder: Path, manifest: Manifest) -> Iterator[str]:
    for file, entry in manifest.files.items():
        size = _size(folder, file)
        if size != entry["size_bytes"]:
            state = "missing" if size is None else f"{size} bytes instead of {entry['size_bytes']}"
            yield f"{folder / file}: {state}. {_MEND}"


def _size(folder: Path, file: str) -> int | None:
    path = _inside(folder, file)
    return path.stat().st_size if path.is_file() else None


def _inside(folder: Path, file: str) -> Path:
    path = folder / file
    if Path(file).is_absolute() or ".." in Path(file).parts:
        raise ArtifactError(f"{folder}: its manifest names a file outside the folder ({file!r}). Do not use it.")
    return path


def _entries(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        path.relative_to(folder).as_posix(): {"sha256": file_digest(path), "size_bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _write_manifest(path: Path, manifest: Manifest) -> str:
    path.write_text(json.dumps(asdict(manifest), indent=1, sort_keys=True, allow_nan=False) + "\n")
    return file_digest(path)


_counter = itertools.count()


def _temporary_name(parent: Path, stem: str) -> Path:
    return parent / f"{stem}.tmp-{os.getpid()}-{next(_counter)}"


def _temporaries(parent: Path, stem: str) -> list[Path]:
    ours = re.compile(re.escape(stem) + r"\.tmp-\d+-\d+")
    return [path for path in parent.iterdir() if ours.fullmatch(path.name)]


@contextlib.contextmanager
def _locked_temporary(parent: Path, stem: str) -> Iterator[Path]:
    while True:
        temporary = _temporary_name(parent, stem)
        temporary.mkdir()
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


def _sync_tree(folder: Path) -> None:
    readable = folder.stat().st_mode & 0o666  # as the user's umask has it; some libraries write for the owner alone
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(readable)
        sync(path)
    sync(folder)


def _exists(target: Path) -> InputError:
    return InputError(f"{target}: exists already and is never overwritten. Choose another --out, or remove it first.")


def _refuse_existing(target: Path) -> None:
    if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
        raise _exists(target)


def _refuse_existing_file(target: Path) -> None:
    if target.is_symlink() or target.exists():
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
def _explain_full(target: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # DuckDB and safetensors hand on the system's words, but not its number.
        full = getattr(error, "errno", None) in _FULL or any(os.strerror(code) in str(error) for code in _FULL)
        if isinstance(error, GeoError) or not full:
            raise
        raise WorkError(f"{target}: no space left. Nothing was kept; free some space and run again.") from error


def replace_symlink(link: Path, target: str) -> None:
    """Point `link` at `target` in one rename: a reader sees the old one or the new one, never none.

    The caller sees to it that nobody else does so at the same time: what a killed process left is cleared away first.
    """
    for leftover in _temporaries(link.parent, link.name):
        if leftover.is_symlink():
            leftover.unlink()
    temporary = _temporary_name(link.parent, link.name)
    temporary.symlink_to(target)
    temporary.rename(link)
    sync(link.parent)
