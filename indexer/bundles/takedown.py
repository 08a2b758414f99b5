"""Taking photos down: which versions of a registry, and what these were made from, still hold them; and retiring them.

In: a registry and names of photos. A version whose gallery has no such photo is made by `indexer.bundles.builds`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from indexer.bundles.bundle import bundle_manifest
from indexer.bundles.gallery import PHOTOS_FILE
from indexer.bundles.registry import Registry, VersionState
from indexer.bundles.removals import source_paths
from indexer.disk.manifest import read_manifest
from indexer.errors import ArtifactError, GeoError, InputError
from indexer.photos.tables import names_of, read_columns
from indexer.vectors.features import features_at
from indexer.vectors.geocells import CHECKPOINT_KIND, CHECKPOINT_SCHEMA_VERSION

# Inputs of a bundle that hold names of photos, by what their names in a manifest begin with.
_KINDS: Mapping[str, str] = {"checkpoint": "checkpoint", "features": "features", "photos": "table"}


@dataclass(frozen=True, slots=True)
class Source:
    """What a version was made from, and may still hold photos that were removed."""

    kind: str  # checkpoint, features, table
    digest: str
    path: str | None  # where it was read, if that is known
    holds: bool | None  # None: it could not be looked at


@dataclass(frozen=True, slots=True)
class TakenDown:
    """What became of photos that were removed."""

    photos: int
    retired: Sequence[str]  # versions that held them
    still_in: Sequence[VersionState]  # versions that hold them
    sources: Sequence[Source]  # what versions were made from that does, or may

    @property
    def text(self) -> str:
        """The same for a person."""
        lines = [f"{self.photos:,} photos were removed, and stay out of what is built later"]
        lines += [f"retired: {version[:12]}" for version in self.retired]
        for state in self.still_in:
            marks = ["current"] * state.current + ["pinned"] * state.pinned
            shown = f" ({', '.join(marks)})" if marks else ""
            lines.append(f"still in version {state.version[:12]}{shown}")
        for source in self.sources:
            where = source.path or "which was read at a place that is not known"
            lines.append(f"{'still' if source.holds else 'perhaps'} in {source.kind} {source.digest[:12]}: {where}")
        return "\n".join(lines)


class Takedown:
    """Photos that are to go from a registry. What cannot be done is refused by `check`, before anything is written."""

    def __init__(self, home: Registry, names: Sequence[str], *, everywhere: bool) -> None:
        self._home, self._names, self._everywhere = home, names, everywhere
        folders = [home.versions_folder / version for version in home.versions]
        self._holding = versions_holding(folders, names)

    def check(self, *, publish: bool) -> None:
        """publish: whether the version without the photos is to be made current.

        Raises:
            InputError: versions are to be retired that cannot be.
        """
        if not self._everywhere:
            return
        path, pins = self._home.path, self._home.pins()
        pinned = [version for version in self._holding if version in pins]
        if pinned:
            raise InputError(
                f"{path}: these photos are in versions that are pinned: {', '.join(name[:12] for name in pinned)}. "
                "Take their pins off first (`Registry.unpin`, python -m indexer unpin), or leave out `everywhere`."
            )
        if not publish and self._home.current in self._holding:
            raise InputError(
                f"{path}: the current version holds these photos and cannot be retired while it is current. Publish "
                "the version without them, or leave out `everywhere`."
            )

    def finish(self) -> TakenDown:
        """Retire versions, where that was asked for, and tell who still holds the photos."""
        retired = [self._home.retire(version) for version in self._holding] if self._everywhere else []
        still = [state for state in self._home.states() if state.version in set(self._holding) - set(retired)]
        sources = sources_holding(self._home.path, list(self._holding.values()), self._names)
        return TakenDown(len(self._names), retired, still, sources)


def versions_holding(folders: Sequence[Path], names: Sequence[str]) -> dict[str, Mapping[str, str | None]]:
    """Versions whose galleries hold any of these photos, with the digests of their inputs.

    Raises:
        ArtifactError: a version is damaged.
    """
    known: dict[str, bool] = {}  # by digest of the file: versions share it
    result = {}
    for folder in folders:
        manifest = bundle_manifest(folder)
        entry = manifest.files.get(PHOTOS_FILE)
        if entry is None:
            continue
        if entry.sha256 not in known:
            known[entry.sha256] = _gallery_holds(folder, names)
        if known[entry.sha256]:
            result[folder.name] = manifest.inputs
    return result


def sources_holding(registry: Path, inputs: Sequence[Mapping[str, str | None]], names: Sequence[str]) -> list[Source]:
    """What versions were made from, of which it is known that it holds any of these photos, or not known.

    inputs: of the versions. A place that was moved or changed since is not looked for. What a checkpoint that holds
    them was made from is told, too.
    """
    paths = source_paths(registry)
    kinds = {digest: kind for digests in inputs for digest, kind in _kinds_of(digests).items()}
    result, left = [], list(kinds)
    for digest in left:  # what a checkpoint that holds them was made from is added on the way
        kind, places = kinds[digest], paths.get(digest, [])
        looked = [(place, _source_holds(kind, Path(place), names)) for place in places]
        found = [Source(kind, digest, place, holds) for place, holds in looked if holds is not False]
        result += found if places else [Source(kind, digest, None, None)]
        for source in found:
            made_from = _made_from(source)
            left += [other for other in made_from if other not in kinds]
            kinds = made_from | kinds
    return result


def _kinds_of(inputs: Mapping[str, str | None]) -> dict[str, str]:
    """Of what kind those inputs are, by digest, that hold names of photos."""
    return {
        digest: kind
        for name, digest in inputs.items()
        for start, kind in _KINDS.items()
        if name.startswith(start) and digest is not None
    }


def _made_from(source: Source) -> dict[str, str]:
    """Of what kind that is, by digest, which the gallery of a checkpoint was made from."""
    if source.kind != "checkpoint" or source.path is None or not source.holds:
        return {}
    try:
        manifest = read_manifest(Path(source.path), kind=CHECKPOINT_KIND, schema_version=CHECKPOINT_SCHEMA_VERSION)
    except GeoError:  # it is told itself, and who holds photos still has to be
        return {}
    return {digest: kind for digest, kind in _kinds_of(manifest.inputs).items() if kind != "checkpoint"}


def _gallery_holds(folder: Path, names: Sequence[str]) -> bool:
    try:
        photos = pa.parquet.read_table(folder / PHOTOS_FILE, columns=["photo"])["photo"]
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ArtifactError(f"{folder / PHOTOS_FILE}: cannot be read ({error}). Restore it from a copy.") from None
    return _any_of(photos, names)


def _source_holds(kind: str, path: Path, names: Sequence[str]) -> bool | None:
    """Whether a checkpoint, features or a table of photos hold any of these names; None where nobody can say."""
    try:
        if kind == "checkpoint":
            return (path / PHOTOS_FILE).exists() and _gallery_holds(path, names)
        return any(_any_of(photos, names) for photos in _names_in(kind, path))
    except (GeoError, OSError, pa.ArrowException, KeyError):
        return None


def _names_in(kind: str, path: Path) -> Iterator[pa.ChunkedArray]:
    shards = [path] if kind == "table" else features_at(path).shards
    for shard in shards:
        table = shard.with_suffix(".csv") if shard.suffix == ".npy" else shard
        yield pa.chunked_array([pa.array(names_of(read_columns(table, ["photo"]), table), pa.string())])


def _any_of(photos: pa.ChunkedArray, names: Sequence[str]) -> bool:
    return bool(pc.any(pc.is_in(photos, value_set=pa.array(names, photos.type))).as_py())
