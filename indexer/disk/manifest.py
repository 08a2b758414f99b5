"""The manifest of a folder: what made it, from what, and the digest of every file in it.

Readers check the kind, the schema version and every file's size; `verify_folder` re-hashes every file.
"""

import contextlib
import hashlib
import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from indexer.errors import ArtifactError

T = TypeVar("T")

MANIFEST = "manifest.json"
ROWS_MANIFEST = "_manifest.json"  # in folders of Parquet rows, which readers of Parquet pass over

_MEND = "Restore the folder from a copy, or rebuild it."


@dataclass(frozen=True, slots=True)
class FileEntry:
    """What a manifest says of a file."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What `manifest.json` holds. `facts` is what a reader wants to know before it opens a file."""

    kind: str
    schema_version: int
    config: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str | None] = field(default_factory=dict)  # name -> digest, None where it is unknown
    facts: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, FileEntry] = field(default_factory=dict)  # by path, `/` between
    made_by: Mapping[str, str] = field(default_factory=dict)  # versions of the code that wrote it


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@cache
def code_version() -> Mapping[str, str]:
    """The package's version and, in a checkout, the commit it was run from."""
    made_by = {"geosurge": "unknown", **package_versions(["geosurge"])}  # unknown in one that was never installed
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        _git("ls-files", "--error-unmatch", Path(__file__).name)  # an installed copy may lie in another project's tree
        # Not `describe --dirty`, which locks the index: that would be in the way of whoever commits meanwhile.
        changed = _git("status", "--porcelain", "--untracked-files=no")
        made_by["commit"] = _git("rev-parse", "--short=12", "HEAD") + ("-dirty" if changed else "")
    return made_by


def package_versions(packages: Sequence[str]) -> Mapping[str, str]:
    """Of those packages that are installed."""
    found = {}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _git(*arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()


def read_manifest(
    folder: Path, *, kind: str, schema_version: int, name: str = MANIFEST, sizes: bool = True
) -> Manifest:
    """Read a folder's manifest and check its kind and its schema version.

    sizes: make sure that every file it names is there, in its size; otherwise other files are not looked at.

    Raises:
        ArtifactError: not such a folder, damaged, incomplete, or written by a newer version.
    """
    path = folder / name
    if not path.is_file():
        found = "there is no such folder" if not folder.exists() else f"it has no {name}"
        raise ArtifactError(f"{folder}: not a {kind} folder ({found}). Give the folder that a command wrote.")
    try:
        manifest = _parsed(json.loads(path.read_bytes()))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"{path}: damaged manifest ({error}). {_MEND}") from None
    if manifest.kind != kind:
        raise ArtifactError(f"{folder}: this is a {manifest.kind} folder; a {kind} folder is needed here.")
    if manifest.schema_version > schema_version:
        raise ArtifactError(
            f"{folder}: schema version {manifest.schema_version}; this release reads up to {schema_version}. "
            "Update geosurge."
        )
    if sizes:
        check_sizes(folder, manifest)
    return manifest


def check_sizes(folder: Path, manifest: Manifest) -> None:
    """Raise ArtifactError for the first file a manifest names that is not there in its size."""
    for fault in _size_faults(folder, manifest):
        raise ArtifactError(fault)


def checked_file(folder: Path, name: str, manifest: Manifest) -> Path:
    """The path of a file that is what its manifest says, to the last byte; an ArtifactError where it is not."""
    entry = manifest.files.get(name)
    if entry is None or file_digest(folder / name) != entry.sha256:
        raise ArtifactError(f"{folder / name}: content differs from its manifest. Restore it from a copy.")
    return folder / name


def manifest_digest(folder: Path, *, name: str = MANIFEST) -> str:
    """SHA-256 of the manifest, which names every other file's: the digest of the whole folder."""
    return file_digest(folder / name)


def verify_folder(folder: Path, manifest: Manifest) -> list[str]:
    """Compare a folder with its manifest, to the last byte; returns one sentence for each file that is not as it says.

    Such files are missing, shorter, longer, of other content, unreadable, or not named in the manifest. ArtifactError
    where it names a file outside the folder.
    """
    faults = list(_size_faults(folder, manifest))
    for file, entry in manifest.files.items():
        try:
            differs = _size(folder, file) == entry.size_bytes and file_digest(folder / file) != entry.sha256
        except OSError as error:
            faults.append(f"{folder / file}: cannot be read ({error.strerror}). Restore the folder from a copy.")
            continue
        if differs:
            faults.append(f"{folder / file}: content differs from its manifest. {_MEND}")
    return faults + [
        f"{path}: not named in the manifest. Remove the file."
        for path in sorted(folder.rglob("*"))
        if (path.is_symlink() or not path.is_dir())
        and path.relative_to(folder).as_posix() not in {MANIFEST, *manifest.files}
    ]


def typed_facts(kind: type[T], values: Any, *, source: object) -> T:
    """A dataclass of numbers, words, booleans, `Literal`s, or any of these or None, from what a manifest says of it.

    values: a table with a value for each field. source: the folder, for the error.

    Raises:
        ArtifactError: a field is missing, unknown, or of another type.
    """
    try:
        facts = kind(**values)
        _check_types(facts)
    except TypeError as error:
        raise ArtifactError(
            f"{source}: its manifest says nothing usable of its {kind.__name__} ({error}). Build it again."
        ) from None
    return facts


_hints = cache(get_type_hints)  # a tenth of a millisecond each, and a manifest may name many files


def _check_types(made: Any) -> None:
    kind: Any = type(made)
    for name, hint in _hints(kind).items():
        if not _fits(getattr(made, name), hint):
            raise TypeError(f"{name} is {getattr(made, name)!r}")


def _fits(value: object, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if isinstance(hint, UnionType):
        return any(_fits(value, each) for each in get_args(hint))
    if get_origin(hint) is Mapping:
        return isinstance(value, dict)
    return isinstance(value, int | float if hint is float else hint) and isinstance(value, bool) == (hint is bool)


def _parsed(found: dict[str, Any]) -> Manifest:
    files = {file: FileEntry(**entry) for file, entry in found["files"].items()}
    manifest = Manifest(**found | {"files": files})
    if type(manifest.schema_version) is not int or manifest.schema_version < 1:
        raise ValueError(f"{manifest.schema_version!r} is no schema version")
    for made in (manifest, *files.values()):
        _check_types(made)
    return manifest


def _size_faults(folder: Path, manifest: Manifest) -> Iterator[str]:
    for file, entry in manifest.files.items():
        size = _size(folder, file)
        if size != entry.size_bytes:
            state = "missing" if size is None else f"{size} bytes instead of {entry.size_bytes}"
            yield f"{folder / file}: {state}. {_MEND}"


def _size(folder: Path, file: str) -> int | None:
    if Path(file).is_absolute() or ".." in Path(file).parts:
        raise ArtifactError(f"{folder}: its manifest names a file outside the folder ({file!r}). Do not use it.")
    path = folder / file
    return path.stat().st_size if path.is_file() else None


def entries_of(folder: Path, *, known: Mapping[str, FileEntry] | None = None) -> dict[str, FileEntry]:
    """What a manifest says of the files in a folder, by path; known: of those that need not be hashed."""
    known, entries = known or {}, {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            entries[name] = known.get(name) or FileEntry(file_digest(path), path.stat().st_size)
    return entries


def write_manifest(path: Path, manifest: Manifest) -> str:
    """Write a manifest and return its digest."""
    path.write_text(json.dumps(asdict(manifest), indent=1, sort_keys=True, allow_nan=False) + "\n")
    return file_digest(path)
