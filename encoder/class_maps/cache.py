"""Class maps of many photos in a folder that grows: each photo is segmented once, whoever asks for it and when.

    manifest.json                     the segmenter's digest, its classes, the size of maps
    maps/<n>.tar, index/<n>.parquet   shards, never changed (`encoder.class_maps.shards`)
    part.json                         of which part, where several processes share photos (`encoder.class_maps.parts`)
    lookup.arrow                      where all maps lie (`encoder.class_maps.lookup`); made from the indices, and again
                                      where it is missing or damaged
    .lock                             held by the one process that writes

A photo's key is the SHA-256 of its file, so that copies, other names and other tables find the same map.
"""

import contextlib
import hashlib
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from encoder.class_maps.lookup import Lookup
from encoder.class_maps.parts import PART_FILE, MapPart, check_parts, check_same_part, read_part, write_part
from encoder.class_maps.shards import ShardDraft, index_path, mend, read_map, read_shard_index, tar_path
from encoder.config import MAX_CLASSES, SHARD_MAPS, MapFolders
from indexer.disk.artifact import check_target, explain_unwritable, is_temporary, place_file, remove_leftovers
from indexer.disk.lock import alone
from indexer.disk.manifest import MANIFEST, Manifest, code_version, read_manifest, write_manifest
from indexer.errors import ArtifactError, BadImage, BundleMismatch, InputError

log = logging.getLogger(__name__)

KIND = "class_maps"
SCHEMA_VERSION = 1

_LOOKUP = "lookup.arrow"
_LOCK = ".lock"
_SHARD_SECONDS = 300.0  # a shard is written after this long even if it is not full; bounds what a kill costs


@dataclass(frozen=True, slots=True)
class MapOrigin:
    """What made the maps of a cache. Maps of two segmenters, or of two sizes, never share a folder."""

    segmenter: str  # digest
    model: str  # its hub id or folder, for people: the digest decides
    class_names: tuple[str, ...]  # by class number
    map_edge: int  # pixels of a map's shorter edge, less where the photo is smaller


@dataclass(frozen=True, slots=True, eq=False)
class SegmentationCache:
    """Class maps as they were when their folders were opened. May be shared by threads, and pickled (reopens them)."""

    origin: MapOrigin
    lookups: Mapping[Path, Lookup]  # of each folder

    def __len__(self) -> int:
        """Photos, those that could not be segmented included; one that is in several folders counts for each."""
        return sum(map(len, self.lookups.values()))

    def __reduce__(self) -> tuple[Any, ...]:
        return open_cache, (tuple(self.lookups),)

    def get(self, photo: bytes | str) -> np.ndarray | None:
        """The class map (h, w) uint8 of a photo, None where it was never segmented.

        photo: the bytes of its file, or their SHA-256 in hex.

        Raises:
            BadImage: it could not be segmented, for the reason recorded.
            ArtifactError: the shard that holds it is damaged.
        """
        key = bytes.fromhex(photo if isinstance(photo, str) else content_digest(photo))
        for folder, lookup in self.lookups.items():
            address = lookup.find(key)
            if address is not None:
                return read_map(folder, address)
        return None


def content_digest(content: bytes) -> str:
    """The key of a photo: SHA-256 of its file, in hex."""
    return hashlib.sha256(content).hexdigest()


def open_cache(folders: MapFolders) -> SegmentationCache:
    """Open class maps for reading, also while another process adds to them; what comes later is not seen.

    folders: of class maps, all of one origin, or folders that hold such folders. Raises:
        ArtifactError: no such cache, damaged, incomplete, or written by a newer version.
        BundleMismatch: two folders have another segmenter, or another size of maps.
        InputError: a folder is named twice, or those of parts overlap or leave a gap (`encoder.class_maps.parts`).
    """
    opened = [each for folder in _listed(folders) for each in _caches_in(folder)]
    twice = [str(folder) for row, folder in enumerate(opened) if folder in opened[:row]]
    if twice:
        raise InputError(f"{twice[0]}: these class maps are named twice. Name each folder once.")
    origins = {folder: _read_origin(folder) for folder in opened}
    first = origins[opened[0]]
    for folder, origin in origins.items():
        if (origin.segmenter, origin.map_edge) != (first.segmenter, first.map_edge):
            raise BundleMismatch(
                f"{opened[0]} and {folder} are class maps of two origins: segmenter {first.segmenter[:12]} "
                f"({first.model}) and {origin.segmenter[:12]} ({origin.model}), shorter edges of {first.map_edge} and "
                f"{origin.map_edge} pixels. Give those of one."
            )
    check_parts({folder: read_part(folder) for folder in opened})
    return SegmentationCache(first, {folder: _read_lookup(folder)[0] for folder in opened})


def _listed(folders: MapFolders) -> Sequence[Path]:
    return [Path(each) for each in (folders if isinstance(folders, tuple) else (folders,))]


def _caches_in(folder: Path) -> list[Path]:
    """The folder itself if it has class maps, or else all such folders in it; itself again if there is none."""
    if (folder / MANIFEST).exists() or not folder.is_dir():
        return [folder]
    return sorted(path.parent for path in folder.glob(f"*/{MANIFEST}")) or [folder]


def check_cache(folder: Path) -> None:
    """Make sure that maps can be written into a folder; ask before a model is loaded.

    Raises:
        InputError: it cannot be written, or holds something else.
        ArtifactError: a cache that is damaged, or written by a newer version.
    """
    if (folder / MANIFEST).exists():
        _read_origin(folder)
    elif folder.is_dir() and not folder.is_symlink():
        begun = (_LOCK, PART_FILE)  # before the manifest
        others = sorted(path.name for path in folder.iterdir() if path.name not in begun and not is_temporary(path))
        if others:
            raise InputError(f"{folder}: holds other things ({others[0]}). Choose another `out` for the class maps.")
    else:
        check_target(folder)


@dataclass(slots=True, eq=False)
class CacheWriter:
    """Adds maps to a cache, and is the only one that does so. `has` may be called from several threads."""

    folder: Path
    shard_maps: int
    _lookup: Lookup
    _saved: Mapping[int, int]  # the shards that the lookup on disk knows
    _draft: ShardDraft = field(default_factory=ShardDraft)
    _started: float = 0.0
    part_rows: int | None = None  # set when all photos of a part were seen: how many there are of all parts

    def has(self, digest: str) -> bool:
        """Whether a photo with this SHA-256 was segmented; raises as `SegmentationCache.get`."""
        if self._draft.check(digest):
            return True
        address = self._lookup.find(bytes.fromhex(digest))
        if address is not None and not address.size:
            read_map(self.folder, address)
        return address is not None

    def add(self, digest: str, classes: np.ndarray) -> None:
        """Keep the class map (h, w) uint8 of a photo; raises as `write_file` does."""
        self._draft.add(digest, classes)
        self._write_if_due()

    def fail(self, digest: str, problem: BadImage) -> None:
        """Remember that a photo cannot be segmented; raises as `add`."""
        self._draft.fail(digest, problem)
        self._write_if_due()

    def _write_if_due(self) -> None:
        if len(self._draft) == 1:
            self._started = time.monotonic()
        if len(self._draft) >= self.shard_maps or time.monotonic() - self._started > _SHARD_SECONDS:
            self._write_shard()

    def _write_shard(self) -> None:
        table = self._draft.write(self.folder, max(self._lookup.shards, default=-1) + 1)
        # In this order, because other threads search meanwhile.
        self._lookup = self._lookup.added(table)
        self._draft = ShardDraft()

    def _finish(self) -> None:
        if len(self._draft):
            self._write_shard()
        if self._lookup.shards != self._saved:
            with place_file(self.folder / _LOOKUP) as path:
                self._lookup.save(path)


@contextlib.contextmanager
def write_cache(
    folder: Path, origin: MapOrigin, *, shard_maps: int = SHARD_MAPS, part: MapPart | None = None
) -> Iterator[CacheWriter]:
    """Add to a cache, or begin one. What was added is kept however the block ends, unless the process is killed.

    A kill costs the maps of the last shard, which was not yet full. What else it leaves is cleared away here. part:
    that the folder is to be; None: of no part.

    Raises:
        InputError: the folder cannot be written, holds something else, maps of another size or another part, or another
            process is writing to it.
        BundleMismatch: its maps were made by another segmenter.
        ArtifactError: the cache is damaged, or was written by a newer version.
        WorkError: the disk is full.
    """
    check_cache(folder)
    busy = f"{folder}: another process is writing class maps to it. Wait for its end, or choose another `out`."
    with contextlib.ExitStack() as stack:
        with explain_unwritable(folder):
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(alone(folder / _LOCK, busy=busy))
        _begin(folder, origin, part)
        lookup, saved = _read_lookup(folder)
        if not saved:  # it is of no use; and should a number of a removed shard be given again, it would mislead
            (folder / _LOOKUP).unlink(missing_ok=True)
        _remove_leftovers(folder, lookup)
        writer = CacheWriter(folder, shard_maps, lookup, saved)
        try:
            yield writer
        finally:
            writer._finish()
        if part is not None and writer.part_rows is not None:  # last: now its maps are all on disk
            write_part(folder, replace(part, rows=writer.part_rows))


def _begin(folder: Path, origin: MapOrigin, part: MapPart | None) -> None:
    """Write what a new cache begins with; of an old one, make sure that it is the same part, by the same segmenter."""
    is_new = not (folder / MANIFEST).exists()
    check_same_part(folder, part, is_new=is_new)
    if is_new:
        (folder / PART_FILE).unlink(missing_ok=True)  # of a start that ended before the manifest was there
        if part is not None:
            write_part(folder, part)
        facts = {"segmenter": origin.segmenter, "model": origin.model, "classes": list(origin.class_names)}
        config, inputs = {"map_edge": origin.map_edge}, {"segmenter": origin.segmenter}
        with explain_unwritable(folder), place_file(folder / MANIFEST) as path:
            write_manifest(path, Manifest(KIND, SCHEMA_VERSION, config, inputs, facts, {}, code_version()))
    for path in (tar_path(folder, 0), index_path(folder, 0)):
        path.parent.mkdir(exist_ok=True)
    found = _read_origin(folder)
    if found.segmenter != origin.segmenter:
        raise BundleMismatch(
            f"{folder}: its maps were made by segmenter {found.segmenter[:12]} ({found.model}), this one is "
            f"{origin.segmenter[:12]} ({origin.model}). Choose another `out`, or give the model that made the others."
        )
    if found.map_edge != origin.map_edge:
        raise InputError(
            f"{folder}: its maps have a shorter edge of {found.map_edge} pixels, not {origin.map_edge}. "
            f"Give `map_edge` {found.map_edge}, or choose another `out`."
        )


def _read_origin(folder: Path) -> MapOrigin:
    manifest = read_manifest(folder, kind=KIND, schema_version=SCHEMA_VERSION, sizes=False)
    facts, edge = manifest.facts, manifest.config.get("map_edge")
    match facts.get("segmenter"), facts.get("classes"), edge:
        case str(segmenter), [str(), *_] as names, int(edge) if len(names) <= MAX_CLASSES:
            return MapOrigin(segmenter, str(facts.get("model")), tuple(str(name) for name in names), edge)
    raise ArtifactError(
        f"{folder / MANIFEST}: damaged manifest (segmenter, classes or map_edge). Restore it from a copy."
    )


def _read_lookup(folder: Path) -> tuple[Lookup, Mapping[int, int]]:
    """Addresses of all maps, from the lookup on disk and from later indices; and the shards of the former."""
    lookup = Lookup()
    try:
        lookup = Lookup.load(folder / _LOOKUP)
    except FileNotFoundError:  # not a cache yet, or its first writer is still at work
        pass
    except (OSError, AttributeError, LookupError, TypeError, ValueError) as error:
        log.warning("%s: damaged (%s); the indices of all shards are read instead", folder / _LOOKUP, error)
    # Listed after the lookup was read: shards are only ever added, so what it knows is there.
    names = (re.fullmatch(r"(\d{5,})\.parquet", path.name) for path in (folder / "index").glob("*.parquet"))
    numbers = {int(name[1]) for name in names if name}
    if not numbers >= set(lookup.shards):  # somebody removed a shard, perhaps a damaged one
        lookup = Lookup()
    saved = lookup.shards
    for number in sorted(numbers - set(saved)):
        lookup = lookup.added(read_shard_index(folder, number))
    for number, size in lookup.shards.items():
        tar = tar_path(folder, number)
        found = tar.stat().st_size if tar.is_file() else None
        if found != size:
            state = "missing" if found is None else f"{found} bytes instead of {size}"
            raise ArtifactError(f"{tar}: {state}. {mend(folder, number)}")
    return lookup, saved


def _remove_leftovers(folder: Path, lookup: Lookup) -> None:
    """Delete what a killed writer left: temporaries, and tars whose index was never written."""
    for parent in (folder, tar_path(folder, 0).parent, index_path(folder, 0).parent):
        remove_leftovers(parent)
    kept = {tar_path(folder, number) for number in lookup.shards}
    for tar in tar_path(folder, 0).parent.glob("*.tar"):
        if tar not in kept:
            tar.unlink()
