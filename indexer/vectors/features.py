"""Photo vectors on disk: a folder of Parquet shards, or what others wrote (one Parquet file, or a .npy beside a CSV).

Columns: `photo`, `embedding` (list of float), `lat` and `lng` where known, `status` ('ok' or a short reason code),
`reason`. The folder's `_manifest.json` carries the digest of the encoder that made the vectors.
"""

import contextlib
import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from indexer.disk.artifact import check_target
from indexer.disk.manifest import ROWS_MANIFEST, file_digest, manifest_digest, read_manifest
from indexer.errors import ArtifactError, BundleMismatch, InputError
from indexer.jobs.job_folder import OK, Job, check_ended, in_order, open_job
from indexer.photos.tables import ROW, coordinates_of, names_of, read_columns, standard_names
from indexer.vectors.cell_sums import unit_rows
from indexer.vectors.geocells import CHECKPOINT_KIND, CHECKPOINT_SCHEMA_VERSION

log = logging.getLogger(__name__)

KIND = "features"
SCHEMA_VERSION = 1
_ROUNDED, _SHORT = 1e-3, 0.99  # norms within this of 1 are 1; below this a vector is told to be no unit vector
_ROWS = 1 << 13  # read at once
_CUT = 1 << 10  # read at once where shards are cut: what is read stays in memory as long as a part of it does

_Rows = tuple[int, pa.Table, pa.Array | np.ndarray]  # number of the first row in its file, columns, vectors as they are
_Needed = Callable[[int, int], bool]  # whether a shard that is wanted has any of these rows of a file


@dataclass(frozen=True, slots=True, eq=False)
class FeatureBatch:
    """Vectors of some photos. A photo that could not be read has a row too: zeros, and a status that says why."""

    photo: Sequence[str]
    embedding: np.ndarray  # (N, D) float32; zeros where status is not 'ok'
    status: Sequence[str]  # 'ok' or a short reason code
    reason: Sequence[str]  # a sentence where status is not 'ok', else empty
    lat_deg: np.ndarray  # (N,) float64, NaN where unknown
    lng_deg: np.ndarray  # (N,) float64
    # Whether its class map was seen, of an encoder that takes maps, None where there is no vector; None: nobody said.
    class_map: Sequence[bool | None] | None = None

    def __len__(self) -> int:
        return len(self.photo)

    @property
    def ok(self) -> np.ndarray:
        """Which rows have a vector: (N,) bool."""
        return np.array([status == OK for status in self.status], bool)

    def take(self, rows: Sequence[int]) -> "FeatureBatch":
        """Some of the photos, by their numbers."""
        photo, status, reason = ([each[row] for row in rows] for each in (self.photo, self.status, self.reason))
        seen = None if self.class_map is None else [self.class_map[row] for row in rows]
        places = self.lat_deg[rows], self.lng_deg[rows]
        return FeatureBatch(photo, self.embedding[rows], status, reason, *places, seen)

    def without_vectors(self) -> "FeatureBatch":
        """The same photos with vectors of width 0."""
        return replace(self, embedding=np.empty((len(self), 0), np.float32))


@dataclass(frozen=True)  # no slots: cached_property needs a __dict__
class FeatureSource:
    """Where vectors are, before any is read: read a bounded number at a time."""

    location: Path
    shards: Sequence[Path]
    encoder: str | None  # digest of the encoder, None where nobody recorded it
    digest: str  # of the folder's manifest, or over the files
    crops: str | None = None  # 'one', 'five' or 'ten' of each photo, where it was recorded or the user says it
    means: bool = (
        False  # whether vectors may be means of crops, which are shorter than 1; else their length says nothing
    )
    _warned: set[str] = field(default_factory=set, compare=False, repr=False)

    @property
    def rows(self) -> int:
        """How many photos there are, counted without reading their vectors."""
        return sum(self._counts)

    def __iter__(self) -> Iterator[FeatureBatch]:
        """All vectors in order, a bounded number at a time."""
        return (batch for _, batch in self._pieces(self.rows, lambda _: True, at_once=_ROWS))

    def cut(self, rows: int, wanted: Callable[[int], bool]) -> Iterator[tuple[int, FeatureBatch]]:
        """The same in shards of so many rows, whatever files they are in, the last one shorter; with their numbers.

        wanted: which shards, by number; others are passed over, and not read where the files allow it.
        """
        pile: list[FeatureBatch] = []
        for number, batch in self._pieces(rows, wanted, at_once=_CUT):
            pile.append(batch)
            # As soon as it is whole: what comes next may be damaged.
            if sum(map(len, pile)) == rows:
                yield number, joined(pile)
                pile = []
        if pile:
            yield number, joined(pile)

    def _pieces(self, rows: int, wanted: Callable[[int], bool], *, at_once: int) -> Iterator[tuple[int, FeatureBatch]]:
        """The vectors of these shards, at most `at_once` at a time and never of two shards or files."""
        width, row = None, 0
        for file, n_rows in zip(self.shards, self._counts, strict=True):

            def needed(begin: int, end: int, before: int = row) -> bool:
                return any(map(wanted, range((before + begin) // rows, -(-(before + end) // rows))))

            read = _npy_rows if file.suffix == ".npy" else _parquet_rows
            with _damage_named(file):
                for first, columns, embedding in read(file, needed, at_once) if needed(0, n_rows) else ():
                    begin, end = row + first, row + first + columns.num_rows
                    for number in filter(wanted, range(begin // rows, -(-end // rows))):
                        part = slice(max(number * rows - begin, 0), (number + 1) * rows - begin)
                        batch = _batch(columns[part], embedding[part], file, first_row=first + part.start)
                        batch = self._scaled(batch, file, first_row=first + part.start)
                        found = batch.embedding.shape[1]
                        if width not in (None, found):
                            raise InputError(
                                f"{file}: embeddings of {found} values; {self.shards[0].name} beside it has {width}. "
                                "Keep the vectors of each encoder in a folder of their own."
                            )
                        width = found
                        yield number, batch
            row += n_rows

    def _scaled(self, batch: FeatureBatch, file: Path, *, first_row: int) -> FeatureBatch:
        """The same with vectors that are longer than 1 scaled to 1; shorter ones, too, where they are no means."""
        norms = np.linalg.norm(batch.embedding, axis=1)
        # float16 rounds a unit vector to within this.
        wrong = norms > 1 + _ROUNDED if self.means else np.abs(norms - 1) > _ROUNDED
        wrong &= norms > 0  # of photos without a vector
        short = np.flatnonzero(wrong & (norms < _SHORT))
        if short.size and not self._warned:
            self._warned.add("short")
            log.warning(
                "%s: its vectors are scaled to length 1 (that in row %d has %.2f), as nobody recorded that they are "
                "means of several crops. If they are, say so with `crops`: five or ten",
                *(file, first_row + short[0], norms[short[0]]),
            )
        if not wrong.any():
            return batch
        return replace(batch, embedding=np.where(wrong[:, None], unit_rows(batch.embedding), batch.embedding))

    @cached_property
    def _counts(self) -> Sequence[int]:
        """Rows of each file."""
        counts = []
        for file in self.shards:
            with _damage_named(file):
                is_npy = file.suffix == ".npy"
                rows = np.load(file, mmap_mode="r").shape[0] if is_npy else pa.parquet.read_metadata(file).num_rows
            if not rows:
                raise InputError(f"{file}: no rows.")
            counts.append(rows)
        return counts


def open_features(
    location: str | Path, *, crops: str | None = None, encoder: str | Path | None = None
) -> FeatureSource:
    """Open vectors to use; warns where nobody says which encoder made them. Arguments and errors as `features_at`."""
    source = features_at(location, crops=crops, encoder=encoder)
    if source.encoder is None:
        log.warning(
            "%s: nobody recorded which encoder made these vectors; they are taken as they come", source.location
        )
    return source


def features_at(location: str | Path, *, crops: str | None = None, encoder: str | Path | None = None) -> FeatureSource:
    """A features folder, one Parquet file, or a .npy with a .csv of the same name beside it.

    Args:
        location: where they are.
        crops: of each photo, where the user says it: of five or ten a vector is a mean, whose length tells how alike
            the crops are. Of vectors that nobody says it of, the length tells nothing.
        encoder: whose vectors they are, where the user says it: a checkpoint folder, or the digest of an encoder.

    Raises:
        InputError: nothing usable is there, or another number of crops was recorded.
        BundleMismatch: another encoder was recorded.
        ArtifactError: a features folder, or a checkpoint, that is damaged or newer than this version.
    """
    location = Path(location)
    check_ended(location)
    made_by = recorded = None
    if (location / ROWS_MANIFEST).exists():
        manifest = read_manifest(location, kind=KIND, schema_version=SCHEMA_VERSION, name=ROWS_MANIFEST)
        shards = [location / name for name in sorted(manifest.files, key=in_order)]
        digest = manifest_digest(location, name=ROWS_MANIFEST)
        made_by, recorded = manifest.facts.get("encoder"), manifest.config.get("crops")
    else:
        shards = [location] if location.is_file() else sorted(location.glob("[!_]*.parquet"))
        if not shards:
            raise InputError(
                f"{location}: no features here. Give a folder of Parquet shards, a .parquet or a .npy file."
            )
        digest = hashlib.sha256("".join(map(file_digest, shards)).encode()).hexdigest()
    if crops is not None and recorded not in (None, crops):
        raise InputError(f"{location}: its vectors are of `crops` {recorded}, not {crops}. Leave `crops` out.")
    given = None if encoder is None else _encoder_of(encoder)
    if None not in (given, made_by) and given != made_by:
        raise BundleMismatch(
            f"{location}: its vectors are of encoder {str(made_by)[:8]}, not of {encoder}. Leave `encoder` out."
        )
    means = recorded is not None or crops in ("five", "ten")
    return FeatureSource(location, shards, made_by or given, digest, recorded or crops, means)


def _encoder_of(given: str | Path) -> str:
    """The digest of an encoder that is given as one, or as the checkpoint folder that holds it."""
    if re.fullmatch(r"[0-9a-f]{64}", str(given)):
        return str(given)
    folder = Path(given)
    if not folder.is_dir():
        raise InputError(
            f"{given}: neither a checkpoint folder nor the digest of an encoder (64 hex digits). `encoder_digest` of a "
            "Locator tells that of any encoder."
        )
    facts = read_manifest(folder, kind=CHECKPOINT_KIND, schema_version=CHECKPOINT_SCHEMA_VERSION).facts
    if facts.get("encoder") is None:
        raise ArtifactError(f"{folder}: this checkpoint does not say which encoder it is of. Give another one.")
    return str(facts["encoder"])


def read_features(location: Path) -> FeatureBatch:
    """All vectors of a source at once, in order. For sources larger than memory iterate over `open_features`."""
    return joined(list(open_features(location)))


def joined(batches: Sequence[FeatureBatch]) -> FeatureBatch:
    """Batches one after another, as one."""
    return FeatureBatch(
        [name for batch in batches for name in batch.photo],
        np.concatenate([batch.embedding for batch in batches]),
        [status for batch in batches for status in batch.status],
        [reason for batch in batches for reason in batch.reason],
        np.concatenate([batch.lat_deg for batch in batches]),
        np.concatenate([batch.lng_deg for batch in batches]),
        None
        if all(batch.class_map is None for batch in batches)
        else [seen for batch in batches for seen in batch.class_map or [None] * len(batch)],
    )


def feature_table(batch: FeatureBatch) -> pa.Table:
    """The rows of a features folder."""
    flat = pa.array(np.ascontiguousarray(batch.embedding).ravel())
    return pa.table(
        {
            "photo": pa.array(batch.photo, pa.string()),
            "embedding": pa.FixedSizeListArray.from_arrays(flat, batch.embedding.shape[1]),
            "lat": pa.array(batch.lat_deg, from_pandas=True),  # NaN becomes null
            "lng": pa.array(batch.lng_deg, from_pandas=True),
            "status": pa.array(batch.status, pa.string()),
            "reason": pa.array(batch.reason, pa.string()),
            **({} if batch.class_map is None else {"class_map": pa.array(batch.class_map, pa.bool_())}),
        }
    )


def write_features(
    out: Path,
    batches: Iterable[FeatureBatch],
    *,
    encoder: str | None,
    options: Mapping[str, Any],
    inputs: Mapping[str, str | None],
) -> Path:
    """Write a features folder of vectors that are there at once, a shard for each batch, and return it.

    Args:
        out: the folder.
        batches: of vectors that were all made in one way.
        encoder: digest of the encoder whose photo vectors they are to meet; None where unknown.
        options: how they were made, `crops` among them.
        inputs: digests of what they were made from.

    Raises:
        InputError: `out` exists, or cannot be written.
        WorkError: the disk is full.
    """
    check_target(out)
    first_row, facts = 0, dict[str, Any](encoder=encoder)
    with open_job(out, Job(KIND, SCHEMA_VERSION, options, inputs)) as folder:
        for number, batch in enumerate(batches):
            folder.add(number, feature_table(batch), first_row=first_row)
            first_row += len(batch)
            facts["width"] = batch.embedding.shape[1]
        folder.finish(facts, rows=first_row)
    return out


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, OSError, ValueError, TypeError) as error:
        raise ArtifactError(f"{path}: cannot be read as features ({error}).") from None


def _npy_rows(path: Path, needed: _Needed, at_once: int) -> Iterator[_Rows]:
    beside = path.with_suffix(".csv")
    if not beside.is_file():
        raise InputError(f"{path}: needs {beside.name} beside it, with a column photo (and lat, lng if known).")
    table = read_columns(beside, ["photo"], optional=("lat", "lng", "status", "reason", "class_map"))
    vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    if vectors.ndim != 2 or len(vectors) != table.num_rows:
        raise InputError(
            f"{path}: shape {vectors.shape}, but {beside.name} has {table.num_rows} rows. Give (rows, D) numbers, one "
            "row for each row of the table."
        )
    for first in range(0, len(vectors), at_once):
        if needed(first, min(first + at_once, len(vectors))):
            yield first, table.slice(first, at_once), vectors[first : first + at_once]


def _parquet_rows(path: Path, needed: _Needed, at_once: int) -> Iterator[_Rows]:
    # Mapped: else the bytes of a whole row group are held, which others make of a million rows.
    with pa.parquet.ParquetFile(path, memory_map=True) as file:
        if "embedding" not in file.schema_arrow.names:
            raise InputError(f"{path}: no column 'embedding'; it has {', '.join(file.schema_arrow.names)}.")
        end = 0
        for group in range(file.num_row_groups):
            begin, end = end, end + file.metadata.row_group(group).num_rows
            for batch in file.iter_batches(at_once, row_groups=[group]) if needed(begin, end) else ():
                yield begin, pa.table(batch), batch["embedding"]
                begin += batch.num_rows


def _vectors(column: pa.Array, path: Path) -> np.ndarray:
    """A column of lists of numbers as (N, D) float32."""
    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not (is_list and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))):
        raise InputError(f"{path}: column 'embedding' is {kind}; it must be lists of numbers.")
    if column.null_count:
        raise InputError(f"{path}: {column.null_count} rows have no embedding. Fill them with zeros and set `status`.")
    lengths = pa.compute.list_value_length(column).to_numpy()
    if (lengths != lengths[0]).any():
        raise InputError(f"{path}: embeddings of different lengths ({lengths.min()} to {lengths.max()}).")
    return np.asarray(column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1), np.float32)


def _batch(table: pa.Table, embedding: pa.Array | np.ndarray, path: Path, *, first_row: int) -> FeatureBatch:
    is_array = isinstance(embedding, np.ndarray)
    vectors = np.asarray(embedding, np.float32) if is_array else _vectors(embedding, path)
    table = standard_names(table)
    if ROW not in table.column_names:
        table = table.append_column(ROW, pa.array(np.arange(first_row, first_row + table.num_rows)))
    if "photo" not in table.column_names:
        raise InputError(f"{path}: no column 'photo'; it has {', '.join(table.column_names)}.")
    lat, lng = coordinates_of(table, path)
    status = _text(table, "status", absent=OK, empty="unknown")
    reason = _text(table, "reason", absent="", empty="")
    ok = np.array([value == OK for value in status], bool)
    wrong = np.flatnonzero(ok & (~np.isfinite(vectors).all(axis=1) | ~vectors.any(axis=1)))
    if wrong.size:
        raise InputError(
            f"{path}: {wrong.size} embeddings are zero or not finite, the first in row {first_row + wrong[0]}. "
            "Remove those rows, or give them a status other than 'ok'."
        )
    seen = None
    if "class_map" in table.column_names and pa.types.is_boolean(table.schema.field("class_map").type):
        seen = table["class_map"].to_pylist()  # others may call something else so
    return FeatureBatch(names_of(table, path), vectors, status, reason, lat, lng, seen)


def _text(table: pa.Table, column: str, *, absent: str, empty: str) -> list[str]:
    if column not in table.column_names:
        return [absent] * table.num_rows
    values: list[str] = table[column].cast(pa.string()).fill_null(empty).to_pylist()
    return values
