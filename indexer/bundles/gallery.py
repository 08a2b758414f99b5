"""The gallery: photos of known places with their vectors, in lists that are the leaves; the finest level of all.

Two files, in a checkpoint and in bundles:

    gallery.faiss     inverted lists that FAISS opens (`indexer.bundles.list_file`): list r holds the photos of leaf r,
                      as 8 bits, float16 or float32; ids are row numbers
    gallery.parquet   row i = vector i: leaf (int32), photo (its name), lat, lng (float64, degrees), stands_for
                      (float32), owner (string or null, where a column of the photos' table named one)

Vectors are as geocells meet them (transformed, unit rows). Rows are ordered by leaf, so that a leaf's photos are one
range. A photo that lies in no leaf belongs to the leaf whose point is nearest. Opened, vectors stay on disk, mapped.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from indexer.bundles.faiss_index import Precision
from indexer.bundles.list_file import ListFile
from indexer.disk.manifest import typed_facts
from indexer.errors import ArtifactError
from indexer.vectors.calibration import PhotoFit, usual_photo_fit

VECTORS_FILE = "gallery.faiss"
PHOTOS_FILE = "gallery.parquet"
NOBODY = -1  # in place of the number of an owner
FILES = (VECTORS_FILE, PHOTOS_FILE)
MOST_CHANGED = 0.01  # share of photos that may be added or removed before calibrations are lost
_COLUMNS = ("leaf", "lat", "lng", "stands_for")
_ROWS = 1 << 16  # of a row group

SCHEMA = pa.schema(
    [
        ("leaf", pa.int32()),
        ("photo", pa.string()),
        ("lat", pa.float64()),
        ("lng", pa.float64()),
        ("stands_for", pa.float32()),
    ]
)
OWNER = pa.field("owner", pa.string())


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryFacts:
    """What the manifest of a checkpoint or a bundle says of its gallery, under `gallery`."""

    photos: int
    width: int  # D of their vectors
    precision: Precision
    per_leaf: int | None  # at most so many photos of a leaf, the most typical ones; None: all
    keep_duplicates: bool  # whether a leaf may have near-duplicates
    owners: bool  # whether it is known whose photos they are
    encoder: str | None  # digest of the encoder that made the vectors, None where unknown
    similarity: float = 0.02  # tau_x where nothing was fitted
    lists: int = 32  # of how many leaves, the best ones, to look at photos where nothing was fitted
    alone: bool = False  # whether photos count by similarity alone, without cells, where nothing was fitted
    changed: float = 0.0  # photos added and removed since the calibrations were made, as a share of the photos then
    photos_then: int | None = None  # how many these were; None: as many as now, or not known of an older release's

    @property
    def precision_text(self) -> str:
        """The precision of the vectors, for people."""
        return {"int8": "8 bits", "fp16": "float16", "fp32": "float32"}[self.precision]

    def unfitted(self, leaf_width_km: float) -> PhotoFit:
        """How photos count where nothing was fitted. leaf_width_km: the median over leaves."""
        return usual_photo_fit(leaf_width_km, similarity=self.similarity, lists=self.lists, alone=self.alone)

    @property
    def keeps_calibrations(self) -> bool:
        """Whether so few photos were added or removed that what was calibrated before still holds."""
        return self.changed <= MOST_CHANGED


@dataclass(frozen=True, slots=True, eq=False)
class Gallery:
    """An opened gallery of N photos."""

    facts: GalleryFacts
    begins: np.ndarray  # (leaves + 1,) int64: the photos of leaf r are rows begins[r] to begins[r + 1]
    lat_deg: np.ndarray  # (N,) float64
    lng_deg: np.ndarray  # (N,) float64
    stands_for: np.ndarray  # (N,) float32: how many photos of its leaf a photo stands for; 1 where all were kept
    lists: ListFile  # the vectors
    _table: Path
    _texts: dict[str, pa.ChunkedArray] = field(default_factory=dict)  # columns that were wanted

    def __len__(self) -> int:
        return len(self.lat_deg)

    @property
    def n_leaves(self) -> int:
        """Number of lists."""
        return len(self.begins) - 1

    @property
    def width(self) -> int:
        """D, the number of dimensions of a vector."""
        return self.facts.width

    @property
    def leaf(self) -> np.ndarray:
        """The leaf of each photo: (N,) int32."""
        return np.repeat(np.arange(self.n_leaves, dtype=np.int32), np.diff(self.begins))

    def names(self, rows: np.ndarray) -> np.ndarray:
        """Names of photos by row, (R,) integers: (R,) str objects."""
        return _taken(self.texts("photo"), rows)

    def owners(self, rows: np.ndarray) -> np.ndarray | None:
        """Whose the photos are, None for some: (R,) objects; None where nobody recorded it. Never shown in answers."""
        return _taken(self.texts("owner"), rows) if self.facts.owners else None

    def texts(self, column: str) -> pa.ChunkedArray:
        """A column of texts of all photos, which is read when it is first wanted."""
        if column not in self._texts:
            with _readable(self._table):
                self._texts[column] = _read(self._table, [column])[column]
            pa.default_memory_pool().release_unused()
        return self._texts[column]

    def codes(self, leaf: int) -> np.ndarray:
        """The vectors of one leaf as they are stored: (n, code_size) uint8, a view into the mapped file, read-only."""
        return self.lists.codes(leaf)

    def scale(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Of 8 bits an offset and a step, (D,) float32 each: a vector is offset + step * code, but for rounding."""
        return self.lists.codec.scale()

    def owner_numbers(self) -> tuple[np.ndarray, pa.Array]:
        """Whose the photos are, where that is recorded: numbers (N,) int64, NOBODY for no name, and names by number."""
        names = self.texts("owner").combine_chunks().dictionary_encode()
        number = names.indices.fill_null(NOBODY).to_numpy(zero_copy_only=False).astype(np.int64)
        return np.where(number == pc.index(names.dictionary, "").as_py(), NOBODY, number), names.dictionary

    def vectors(self, begin: int, end: int) -> np.ndarray:
        """The vectors of rows begin to end, decoded as FAISS decodes them: (n, D) float32."""
        return self.lists.codec.decode(self.lists.rows(begin, end))


def gallery_table(
    leaf: np.ndarray,
    photo: pa.Array | pa.ChunkedArray,
    lat_deg: np.ndarray,
    lng_deg: np.ndarray,
    stands_for: np.ndarray,
    owner: pa.Array | pa.ChunkedArray | None,
) -> pa.Table:
    """Rows of `gallery.parquet`; every column has N entries."""
    columns = [pa.array(leaf, pa.int32()), photo.cast(pa.string()), pa.array(lat_deg), pa.array(lng_deg)]
    columns.append(pa.array(stands_for, pa.float32()))
    table = pa.Table.from_arrays(columns, schema=SCHEMA)
    return table if owner is None else table.append_column(OWNER, owner.cast(pa.string()))


def save_table(parts: Iterator[pa.Table], folder: Path, *, owners: bool) -> None:
    """Write `gallery.parquet` into a folder that is being written, a part of its rows after the other."""
    schema = SCHEMA.append(OWNER) if owners else SCHEMA
    with pa.parquet.ParquetWriter(folder / PHOTOS_FILE, schema, use_dictionary=["owner"] if owners else False) as file:
        for part in parts:
            file.write_table(part, row_group_size=_ROWS)


def gallery_facts(facts: GalleryFacts | None) -> dict[str, Any] | None:
    """What a manifest says; None where there is no gallery."""
    return None if facts is None else asdict(facts)


def open_gallery(folder: Path, facts: Mapping[str, Any] | None, *, n_leaves: int, width: int) -> Gallery | None:
    """Open the gallery of a checkpoint or a bundle; None where it has none.

    facts: what the manifest says under `gallery`.

    Raises:
        ArtifactError: it cannot be read, is damaged, or is not about these leaves and vectors of this width.
    """
    if facts is None:
        return None
    known = typed_facts(GalleryFacts, facts, source=folder)
    path = folder / PHOTOS_FILE
    lists = ListFile.open(folder / VECTORS_FILE)
    n_lists = len(lists.begins) - 1
    if (n_lists, lists.codec.width) != (n_leaves, width):
        raise ArtifactError(
            f"{folder / VECTORS_FILE}: {n_lists} lists of vectors of {lists.codec.width}, where {n_leaves} leaves and "
            f"vectors of {width} are expected. Build it again."
        )
    with _readable(path):
        table = _read(path, list(_COLUMNS))
        leaf, lat_deg, lng_deg, stands_for = (table[name].to_numpy() for name in _COLUMNS)
        schema = pa.parquet.read_schema(path)
    del table
    pa.default_memory_pool().release_unused()  # else it keeps what it read: of millions of photos twice what is held
    counts = np.bincount(leaf, minlength=n_leaves) if _are_numbers(leaf, n_leaves) else np.empty(0)
    fits = np.array_equal(counts, np.diff(lists.begins)) and bool((np.diff(leaf) >= 0).all())
    fits = fits and (known.photos, known.width, known.precision) == (len(leaf), width, lists.codec.precision)
    fits = fits and schema.equals(SCHEMA.append(OWNER) if known.owners else SCHEMA)
    if not fits:
        raise ArtifactError(f"{path}: not about the photos of {VECTORS_FILE}. Restore both from a copy.")
    sound = (np.abs(lat_deg) <= 90) & (np.abs(lng_deg) <= 180) & (stands_for > 0) & np.isfinite(stands_for)
    if not sound.all():
        raise ArtifactError(
            f"{path}: a photo in row {int(np.flatnonzero(~sound)[0])} without a place on Earth, or that stands for no "
            "photo. Restore it from a copy."
        )
    for values in (lists.begins, lat_deg, lng_deg, stands_for):
        values.flags.writeable = False
    return Gallery(known, lists.begins, lat_deg, lng_deg, stands_for, lists, path)


def _are_numbers(leaf: np.ndarray, n_leaves: int) -> bool:
    return np.issubdtype(leaf.dtype, np.integer) and (not leaf.size or (leaf.min() >= 0 and leaf.max() < n_leaves))


def _read(path: Path, columns: list[str]) -> pa.Table:
    """Some columns of all photos; those that the file lacks are left out.

    Group by group and in this thread, which takes half the memory of all at once.
    """
    with pa.parquet.ParquetFile(path) as file:
        parts = [file.schema_arrow.empty_table()]
        for number in range(file.num_row_groups):
            group = file.read_row_group(number, columns=columns, use_threads=False)
            # Joined with nothing: a copy as large as it has to be, where readers of texts leave half unused.
            parts.append(pa.concat_tables([group, group[:0]]).combine_chunks())
    return pa.concat_tables([parts[0].select(parts[-1].column_names), *parts[1:]])


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, KeyError, OSError) as error:
        raise ArtifactError(
            f"{path}: cannot be read as photos of a gallery ({error}). Restore it from a copy."
        ) from None


def _taken(column: pa.ChunkedArray, rows: np.ndarray) -> np.ndarray:
    """The texts of rows (R,) integers, None for none: (R,) objects.

    Chunk by chunk: Arrow's own `take` copies all of them into one before it does, every time.
    """
    ends = np.cumsum([len(chunk) for chunk in column.chunks])
    number = np.searchsorted(ends, rows, side="right")
    result = np.empty(len(rows), object)
    for each in np.unique(number).tolist():
        own, chunk = np.flatnonzero(number == each), column.chunk(each)
        result[own] = chunk.take(pa.array(rows[own] - (ends[each] - len(chunk)))).to_pylist()
    return result
