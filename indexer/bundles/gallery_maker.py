"""Where a bundle's gallery comes from: photo vectors, a checkpoint, or an older version, changed or not.

A maker is made before a bundle is written, so that what cannot be used is refused before the work; it writes while the
bundle is written, and knows then what became of the photos.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from indexer.bundles.build_config import BuildConfig, GalleryConfig
from indexer.bundles.bundle import Bundle
from indexer.bundles.gallery import FILES, Gallery, GalleryFacts, open_gallery
from indexer.bundles.gallery_builds import Written, listed_anew, rewrite_gallery, write_gallery
from indexer.bundles.removals import read_names, rows_of_names, which_removed
from indexer.cells.hierarchy import Hierarchy
from indexer.disk.artifact import Draft
from indexer.disk.manifest import file_digest, read_manifest
from indexer.errors import ArtifactError, BundleMismatch, InputError
from indexer.photos.tables import table_digest
from indexer.vectors.features import FeatureSource, open_features
from indexer.vectors.geocells import CHECKPOINT_KIND, CHECKPOINT_SCHEMA_VERSION, Geocells
from indexer.vectors.prototypes import Placed, Placement, no_photo, placed_batches, placed_pairs

_NAMED = 3  # photos that an error names


class GalleryMaker:
    """Writes a gallery, or none."""

    def __init__(self, make: Callable[[Draft], Written | None]) -> None:
        self._make = make
        self.written: Written | None = None

    def write(self, draft: Draft) -> GalleryFacts | None:
        """Put the files of the gallery into a bundle that is being written; None where it has none."""
        self.written = self._make(draft)
        return None if self.written is None else self.written.facts

    @property
    def facts(self) -> dict[str, Any]:
        """What a program wants to know of it, once it is written."""
        return {"gallery": None if self.written is None else asdict(self.written)}

    @property
    def text(self) -> str:
        """The same for a person."""
        if self.written is None:
            return "no gallery"
        facts, made = self.written.facts, self.written
        text = f"gallery: {facts.photos:,} photos in {facts.precision_text}"
        if made.given:
            text += f"; {made.added:,} of {made.given:,} new ones"
        if made.added < made.given:
            text += ", the others are like one that is there"
            text += "" if facts.per_leaf is None else f" or not among the {facts.per_leaf} most typical of their leaf"
        return text + (f"; {made.dropped:,} that were there are not any more" if made.dropped else "")


@dataclass(frozen=True, slots=True, eq=False)
class GalleryChange:
    """What is to become of a version's gallery; everything that can be refused was refused."""

    add: FeatureSource | None = None
    photos: Path | None = None  # the table that places these
    split: str | None = None
    owner_column: str | None = None
    inputs: Mapping[str, str | None] = field(default_factory=dict)  # digests of these
    names: Sequence[str] = ()  # that are to go
    removed: Set[str] = frozenset()  # digests of names that went before

    @property
    def sources(self) -> dict[str, Path]:
        """Where what it is made from lies, by digest."""
        places = {"features_added": None if self.add is None else self.add.location, "photos_added": self.photos}
        found = ((digest, places[name.rpartition("_")[0]]) for name, digest in self.inputs.items())
        return {digest: path for digest, path in found if digest is not None and path is not None}

    @property
    def described(self) -> dict[str, Any]:
        """How it is made, for a manifest."""
        return {"split": self.split, "gallery_removed": len(self.names)}


def gallery_options(config: GalleryConfig) -> dict[str, Any]:
    """How a gallery is made, for a manifest."""
    return {each.name: getattr(config, each.name) for each in fields(GalleryConfig)}


def change_of(
    bundle: Bundle,
    *,
    add: Path | None,
    remove: Path | None,
    photos: Path | None,
    config: BuildConfig,
    removed: Set[str],
) -> GalleryChange:
    """What is to become of a bundle's gallery.

    Raises:
        InputError: it has none to remove from, or not these photos.
        BundleMismatch: the vectors to add are of another encoder.
    """
    source = None if add is None else open_features(add, crops=config.crops, encoder=config.encoder)
    encoder = bundle.encoder
    if source is not None and None not in (source.encoder, encoder) and source.encoder != encoder:
        raise BundleMismatch(
            f"{source.location}: vectors of encoder {str(source.encoder)[:8]}; those of {bundle.version[:12]} are of "
            f"{str(encoder)[:8]}. Embed the photos with that encoder."
        )
    names = [] if remove is None else read_names(remove)
    if names:
        if bundle.gallery is None:
            raise InputError(f"{bundle.version[:12]} has no gallery, so no photo can be removed from it.")
        rows_of_names(names, bundle.gallery.texts("photo"), where=f"the gallery of {bundle.version[:12]}")
    inputs: dict[str, str | None] = {}
    if source is not None:
        number = sum(name.startswith("features_added") for name in bundle.manifest.inputs) + 1
        inputs[f"features_added_{number}"] = source.digest
        inputs[f"photos_added_{number}"] = None if photos is None else table_digest(photos)
    return GalleryChange(source, photos, config.split, config.owner_column, inputs, names, removed)


def new_gallery(
    features: FeatureSource, placement: Placement, geocells: Geocells, hierarchy: Hierarchy, config: BuildConfig
) -> GalleryMaker:
    """Of photo vectors, such as geocells are made of."""

    def make(draft: Draft) -> Written | None:
        if not config.wants_gallery:
            return None
        batches = placed_batches(features, placement, "gallery", everywhere=True)
        written = write_gallery(draft.path, batches, geocells, hierarchy, config, owners=placement.owners)
        if config.gallery_similarity is None:
            return written
        return replace(written, facts=replace(written.facts, similarity=config.gallery_similarity, alone=True))

    return GalleryMaker(make)


def checkpoint_gallery(
    checkpoint: Path, geocells: Geocells, hierarchy: Hierarchy, config: BuildConfig, removed: Set[str]
) -> GalleryMaker:
    """That of a checkpoint: the same files, where no photo of it was removed.

    Raises:
        ArtifactError: it is damaged.
        BundleMismatch: it is of another encoder than the geocells.
    """
    manifest = read_manifest(checkpoint, kind=CHECKPOINT_KIND, schema_version=CHECKPOINT_SCHEMA_VERSION)
    facts = manifest.facts.get("gallery") if config.wants_gallery else None
    gallery = open_gallery(checkpoint, facts, n_leaves=len(hierarchy.leaves), width=geocells.width)
    if gallery is None:
        return GalleryMaker(lambda draft: None)
    if gallery.facts.encoder != geocells.encoder:
        raise BundleMismatch(
            f"{checkpoint}: its gallery is of encoder {str(gallery.facts.encoder)[:8]}, its geocells are of "
            f"{str(geocells.encoder)[:8]}. Fit or refit it again."
        )
    for name in FILES:
        if file_digest(checkpoint / name) != manifest.files[name].sha256:
            raise ArtifactError(f"{checkpoint / name}: content differs from its manifest. Restore it from a copy.")
    gone = _gone(gallery, removed)

    def make(draft: Draft) -> Written | None:
        if gone.any() or _is_tighter(config, gallery.facts):
            return _as_new(rewrite_gallery(draft.path, gallery, geocells, hierarchy, config, removed=gone))
        draft.share(checkpoint, {name: manifest.files[name] for name in FILES})
        return Written(gallery.facts, 0, 0, 0)

    return GalleryMaker(make)


def changed_gallery(bundle: Bundle, change: GalleryChange, config: BuildConfig) -> GalleryMaker:
    """That of a bundle whose cells stay: photos are appended to lists, or leave them."""
    return _of_version(bundle, change, bundle.model.geocells, bundle.hierarchy, config, anew=False)


def carried_gallery(
    bundle: Bundle, change: GalleryChange, geocells: Geocells, hierarchy: Hierarchy, config: BuildConfig
) -> GalleryMaker:
    """That of a bundle, for the leaves of another hierarchy: its vectors as they are, in other lists."""
    return _of_version(bundle, change, geocells, hierarchy, config, anew=True)


def _of_version(
    bundle: Bundle, change: GalleryChange, geocells: Geocells, hierarchy: Hierarchy, config: BuildConfig, *, anew: bool
) -> GalleryMaker:
    old = bundle.gallery
    if not config.wants_gallery or (old is None and change.add is None):
        return GalleryMaker(lambda draft: None)
    placement = None
    if change.add is not None:
        placement = Placement(
            hierarchy,
            change.photos,
            split=change.split,
            chosen=lambda names: ~which_removed(names, change.removed),
            owner_column=change.owner_column,
        )

    def make(draft: Draft) -> Written:
        batches: Iterator[Placed] = iter(())
        owners: pa.ChunkedArray | None = None
        if placement is not None and change.add is not None:
            batches = _to_add(change.add, placement, change, width=geocells.width)
            owners = placement.owners
        if old is None:
            return write_gallery(draft.path, batches, geocells, hierarchy, config, owners=owners)
        gone = _gone(old, change.removed)
        if change.names:
            gone[rows_of_names(change.names, old.texts("photo"), where="the gallery")] = True
        leaf = listed_anew(old, bundle.hierarchy, hierarchy) if anew else None
        written = rewrite_gallery(
            draft.path, old, geocells, hierarchy, config, leaf=leaf, removed=gone, batches=batches, owners=owners
        )
        return written if bundle.calibrations and not anew else _as_new(written)

    return GalleryMaker(make)


def _to_add(source: FeatureSource, placement: Placement, change: GalleryChange, *, width: int) -> Iterator[Placed]:
    """The photos to add.

    Raises:
        InputError: one of them has no place, there is none, or the vectors are of another width.
    """
    there = 0
    for batch, placed in placed_pairs(source, placement, "adding", everywhere=True):
        if batch.embedding.shape[1] != width:
            raise InputError(
                f"{source.location}: vectors of {batch.embedding.shape[1]} values; {width} is needed here. Embed the "
                "photos with the encoder of the others."
            )
        wanted = np.flatnonzero(batch.ok & ~which_removed(batch.photo, change.removed)).tolist()
        if change.split is None and len(placed.cells) < len(wanted):
            known = set(placed.photo.tolist())
            missing = [batch.photo[row] for row in wanted if batch.photo[row] not in known]
            where = "the features" if change.photos is None else change.photos
            raise InputError(
                f"{source.location}: photos without a place in {where}, {len(missing):,} of one shard, among them "
                f"{', '.join(map(repr, missing[:_NAMED]))}. Give `photos`, a table with lat and lng of all, or remove "
                "those rows."
            )
        there += len(placed.cells)
        yield placed
    if not there:
        raise no_photo(source)


def _gone(gallery: Gallery, removed: Set[str]) -> np.ndarray:
    """Which photos are among those that were removed from the registry before: (N,) bool."""
    if not removed:
        return np.zeros(len(gallery), bool)
    return which_removed(gallery.texts("photo").to_pylist(), removed)


def _is_tighter(config: BuildConfig, facts: GalleryFacts) -> bool:
    wanted = config.gallery_per_leaf
    return wanted != "all" and (facts.per_leaf is None or wanted < facts.per_leaf)


def _as_new(written: Written) -> Written:
    """Of a bundle that nothing was calibrated for yet."""
    return replace(written, facts=replace(written.facts, changed=0.0, photos_then=None))
