"""A log of who requested what, for those who want one; nothing is recorded otherwise.

One line of JSON for each command, added to the end of a file in one write, so that several processes can share it. It
names the photos and where they were looked for, never what was answered.
"""

import getpass
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from indexer.disk.artifact import explain_full, explain_unwritable
from indexer.photos.uris import masked


def log_request(file: str | Path | None, command: str, **request: Any) -> None:
    """Add a line to a log; called before the first answer, so that nothing is answered unseen. None: nothing is done.

    request: names, paths and URIs, or lists of them; `user` is who asks, by default whoever runs this. InputError where
    the file cannot be written, WorkError where the disk is full.
    """
    if file is None:
        return
    file = Path(file)
    line: Mapping[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "user": _user(),
        "command": command,
        **{name: _plain(value) for name, value in request.items()},
    }
    with explain_full(file), explain_unwritable(file), file.open("ab", buffering=0) as log:
        log.write(json.dumps(line).encode() + b"\n")
        os.fsync(log.fileno())


def check_log(file: str | Path | None) -> None:
    """Raise InputError where a log could not be written; None is none."""
    if file is not None:
        with explain_unwritable(Path(file)), Path(file).open("ab"):
            pass


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # nobody has this number a name, as is usual in containers
        return f"uid {os.getuid()}"


def _plain(value: Any) -> Any:
    """As JSON has it, credentials in URIs starred out."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return None if value is None else masked(str(value))
