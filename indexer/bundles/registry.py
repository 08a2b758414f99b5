"""The registry: bundles by digest, and which of them is current.

    versions/<SHA-256 of manifest.json>/   bundles, never changed
    current                                a symlink, replaced by one rename
    history.jsonl                          one line for each change; the pins are in it (`indexer.bundles.history`)
    removed.txt, sources.jsonl             names that no gallery may have again, and where inputs were read
                                           (`indexer.bundles.removals`)
    .lock                                  held while something changes, by one process at a time

A reader takes no lock: it resolves `current` once and keeps what it opened.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from indexer.bundles.bundle import open_bundle, verify_bundle
from indexer.bundles.history import Entry, append_entry, pins, publications, read_entries, trail
from indexer.bundles.removals import add_removed, add_sources, read_removed
from indexer.disk.artifact import explain_unwritable, is_temporary, remove_version, replace_symlink
from indexer.disk.lock import alone
from indexer.disk.manifest import MANIFEST
from indexer.errors import ArtifactError, InputError


@dataclass(frozen=True, slots=True)
class VersionState:
    """What the registry knows of one version without opening it."""

    version: str
    current: bool
    pinned: bool
    reason: str | None  # why it is pinned, where that is known
    size_bytes: int  # on disk, manifest included
    published_at: str | None  # UTC, the last time; None if it never was


@dataclass(frozen=True, slots=True)
class Registry:
    """A folder of bundles. Nothing is read or written until a method is called.

    What takes a version or changes something raises InputError where there is no registry, no such version, or nothing
    published, or where the folder cannot be written; what needs the history raises ArtifactError where that is damaged.
    What refuses raises InputError too. A method says what else it raises.
    """

    path: Path

    def __init__(self, path: str | Path) -> None:
        object.__setattr__(self, "path", Path(path))

    def check(self) -> None:
        """Refuse a file, or a folder that holds an artefact of another kind; ask before a bundle is built into it."""
        if (self.path / MANIFEST).exists() or (self.path.exists() and not self.path.is_dir()):
            raise InputError(f"{self.path}: not a registry, and nothing is written into it. Choose another folder.")

    def require(self) -> None:
        """Refuse a folder that is no registry; an empty one will do."""
        if not self.versions_folder.is_dir():
            raise InputError(f"{self.path}: not a registry. Make one: python -m indexer build")

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
        """Folder of a version given by digest or an unambiguous beginning of it; of the current one for None."""
        self.require()
        if version is None:
            version = self.current
            if version is None:
                raise self._nothing_published()
        matches = [name for name in self.versions if name.startswith(version)]
        if len(matches) != 1:
            which = f"{len(matches)} versions" if matches else "no version"
            raise InputError(
                f"{self.path}: {which} of digest {version!r}{'' if matches else self._retired(version)}. "
                f"It has: {', '.join(name[:12] for name in self.versions) or 'none'}."
            )
        return self.versions_folder / matches[0]

    def publish(self, version: str) -> str:
        """Make a version current, in one rename, and return its digest.

        Raises:
            ArtifactError: the version is damaged or incomplete.
        """
        with self._changing():
            return self._make_current(self.resolve(version), action="publish")

    def rollback(self) -> str:
        """Make current again the version that was so before the present one, and return its digest.

        The history is a trail: each publication adds a version to its end, and each rollback goes one back along it.
        After publications of A, B and C a rollback leads to B and a second one to A; the next publication adds to what
        is left of the trail, so that C is no longer on it. Versions that were retired meanwhile are stepped over.

        Raises:
            InputError: nothing is published, or nothing is left to go back to.
            ArtifactError: the version to go back to is damaged.
        """
        with self._changing():
            current, versions = self.current, set(self.versions)
            if current is None:
                raise self._nothing_published()
            earlier = (name for name in reversed(trail(self.history(), current)) if name != current)
            back = next((name for name in earlier if name in versions), None)
            if back is None:
                raise InputError(
                    f"{self.path}: there is no version to go back to: none that was published before {current[:12]} is "
                    "left. Publish one by its digest: python -m indexer publish"
                )
            return self._make_current(self.versions_folder / back, action="rollback")

    def retire(self, version: str) -> str:
        """Remove a version for good and return its digest; who has it open keeps it.

        It vanishes in one rename and is deleted after that; the next build clears away what a kill in between leaves.

        Raises:
            InputError: it is current or pinned.
        """
        with self._changing():
            name = self.resolve(version).name
            if name == self.current:
                raise InputError(
                    f"{self.path}: {name[:12]} is current and cannot be retired. First make another version current: "
                    "python -m indexer publish (or rollback)"
                )
            pin = self.pins().get(name)
            if pin is not None:
                why = f" ({pin['reason']})" if pin.get("reason") else ""
                raise InputError(
                    f"{self.path}: {name[:12]} is pinned since {pin['at']}{why} and cannot be retired. "
                    "First: python -m indexer unpin"
                )
            append_entry(self._log, "retire", name, {})
            remove_version(self.versions_folder / name)
        return name

    def pin(self, version: str, *, reason: str | None = None) -> Entry:
        """Keep a version from being retired, and return the line of the history that pins it.

        Pinning it again only changes the reason, if one is given.
        """
        with self._changing():
            name = self.resolve(version).name
            pin = self.pins().get(name)
            if pin is None or reason not in (None, pin.get("reason")):
                pin = append_entry(self._log, "pin", name, {"reason": reason})
        return pin

    def unpin(self, version: str) -> str:
        """Let a version be retired again and return its digest; nothing changes where it was not pinned."""
        with self._changing():
            name = self.resolve(version).name
            if name in self.pins():
                append_entry(self._log, "unpin", name, {})
        return name

    @property
    def removed(self) -> frozenset[str]:
        """Digests of the names of photos that builds leave out."""
        return read_removed(self.path)

    def remove_names(self, names: Sequence[str]) -> None:
        """Have later builds, adds and inheritances leave out photos of these names."""
        with self._changing():
            add_removed(self.path, names)

    def note_sources(self, paths: Mapping[str, Path]) -> None:
        """Note where inputs of a bundle were read, by their digest."""
        with self._changing():
            add_sources(self.path, paths)

    def history(self) -> list[Entry]:
        """All that was done to the registry, oldest first: `action`, `version`, `at`, and what the action adds."""
        return read_entries(self._log)

    def pins(self) -> dict[str, Entry]:
        """For each pinned version the line of the history that pinned it, with its `reason` and `at`."""
        return pins(self.history())

    def states(self) -> list[VersionState]:
        """All versions, in the order of `versions`."""
        current, entries = self.current, self.history()
        pinned = pins(entries)
        published = {entry["version"]: entry["at"] for entry in publications(entries, current)}
        return [
            VersionState(
                version=name,
                current=name == current,
                pinned=name in pinned,
                reason=pinned[name].get("reason") if name in pinned else None,
                size_bytes=sum(path.stat().st_size for path in (self.versions_folder / name).iterdir()),
                published_at=published.get(name),
            )
            for name in self.versions
        ]

    def faults(self) -> list[str]:
        """What is wrong with the registry itself, its versions apart: one sentence for each fault."""
        faults = []
        link = self.path / "current"
        if link.exists() and not link.is_symlink():
            faults.append(f"{link}: a copy of a version, not a link to one. Remove it, and publish a version.")
        if self.current is not None and not self._log.exists():
            faults.append(f"{self._log}: missing, and with it all pins. Restore it from a copy, or publish again.")
        faults += [
            f"{path}: no version. Remove it."
            for path in sorted(self.versions_folder.iterdir())
            if path.name not in self.versions and not is_temporary(path)
        ]
        if self.current is not None and self.current not in self.versions:
            faults.append(f"{self.path / 'current'}: points to {self.current}, which is not there. Publish a version.")
        for read in (self.history, lambda: self.removed):
            try:
                read()
            except ArtifactError as error:
                faults.append(str(error))
        return faults

    @property
    def _log(self) -> Path:
        return self.path / "history.jsonl"

    def _make_current(self, folder: Path, *, action: str) -> str:
        faults = verify_bundle(folder)
        if faults:
            raise ArtifactError(f"{self.path}: {folder.name[:12]} cannot be made current: {' '.join(faults)}")
        open_bundle(folder)  # what cannot be read must never become current
        append_entry(self._log, action, folder.name, {"before": self.current})
        replace_symlink(self.path / "current", f"versions/{folder.name}")
        return folder.name

    def _nothing_published(self) -> InputError:
        return InputError(f"{self.path}: nothing is published. Publish a version: python -m indexer publish")

    def _retired(self, version: str) -> str:
        with contextlib.suppress(ArtifactError):  # a damaged history is not what this call is about
            for entry in reversed(self.history()):
                if entry["action"] == "retire" and entry["version"].startswith(version):
                    return f" (retired {entry['at']}; build it again to have it back)"
        return ""

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        self.require()
        with explain_unwritable(self.path), alone(self.path / ".lock"):
            yield
