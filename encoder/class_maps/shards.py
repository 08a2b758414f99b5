"""One shard of class maps: a tar of PNGs that any tool opens, and its index, a Parquet file.

    maps/00000.tar         <SHA-256 of the photo's file>.png, one after another
    index/00000.parquet    a row for each photo: `sha256`, `status` ('ok' or a reason code), `reason`, `height` and
                           `width` of its map, `offset`, `size_bytes` and `crc32` of the PNG within the tar

The index is written last: a tar without one is what a killed process left.
"""

import io
import json
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from encoder.class_maps.class_map import decode_map, encode_map
from encoder.class_maps.lookup import ADDRESS, KEY, KeyTable, MapAddress
from indexer.disk.artifact import write_file
from indexer.errors import ArtifactError, BadImage
from indexer.jobs.job_folder import OK

_METADATA = b"geosurge"
_COLUMNS = pa.schema(
    [
        ("sha256", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("offset", pa.int64()),
        ("size_bytes", pa.int64()),
        ("crc32", pa.int64()),
    ]
)


@dataclass(slots=True, eq=False)
class ShardDraft:
    """Maps that are waiting to be written together."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)  # digest of the photo -> its row of the index
    _stream: io.BytesIO = field(default_factory=io.BytesIO)

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, digest: str, classes: np.ndarray) -> None:
        """Add the map (h, w) uint8 of a photo with this SHA-256, in hex."""
        png = encode_map(classes)
        member = tarfile.TarInfo(f"{digest}.png")
        member.size = len(png)
        header = member.tobuf(tarfile.USTAR_FORMAT)
        offset = self._stream.tell() + len(header)
        self._stream.write(header + png + bytes(-len(png) % tarfile.BLOCKSIZE))
        row = (digest, OK, "", *classes.shape, offset, len(png), zlib.crc32(png))
        self.rows[digest] = dict(zip(_COLUMNS.names, row, strict=True))

    def fail(self, digest: str, problem: BadImage) -> None:
        """Add a photo that cannot be segmented."""
        self.rows[digest] = {"sha256": digest, "status": problem.code, "reason": problem.reason}

    def check(self, digest: str) -> bool:
        """Whether a photo is in this draft; raises BadImage where it is, and cannot be segmented."""
        row = self.rows.get(digest)
        if row is not None and row["status"] != OK:
            raise BadImage(row["status"], row["reason"])
        return row is not None

    def write(self, folder: Path, number: int) -> KeyTable:
        """Write the tar and then its index, as `write_file` does; what a killed process left is replaced."""
        tar = self._stream.getvalue() + bytes(2 * tarfile.BLOCKSIZE)  # two empty blocks end a tar
        tar_path(folder, number).unlink(missing_ok=True)
        write_file(tar_path(folder, number), tar)
        facts = {"rows": len(self), "tar_bytes": len(tar)}
        table = pa.Table.from_pylist(list(self.rows.values()), _COLUMNS).replace_schema_metadata(
            {_METADATA: json.dumps(facts)}
        )
        sink = io.BytesIO()
        pa.parquet.write_table(table, sink, write_page_checksum=True)
        write_file(index_path(folder, number), sink.getvalue())
        return _index(table, number)


def tar_path(folder: Path, number: int) -> Path:
    """Where the maps of a shard lie."""
    return folder / "maps" / f"{number:05d}.tar"


def index_path(folder: Path, number: int) -> Path:
    """Where the index of a shard lies."""
    return folder / "index" / f"{number:05d}.parquet"


def mend(folder: Path, number: int) -> str:
    """What to do about a damaged shard."""
    files = f"{tar_path(folder, number)} and {index_path(folder, number)}"
    return f"Remove {files} and run segment again: it makes the maps that are missing."


def read_shard_index(folder: Path, number: int) -> KeyTable:
    """Where the maps of a shard lie, in the order they were written; an ArtifactError where the index is damaged."""
    with _damage_named(folder, number):
        return _index(_read_table(folder, number), number)


def read_map(folder: Path, address: MapAddress) -> np.ndarray:
    """The class map (h, w) uint8 at an address.

    Raises:
        ArtifactError: the shard is damaged, or gone.
        BadImage: the photo could not be segmented, for the reason recorded.
    """
    if not address.size:
        with _damage_named(folder, address.shard):
            row = _read_table(folder, address.shard).slice(address.offset, 1).to_pylist()[0]
            raise BadImage(row["status"], row["reason"])
    path = tar_path(folder, address.shard)
    try:
        with path.open("rb", buffering=0) as tar:
            tar.seek(address.offset)
            png = tar.read(address.size)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}). {mend(folder, address.shard)}") from None
    if len(png) != address.size or zlib.crc32(png) != address.crc32:
        raise ArtifactError(f"{path}: a map in it is not what was written. {mend(folder, address.shard)}")
    return decode_map(png)


def _read_table(folder: Path, number: int) -> pa.Table:
    # Through a stream: a name would be mapped, and of a file cut short meanwhile a mapping is a crash.
    with index_path(folder, number).open("rb") as stream:
        return pa.parquet.ParquetFile(stream, page_checksum_verification=True).read()


def _index(table: pa.Table, number: int) -> KeyTable:
    facts = json.loads(table.schema.metadata[_METADATA])
    keys = np.frombuffer(bytes.fromhex("".join(table["sha256"].to_pylist())), KEY)
    if not table.schema.equals(_COLUMNS) or not len(keys) == table.num_rows == facts["rows"]:
        raise ValueError("rows or columns are missing")
    addresses = np.zeros(len(keys), ADDRESS)
    addresses["shard"] = number
    ok = np.array(pa.compute.equal(table["status"], OK))
    for name, column in (("offset", "offset"), ("size", "size_bytes"), ("crc32", "crc32")):
        addresses[name][ok] = table[column].filter(ok).to_numpy()
    addresses["offset"][~ok] = np.flatnonzero(~ok)
    return KeyTable(keys, addresses, {number: int(facts["tar_bytes"])})


@contextmanager
def _damage_named(folder: Path, number: int) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, LookupError, TypeError, ValueError) as error:
        detail = " ".join(str(error).split())[:200]
        raise ArtifactError(
            f"{index_path(folder, number)}: cannot be read as an index of class maps ({detail}). {mend(folder, number)}"
        ) from None
