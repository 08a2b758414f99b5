"""Where the map of a photo lies, by the digest of the photo: sorted tables of keys, searched by halves.

One table comes from a file that is mapped, not read, so that processes share its memory; the shards that came after it
are tables in memory. Tables are merged as they grow alike, so that there are never more than the logarithm of all maps.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

KEY = np.dtype("S32")  # a SHA-256
# shard: its number. size: bytes of the PNG from `offset` in the shard's tar, with their checksum; or 0 for a photo that
# could not be segmented, whose row in the shard's index is `offset`.
ADDRESS = np.dtype([("shard", "<u4"), ("size", "<u4"), ("offset", "<u8"), ("crc32", "<u4")])

_METADATA = b"geosurge"


class MapAddress(NamedTuple):
    """Where one map lies; the fields are those of ADDRESS."""

    shard: int
    size: int
    offset: int
    crc32: int


@dataclass(frozen=True, slots=True, eq=False)
class KeyTable:
    """Addresses of the maps of some shards, by key."""

    keys: np.ndarray  # (N,) KEY; ascending in a Lookup
    addresses: np.ndarray  # (N,) ADDRESS
    shards: Mapping[int, int]  # number of a shard -> size of its tar in bytes


@dataclass(frozen=True, slots=True, eq=False)
class Lookup:
    """Addresses of maps by key. Never changed, so that threads may search while another adds."""

    tables: tuple[KeyTable, ...] = ()  # the larger first

    def __len__(self) -> int:
        return sum(len(table.keys) for table in self.tables)

    @property
    def shards(self) -> Mapping[int, int]:
        """Number of each shard that is in here, and the size of its tar in bytes."""
        return {number: size for table in self.tables for number, size in table.shards.items()}

    def find(self, digest: bytes) -> MapAddress | None:
        """The address of the photo with this SHA-256, in 32 bytes; None where there is none."""
        key = np.array(digest, KEY)
        for table in self.tables:
            row = int(np.searchsorted(table.keys, key))
            if row < len(table.keys) and table.keys[row] == key:
                return MapAddress(*table.addresses[row].item())
        return None

    def added(self, table: KeyTable) -> "Lookup":
        """This lookup with the addresses of further shards, in any order."""
        tables = [*self.tables, _merged([table])]
        while len(tables) > 1 and len(tables[-2].keys) <= 2 * len(tables[-1].keys):
            tables[-2:] = [_merged(tables[-2:])]
        return Lookup(tuple(tables))

    def save(self, path: Path) -> None:
        """Write all addresses to a file that `load` maps."""
        table = self.tables[0] if len(self.tables) == 1 else _merged(self.tables)
        columns = [
            pa.Array.from_buffers(pa.binary(kind.itemsize), len(values), [None, pa.py_buffer(values)])
            for values, kind in ((table.keys, KEY), (table.addresses, ADDRESS))
        ]
        text = json.dumps({"crc32": _checksum(table), "facts": _facts(table)})
        schema = pa.schema(
            [pa.field("key", columns[0].type), pa.field("place", columns[1].type)], metadata={_METADATA: text}
        )
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(pa.record_batch(columns, schema=schema))

    @classmethod
    def load(cls, path: Path) -> "Lookup":
        """Map what `save` wrote; AttributeError, LookupError, OSError, TypeError or ValueError where it is damaged."""
        with pa.memory_map(str(path)) as source:
            batch = pa.ipc.open_file(source).get_batch(0)
        keys, addresses = (
            np.frombuffer(column.buffers()[1], kind, len(batch))
            for column, kind in zip(batch.columns, (KEY, ADDRESS), strict=True)
        )
        known = json.loads(batch.schema.metadata[_METADATA])
        table = KeyTable(keys, addresses, {int(number): int(size) for number, size in known["facts"]["shards"].items()})
        if known["crc32"] != _checksum(table):
            raise ValueError("its checksum differs")
        return cls((table,))


def _merged(tables: Sequence[KeyTable]) -> KeyTable:
    """One table of these, whose keys may be in any order."""
    keys, addresses = (np.concatenate([getattr(table, name) for table in tables]) for name in ("keys", "addresses"))
    order = np.argsort(keys, kind="stable")  # which is linear where two sorted tables follow each other
    return KeyTable(keys[order], addresses[order], Lookup(tuple(tables)).shards)


def _facts(table: KeyTable) -> dict[str, Any]:
    return {"shards": {str(number): size for number, size in table.shards.items()}}


def _checksum(table: KeyTable) -> int:
    start = zlib.crc32(json.dumps(_facts(table), sort_keys=True).encode())
    return zlib.crc32(table.addresses.view(np.uint8).data, zlib.crc32(table.keys.view(np.uint8).data, start))
