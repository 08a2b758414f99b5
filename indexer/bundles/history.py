"""The registry's log: one JSON object a line, only ever appended to; pins and the way back are read from it.

    {"action": "publish" or "rollback", "version": digest, "at": UTC, "before": digest of what was current, or null}
    {"action": "pin", "version": digest, "at": UTC, "reason": text or null}
    {"action": "unpin" or "retire", "version": digest, "at": UTC}

A line is on disk before what it tells of is done, so nothing happens unrecorded. Actions and keys that are not known
here are passed over: a newer release may write more of them.
"""

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from indexer.disk.artifact import sync
from indexer.errors import ArtifactError

Entry = Mapping[str, Any]  # one line


def append_entry(path: Path, action: str, version: str, details: Mapping[str, str | None]) -> Entry:
    """Write one line, wait until it is on disk, and return it; the caller holds the registry's lock."""
    entry = {"action": action, "version": version, "at": datetime.now(UTC).isoformat(timespec="seconds"), **details}
    line = json.dumps(entry).encode() + b"\n"
    with path.open("ab+") as log:
        log.seek(0)
        content = log.read()
        start = content.rfind(b"\n") + 1
        if _is_entry(content[start:]):  # somebody's editor left out the last line break
            line = b"\n" + line
        else:  # nothing, or the torn line of a process that was killed here
            log.truncate(start)
        log.write(line)
        log.flush()
        os.fsync(log.fileno())
    sync(path.parent)
    return entry


def read_entries(path: Path) -> list[Entry]:
    """All lines, oldest first, without a last one that was torn by a kill; none where there is no log yet.

    An ArtifactError where a line before the last is damaged.
    """
    if not path.exists():
        return []
    *lines, last = path.read_bytes().split(b"\n")
    if _is_entry(last):
        lines.append(last)
    entries = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entries.append(_entry(line))
        except ValueError as error:
            raise ArtifactError(
                f"{path}: line {number} is damaged ({error}). Mend or remove that line; pins are kept in this file."
            ) from None
    return entries


def pins(entries: Sequence[Entry]) -> dict[str, Entry]:
    """The line that pinned it, for each version that is pinned."""
    pinned: dict[str, Entry] = {}
    for entry in entries:
        if entry["action"] == "pin":
            pinned[entry["version"]] = entry
        elif entry["action"] == "unpin":
            pinned.pop(entry["version"], None)
    return pinned


def publications(entries: Sequence[Entry], current: str | None) -> list[Entry]:
    """The lines of `publish` and `rollback` that took effect, oldest first.

    A process killed between its line and the rename of the link never made its version current: then the next such line
    found another one to be current before it, or, at the end, the link says another.
    """
    changes = [entry for entry in entries if entry["action"] in ("publish", "rollback")]
    following = itertools.pairwise([*changes, {"before": current}])
    return [entry for entry, later in following if later.get("before") == entry["version"]]


def trail(entries: Sequence[Entry], current: str | None) -> list[str]:
    """The versions that led to the current one, which is the last: `publish` adds one, `rollback` goes back to one."""
    versions: list[str] = []
    for entry in publications(entries, current):
        version = entry["version"]
        if entry["action"] == "rollback" and version in versions:
            while versions[-1] != version:
                versions.pop()
        elif versions[-1:] != [version]:
            versions.append(version)
    return versions


def _entry(line: bytes) -> Entry:
    entry = json.loads(line)
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("action", "version", "at")):
        raise ValueError("it lacks an action, a version or a time")
    return entry


def _is_entry(line: bytes) -> bool:
    try:
        _entry(line)
    except ValueError:
        return False
    return True
