"""Names of photos that a registry's galleries may not have again, and where its bundles' inputs were read.

`removed.txt` in the registry has a line for each name that was removed: its SHA-256, so that the list tells nobody
which photos were asked to go. `sources.jsonl` has a line for each input of a bundle: its digest, and its path.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer.disk.artifact import place_file, remove_leftovers
from indexer.errors import ArtifactError, InputError

REMOVED_FILE = "removed.txt"
SOURCES_FILE = "sources.jsonl"
_NAMED = 3  # photos that an error names


def name_digest(name: str) -> str:
    """What the registry keeps of a name."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()


def which_removed(names: Sequence[str], removed: Set[str]) -> np.ndarray:
    """Which names are among the removed ones, given by digest: (N,) bool."""
    if not removed:
        return np.zeros(len(names), bool)
    return np.array([name_digest(name) in removed for name in names], bool)


def read_removed(registry: Path) -> frozenset[str]:
    """Digests of the names that a registry's builds leave out.

    Raises:
        ArtifactError: the file is damaged.
    """
    path = registry / REMOVED_FILE
    lines = path.read_text().split() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        if not re.fullmatch(r"[0-9a-f]{64}", line):
            raise ArtifactError(f"{path}: line {number} is no SHA-256. Restore it from a copy, or remove that line.")
    return frozenset(lines)


def add_removed(registry: Path, names: Sequence[str]) -> None:
    """Have later builds leave out these names too; the caller holds the registry's lock."""
    digests = read_removed(registry) | {name_digest(name) for name in names}
    _replace(registry / REMOVED_FILE, sorted(digests))


def read_names(file: Path) -> list[str]:
    """The names of photos in a text file, one a line, in order and once each. A name may hold any other sign.

    Raises:
        InputError: it cannot be read, or names no photo.
    """
    try:
        lines = file.read_text("utf-8-sig").split("\n")  # every line end is read as this one
        names = list(dict.fromkeys(line for line in lines if line.strip()))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file}: cannot be read ({error}). Give a text file with the name of a photo a line."
        ) from None
    if not names:
        raise InputError(f"{file}: names no photo. Give a text file with the name of a photo a line.")
    return names


def rows_of_names(names: Sequence[str], among: pa.ChunkedArray, *, where: str) -> np.ndarray:
    """The rows in which these names stand, all of them, in ascending order: (R,) int64.

    Raises:
        InputError: some do not.
    """
    found = pc.index_in(among, value_set=pa.array(names, among.type)).to_numpy()
    rows = np.flatnonzero(~np.isnan(found.astype(np.float64)))
    missing = sorted(set(range(len(names))) - set(found[rows].astype(np.int64).tolist()))
    if missing:
        examples = ", ".join(repr(names[number]) for number in missing[:_NAMED])
        raise InputError(
            f"{len(missing):,} of {len(names):,} names are not in {where}: {examples}"
            f"{', ...' if len(missing) > _NAMED else ''}. Nothing was changed; take them out of the list, or mend them."
        )
    return rows


def add_sources(registry: Path, paths: Mapping[str, Path]) -> None:
    """Note where inputs of a bundle were read, by their digest; the caller holds the registry's lock."""
    lines = [json.dumps({"digest": digest, "path": str(path.absolute())}) for digest, path in paths.items()]
    known = _source_lines(registry)
    fresh = [line for line in lines if line not in known]
    if fresh:
        _replace(registry / SOURCES_FILE, [*known, *fresh])


def source_paths(registry: Path) -> dict[str, list[str]]:
    """Where inputs of bundles were read, by their digest."""
    paths: dict[str, list[str]] = {}
    for line in _source_lines(registry):
        with contextlib.suppress(ValueError, TypeError, KeyError):  # a torn line is no reason to refuse what follows
            entry = json.loads(line)
            paths.setdefault(entry["digest"], []).append(entry["path"])
    return paths


def _source_lines(registry: Path) -> list[str]:
    path = registry / SOURCES_FILE
    return [line for line in path.read_text().splitlines() if line.strip()] if path.exists() else []


def _replace(path: Path, lines: Sequence[str]) -> None:
    remove_leftovers(path.parent, path.name)
    with place_file(path) as aside:
        aside.write_text("".join(f"{line}\n" for line in lines))
