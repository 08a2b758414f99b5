"""Making a gallery: from vectors of photos, or of the gallery of an older version.

In: photos with their places and leaves, new ones or those of a gallery. Out: the two files of `indexer.bundles.gallery`
in a folder that is being written. Vectors are streamed: new ones pass a file without a name, then list after list is
read, chosen from and written, so that what is held are the vectors of one leaf and some bytes for each photo.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from indexer.bundles.build_config import GalleryConfig
from indexer.bundles.gallery import VECTORS_FILE, Gallery, GalleryFacts, gallery_table, save_table
from indexer.bundles.list_file import Codec, ListWriter
from indexer.bundles.typical_photos import different, first_of_each, most_typical_first
from indexer.cells.hierarchy import Hierarchy
from indexer.earth import geo
from indexer.errors import InputError
from indexer.vectors.cell_sums import check_vectors, unit_rows
from indexer.vectors.geocells import Geocells
from indexer.vectors.prototypes import Placed
from indexer.vectors.row_file import RowFile

_TABLE_ROWS = 1 << 16  # of the table, made at once
_NAMED = 3  # photos that an error names


@dataclass(frozen=True, slots=True)
class Written:
    """A gallery that was written, and what became of the photos for it."""

    facts: GalleryFacts
    given: int  # new photos, whatever became of them
    added: int  # of them, in the gallery
    dropped: int  # photos of the gallery it was made from that are not in it


@dataclass(frozen=True, slots=True, eq=False)
class _Photos:
    """Photos that a gallery may be made of; every array has N entries."""

    leaf: np.ndarray  # (N,) int64
    lat_deg: np.ndarray  # (N,) float64
    lng_deg: np.ndarray  # (N,) float64
    stands_for: np.ndarray  # (N,) float64
    photo: pa.Array  # large strings
    owner: pa.Array | None  # large strings
    codes: Callable[[np.ndarray], np.ndarray]  # of rows (n,): (n, code_size) uint8

    def __len__(self) -> int:
        return len(self.leaf)


def write_gallery(
    folder: Path,
    batches: Iterable[Placed],
    geocells: Geocells,
    hierarchy: Hierarchy,
    config: GalleryConfig,
    *,
    owners: pa.ChunkedArray | None = None,
) -> Written:
    """Write a gallery of new photos into a folder that is being written.

    Args:
        folder: where its files go; the vectors pass a file without a name beside it.
        batches: the photos, in any order and number, with vectors as the encoder made them.
        geocells: that the vectors are to meet.
        hierarchy: whose leaves the lists are.
        config: which photos are kept, and how.
        owners: whose the photos are, by row of the table that places them (`Placed.row`).

    Raises:
        InputError: a vector is zero or not finite, or a name repeats for photos that are not the same.
    """
    with _gathered(batches, geocells, hierarchy, config, owners, beside=folder) as (photos, codec):
        return _write(
            folder, [photos], codec, geocells, hierarchy, _Rule.of(config), owners=owners is not None, settled=0
        )


def rewrite_gallery(
    folder: Path,
    old: Gallery,
    geocells: Geocells,
    hierarchy: Hierarchy,
    config: GalleryConfig,
    *,
    leaf: np.ndarray | None = None,
    removed: np.ndarray | None = None,
    batches: Iterable[Placed] = (),
    owners: pa.ChunkedArray | None = None,
) -> Written:
    """Write a gallery of the photos of another one, more of them or fewer; nothing is fitted again.

    Args:
        folder: where its files go.
        old: the gallery; its vectors stay as they are, to the last bit.
        geocells: that the vectors meet, the old ones and the new ones.
        hierarchy: whose leaves the lists are.
        config: a bound on the photos of a leaf that is tighter than the old one holds for all; `keep_duplicates` for
            new ones.
        leaf: (N,) int64, the leaf each old photo is listed under, in place of the one it has: then photos of all lists
            are chosen anew. None: those that are there stay, and new ones that are like them are left out.
        removed: (N,) bool, old photos to leave out. What was left out because of them does not come back.
        batches: new photos.
        owners: whose these are.

    Raises:
        InputError: as `write_gallery`.
    """
    there = np.ones(len(old), bool) if removed is None else ~removed
    photos = _of_gallery(old, there, leaf)
    per_leaf = [bound for bound in (old.facts.per_leaf, _Rule.of(config).per_leaf) if bound is not None]
    rule = _Rule(min(per_leaf, default=None), old.facts.keep_duplicates or config.keep_duplicates)
    have_owners = old.facts.owners or owners is not None
    with _gathered(batches, geocells, hierarchy, config, owners, beside=folder, codec=old.lists.codec) as (new, codec):
        settled = len(photos) if leaf is None else 0
        written = _write(folder, [photos, new], codec, geocells, hierarchy, rule, owners=have_owners, settled=settled)
    dropped = len(old) - (written.facts.photos - written.added)
    then = len(old) if old.facts.photos_then is None else old.facts.photos_then
    changed = old.facts.changed + (written.added + dropped) / max(then, 1)
    facts = replace(
        written.facts,
        similarity=old.facts.similarity,
        alone=old.facts.alone,
        changed=changed,
        photos_then=then,
    )
    return replace(written, dropped=dropped, facts=facts)


def listed_anew(gallery: Gallery, old: Hierarchy, new: Hierarchy) -> np.ndarray:
    """The leaf of another hierarchy that each photo belongs to: (N,) int64.

    By its place; where cells are labels, the leaf of the same labels, and where there is none the one with the nearest
    point.
    """
    if new.is_s2:
        own = new.locate(gallery.lat_deg, gallery.lng_deg)[:, -1]
    else:
        rank = {key: leaf for leaf, key in enumerate(new.leaves.keys.tolist())}
        own = np.array([rank.get(key, -1) for key in old.leaves.keys.tolist()], np.int64)[gallery.leaf]
    return leaves_of(new, own, gallery.lat_deg, gallery.lng_deg)


def _of_gallery(old: Gallery, there: np.ndarray, leaf: np.ndarray | None) -> _Photos:
    """Photos of a gallery, but for those that are not `there` any more; leaf: in place of its own."""
    rows, counts = np.flatnonzero(there), np.diff(old.begins)
    gone = np.bincount(old.leaf[~there], minlength=old.n_leaves)
    stood_for = np.bincount(old.leaf, weights=old.stands_for, minlength=old.n_leaves)
    share = (stood_for - gone) / np.maximum(counts - gone, 1)
    names, numbers = old.texts("photo"), pa.array(rows)
    return _Photos(
        (old.leaf if leaf is None else leaf)[rows].astype(np.int64),
        old.lat_deg[rows],
        old.lng_deg[rows],
        share[old.leaf[rows]],
        _one_array(names.take(numbers)),
        _one_array(old.texts("owner").take(numbers)) if old.facts.owners else None,
        lambda places: old.lists.take(rows[places]),
    )


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays([pa.array([], pa.large_string()), *column.cast(pa.large_string()).chunks])


@dataclass(frozen=True, slots=True)
class _Rule:
    """Which photos of a leaf are kept."""

    per_leaf: int | None
    keep_duplicates: bool

    @classmethod
    def of(cls, config: GalleryConfig) -> "_Rule":
        return cls(None if config.gallery_per_leaf == "all" else config.gallery_per_leaf, config.keep_duplicates)


@contextlib.contextmanager
def _gathered(
    batches: Iterable[Placed],
    geocells: Geocells,
    hierarchy: Hierarchy,
    config: GalleryConfig,
    owners: pa.ChunkedArray | None,
    *,
    beside: Path,
    codec: Codec | None = None,
) -> Iterator[tuple[_Photos, Codec]]:
    """New photos, their vectors on disk, and how these are kept; codec: known before, else 8 bits span the vectors."""
    precision = config.gallery_precision if codec is None else codec.precision
    columns: list[tuple[np.ndarray, ...]] = []
    names, whose = [pa.array([], pa.large_string())], [pa.array([], pa.large_string())]
    low, high = np.full(geocells.width, np.inf, np.float32), np.full(geocells.width, -np.inf, np.float32)
    kept_as = np.float32 if precision == "fp32" else np.float16
    with RowFile(geocells.width, kept_as, beside=beside) as file:
        for placed in batches:
            if not len(placed.cells):
                continue
            check_vectors(placed.vectors, width=geocells.width)
            vectors = unit_rows(geocells.compared(placed.vectors))
            file.add(vectors)
            low, high = np.minimum(low, vectors.min(axis=0)), np.maximum(high, vectors.max(axis=0))
            leaf = leaves_of(hierarchy, placed.cells[:, -1], placed.lat_deg, placed.lng_deg)
            columns.append((leaf, placed.lat_deg, placed.lng_deg))
            names.append(pa.array(placed.photo.tolist(), pa.large_string()))
            if owners is not None:
                rows = pa.array(placed.row, pa.int64(), mask=placed.row < 0)
                whose.append(owners.take(rows).combine_chunks().cast(pa.large_string()))
        if codec is None:
            if not len(file):
                low, high = np.zeros_like(low), np.zeros_like(high)
            low, high = (bound.astype(kept_as).astype(np.float32) for bound in (low, high))  # as they are kept
            codec = Codec.of_range(geocells.width, precision, low, high - low)
        coded = codec
        empty = (np.empty(0, np.int64), np.empty(0), np.empty(0))
        leaf, lat_deg, lng_deg = (np.concatenate(parts) for parts in zip(empty, *columns, strict=True))
        photos = _Photos(
            leaf,
            lat_deg,
            lng_deg,
            np.ones(len(leaf)),
            pa.concat_arrays(names),
            pa.concat_arrays(whose) if owners is not None else None,
            lambda rows: coded.encode(file.rows(rows)),
        )
        yield photos, coded


def leaves_of(hierarchy: Hierarchy, leaf: np.ndarray, lat_deg: np.ndarray, lng_deg: np.ndarray) -> np.ndarray:
    """The leaf each photo is listed under: its own (N,) int64, or where that is -1 the one whose point is nearest."""
    result, outside = leaf.astype(np.int64), np.flatnonzero(leaf < 0)
    if outside.size:
        points = geo.point_tree(hierarchy.leaves.lat_deg, hierarchy.leaves.lng_deg)
        result[outside] = points.query(geo.unit_vectors(lat_deg[outside], lng_deg[outside]))[1]
    return result


def _write(
    folder: Path,
    parts: Sequence[_Photos],
    codec: Codec,
    geocells: Geocells,
    hierarchy: Hierarchy,
    rule: _Rule,
    *,
    owners: bool,
    settled: int,
) -> Written:
    """Choose from photos, leaf by leaf, and write those that are kept.

    parts: the photos of a gallery first, where there is one, then new ones. settled: the first so many photos give way
    to none for being like it.
    """
    photos = _together(parts)
    there = _unrepeated(photos)
    n_leaves = len(hierarchy.leaves)
    order = np.flatnonzero(there)[np.argsort(photos.leaf[there], kind="stable")]
    bounds = np.searchsorted(photos.leaf[order], np.arange(n_leaves + 1))
    kept: list[np.ndarray] = []
    stood_for = np.bincount(photos.leaf[there], weights=photos.stands_for[there], minlength=n_leaves)
    with ListWriter(folder / VECTORS_FILE, codec, n_lists=n_leaves) as writer:
        for leaf in range(n_leaves):
            rows = order[bounds[leaf] : bounds[leaf + 1]]
            codes = photos.codes(rows)
            chosen = _chosen(photos, rows, codes, codec, geocells.vectors[-1][leaf], rule, settled=settled)
            writer.add([codes[chosen]])
            kept.append(rows[chosen])
        begins = writer.end()
    counts = np.diff(begins)
    together = np.concatenate(kept) if kept else np.empty(0, np.int64)
    share = np.repeat(stood_for / np.maximum(counts, 1), counts)
    save_table(_table_parts(photos, together, share, owners=owners), folder, owners=owners)
    n_old = sum(map(len, parts[:-1]))
    n_added = int((together >= n_old).sum())
    facts = GalleryFacts(
        photos=len(together),
        width=codec.width,
        precision=codec.precision,
        per_leaf=rule.per_leaf,
        keep_duplicates=rule.keep_duplicates,
        owners=owners,
        encoder=geocells.encoder,
    )
    return Written(facts, len(parts[-1]), n_added, n_old - (len(together) - n_added))


def _chosen(
    photos: _Photos,
    rows: np.ndarray,
    codes: np.ndarray,
    codec: Codec,
    leaf_vector: np.ndarray,
    rule: _Rule,
    *,
    settled: int,
) -> np.ndarray:
    """Which of a leaf's photos are kept, by their place in `rows`, in the order in which they are kept: (k,) int64."""
    n_settled = int(np.searchsorted(rows, settled))  # they come first
    if n_settled == len(rows) and (rule.per_leaf is None or len(rows) <= rule.per_leaf):
        return np.arange(len(rows))
    vectors = unit_rows(codec.decode(codes))
    names = photos.photo.take(pa.array(rows)).to_numpy(zero_copy_only=False)
    typical = most_typical_first(vectors, leaf_vector, names)
    order = np.concatenate([np.arange(n_settled), typical[typical >= n_settled]])
    limit = rule.per_leaf if n_settled == 0 else None
    if rule.keep_duplicates:
        fresh = first_of_each(codes[order], photos.lat_deg[rows[order]], photos.lng_deg[rows[order]])
        fresh[:n_settled] = True
    else:
        fresh = different(vectors[order], settled=n_settled, limit=limit)
    order = order[fresh]
    if rule.per_leaf is not None and len(order) > rule.per_leaf:
        best = typical[np.isin(typical, order)][: rule.per_leaf]
        order = order[np.isin(order, best)]
    return order


def _together(parts: Sequence[_Photos]) -> _Photos:
    if len(parts) == 1:
        return parts[0]
    old, new = parts
    owner = None
    if old.owner is not None or new.owner is not None:
        each = [pa.nulls(len(part), pa.large_string()) if part.owner is None else part.owner for part in parts]
        owner = pa.concat_arrays(each)

    def codes(rows: np.ndarray) -> np.ndarray:
        is_old = rows < len(old)
        if is_old.all():
            return old.codes(rows)
        fresh = new.codes(rows[~is_old] - len(old))
        result = np.empty((len(rows), fresh.shape[1]), np.uint8)
        result[is_old], result[~is_old] = old.codes(rows[is_old]), fresh
        return result

    leaf, lat_deg, lng_deg, stands_for = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("leaf", "lat_deg", "lng_deg", "stands_for")
    )
    photo = pa.concat_arrays([old.photo, new.photo])
    return _Photos(leaf, lat_deg, lng_deg, stands_for, photo, owner, codes)


def _unrepeated(photos: _Photos) -> np.ndarray:
    """All photos but those that come again, name, vector and place: (N,) bool.

    Raises:
        InputError: a name repeats for photos that are not the same.
    """
    there = np.ones(len(photos), bool)
    number = photos.photo.dictionary_encode().indices.to_numpy()
    repeated = np.flatnonzero(np.bincount(number, minlength=1)[number] > 1)
    repeated = repeated[np.argsort(number[repeated], kind="stable")]
    if not repeated.size:
        return there
    again = np.concatenate([[False], np.diff(number[repeated]) == 0])
    first = repeated[~again][np.cumsum(~again) - 1]  # of each the first of its name
    same = (photos.codes(repeated) == photos.codes(first)).all(axis=1)
    for values in (photos.leaf, photos.lat_deg, photos.lng_deg):
        same &= values[repeated] == values[first]
    if not same.all():
        names = photos.photo.take(pa.array(np.unique(first[~same])[:_NAMED])).to_pylist()
        n_names = len(np.unique(first[~same]))
        raise InputError(
            f"{n_names:,} names of photos repeat for other vectors or places, among them "
            f"{', '.join(map(repr, names))}. A gallery knows a photo by its name: rename them, or remove the rows."
        )
    there[repeated[again]] = False
    return there


def _table_parts(photos: _Photos, rows: np.ndarray, stands_for: np.ndarray, *, owners: bool) -> Iterator[pa.Table]:
    for begin in range(0, len(rows), _TABLE_ROWS):
        part = rows[begin : begin + _TABLE_ROWS]
        numbers = pa.array(part)
        owner = None
        if owners:
            owner = pa.nulls(len(part), pa.string()) if photos.owner is None else photos.owner.take(numbers)
        yield gallery_table(
            photos.leaf[part],
            photos.photo.take(numbers),
            photos.lat_deg[part],
            photos.lng_deg[part],
            stands_for[begin : begin + _TABLE_ROWS],
            owner,
        )
