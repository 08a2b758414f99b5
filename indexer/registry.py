"""The registry: bundles by digest, and which of them is current.

    versions/<SHA-256 of manifest.json>/   bundles, never changed
    current                                a symlink, replaced by one rename
    history.jsonl                          one line for each publication

A reader resolves `current` once and keeps what it opened.
"""

import contextlib
import fcntl
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from indexer.artifact import MANIFEST, explain_unwritable, replace_symlink
from indexer.bundle import open_bundle
from indexer.errors import ArtifactError, InputError


@dataclass(frozen=True, slots=True)
class Registry:
    """A folder of bundles. Nothing is read or written until a method is called."""

    path: Path

    def check(self) -> None:
        """Refuse a folder that is something else; ask before a bundle is built into it.

        Raises:
            InputError: it is a file, or holds an artefact of another kind.
        """
        if (self.path / MANIFEST).exists() or (self.path.exists() and not self.path.is_dir()):
            raise InputError(f"{self.path}: not a registry, and nothing is written into it. Choose another folder.")

    @property
    def versions_folder(self) -> Path:
        """Where bundles are written."""
        return self.path / "versions"

    @property
    def versions(self) -> list[str]:
        """Digests of all bundles here, sorted."""
        found = self.versions_folder.glob("*") if self.versions_folder.is_dir() else ()
        return sorted(folder.name for folder in found if re.fullmatch(r"[0-9a-f]{64}", folder.name))

    @property
    def current(self) -> str | None:
        """Digest of the published bundle, None before the first publication."""
        link = self.path / "current"
        return link.readlink().name if link.is_symlink() else None

    def resolve(self, version: str | None = None) -> Path:
        """Folder of a version given by digest or an unambiguous beginning of it; of the current one for None.

        Raises:
            InputError: no registry here, nothing published, or no such version.
        """
        if not self.versions_folder.is_dir():
            raise InputError(
                f"{self.path}: not a registry. Make one: python -m indexer build --registry {self.path} ..."
            )
        if version is None:
            version = self.current
            if version is None:
                raise InputError(
                    f"{self.path}: nothing is published. python -m indexer publish --registry {self.path} --version V"
                )
        matches = [name for name in self.versions if name.startswith(version)]
        if len(matches) != 1:
            which = "no version" if not matches else f"{len(matches)} versions"
            raise InputError(
                f"{self.path}: {which} of digest {version!r}. It has: {', '.join(v[:12] for v in self.versions)}"
            )
        return self.versions_folder / matches[0]

    def publish(self, version: str) -> str:
        """Make a version current, in one rename, and return its digest.

        Raises:
            InputError: no such version, or the registry cannot be written.
            ArtifactError: the version is damaged or incomplete.
        """
        folder = self.resolve(version)
        open_bundle(folder)  # what cannot be read must never become current
        with explain_unwritable(self.path), self._lock():
            replace_symlink(self.path / "current", f"versions/{folder.name}")
            line = {"published": folder.name, "at": datetime.now(UTC).isoformat(timespec="seconds")}
            with (self.path / "history.jsonl").open("a") as history:
                history.write(json.dumps(line) + "\n")
        return folder.name

    def history(self) -> list[dict[str, str]]:
        """Publications, oldest first."""
        path = self.path / "history.jsonl"
        try:
            return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        except ValueError as error:
            raise ArtifactError(f"{path}: damaged ({error}). It is only a log: remove or mend the line.") from None

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        # The kernel frees this lock with its holder, so a killed publication never blocks the next one.
        with (self.path / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
