"""Who may ask: a file of tokens, of which it keeps hashes alone.

A line is a name, the SHA-256 of a token, and a precision cap in km where that asker has one, with spaces between:

    desk 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    press 60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752 25

Tokens are 256 random bits, so that a plain hash of one tells nothing. Empty lines and lines that begin with # are left
out.
"""

import hashlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from indexer.errors import InputError

_LINE = re.compile(r"(?P<name>[\w.@-]{1,64})\s+(?P<digest>[0-9a-f]{64})(?:\s+(?P<cap>[0-9.]+))?")
_NAME = re.compile(r"[\w.@-]{1,64}")


@dataclass(frozen=True, slots=True)
class Asker:
    """Somebody who may ask."""

    name: str
    digest: bytes  # SHA-256 of the token
    precision_cap: float | None = None  # km; beside that of the bundle and of the service, of which the coarsest counts


ANYBODY = Asker("anybody", b"")


class Tokens:
    """Askers by their tokens."""

    def __init__(self, askers: Sequence[Asker]) -> None:
        self._askers = askers

    def asker(self, token: str) -> Asker | None:
        """Whose token it is; None for nobody's. It takes as long whichever it is."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        found = None
        for asker in self._askers:
            if hmac.compare_digest(asker.digest, digest):
                found = asker
        return found


def read_tokens(file: Path) -> Tokens:
    """The askers of a file.

    Raises:
        InputError: it cannot be read, others than its owner can, a line is wrong, or there is none.
    """
    try:
        if (mode := stat.S_IMODE(file.stat().st_mode)) & 0o077:
            raise InputError(f"{file}: others may read it (mode {mode:o}). Make it yours alone: chmod 600 {file}")
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({error}). Make one: python -m search token") from None
    askers = list[Asker]()
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise InputError(
                f"{file}, line {number}: a line is a name, the SHA-256 of a token in 64 digits, and a precision cap "
                "in km if there is one. Make one: python -m search token"
            )
        if any(asker.name == match["name"] for asker in askers):
            raise InputError(f"{file}, line {number}: {match['name']} is there already. Remove one of the lines.")
        cap = None if match["cap"] is None else _cap(match["cap"], f"{file}, line {number}")
        askers.append(Asker(match["name"], bytes.fromhex(match["digest"]), cap))
    if not askers:
        raise InputError(f"{file}: nobody may ask. Add a line: python -m search token")
    return Tokens(askers)


def add_token(file: Path, name: str, *, precision_cap: float | None = None) -> str:
    """Add somebody to a file, which is made where it is not there, and return the new token, which nobody keeps.

    Raises:
        InputError: a name with other signs than letters, digits and . @ _ -, or one that is there; a cap that is no
            distance; or a file that cannot be written, or that others can read.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"`name` {name!r}: letters, digits and . @ _ - alone, 64 at most.")
    if precision_cap is not None and not 0 < precision_cap < float("inf"):
        raise InputError(f"`precision_cap` must be a distance above 0 km, not {precision_cap}.")
    if file.exists() and file.stat().st_size:
        known = read_tokens(file)
        if any(asker.name == name for asker in known._askers):
            raise InputError(f"{file}: {name} is there already. Remove that line first, and its token is void.")
    token = secrets.token_urlsafe(32)
    cap = "" if precision_cap is None else f" {precision_cap:g}"
    line = f"{name} {hashlib.sha256(token.encode()).hexdigest()}{cap}\n"
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "a+b", buffering=0) as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - 1))
            ended = stream.read(1) in (b"", b"\n")  # who wrote the last line by hand may have left its end out
            stream.write((line if ended else "\n" + line).encode())
    except OSError as error:
        raise InputError(f"{file}: cannot be written ({error}). Choose another file.") from None
    return token


def _cap(text: str, where: str) -> float:
    try:
        cap = float(text)
    except ValueError:
        cap = 0.0
    if not 0 < cap < float("inf"):
        raise InputError(f"{where}: a precision cap is a distance above 0 km, not {text}.")
    return cap
