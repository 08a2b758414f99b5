"""Where the map of a photo lies, by the digest of the photo: sorted runs of keys, searched by halves.

One run comes from a file that is mapped, not read, so that processes share its memory; the shards that came after it
are runs in memory. Runs are merged as they grow alike, so that there are never more than the logarithm of all maps.
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
PLACE = np.dtype([("shard", "<u4"), ("size", "<u4"), ("offset", "<u8"), ("crc32", "<u4")])

_METADATA = b"geosurge"


class Place(NamedTuple):
    """Where one map lies; the fields are those of PLACE."""

    shard: int
    size: int
    offset: int
    crc32: int


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Places of the maps of some shards."""

    keys: np.ndarray  # (N,) KEY; ascending in a Lookup
    places: np.ndarray  # (N,) PLACE
    shards: Mapping[int, int]  # number of a shard -> size of its tar in bytes


@dataclass(frozen=True, slots=True, eq=False)
class Lookup:
    """Places of maps by key. Never changed, so that threads may search while another adds."""

    runs: tuple[Run, ...] = ()  # the larger first

    def __len__(self) -> int:
        return sum(len(run.keys) for run in self.runs)

    @property
    def shards(self) -> Mapping[int, int]:
        """Number of each shard that is in here, and the size of its tar in bytes."""
        return {number: size for run in self.runs for number, size in run.shards.items()}

    def find(self, digest: bytes) -> Place | None:
        """The place of the photo with this SHA-256, in 32 bytes; None where there is none."""
        key = np.array(digest, KEY)
        for run in self.runs:
            row = int(np.searchsorted(run.keys, key))
            if row < len(run.keys) and run.keys[row] == key:
                return Place(*run.places[row].item())
        return None

    def added(self, run: Run) -> "Lookup":
        """This lookup with the places of further shards, in any order."""
        runs = [*self.runs, _merged([run])]
        while len(runs) > 1 and len(runs[-2].keys) <= 2 * len(runs[-1].keys):
            runs[-2:] = [_merged(runs[-2:])]
        return Lookup(tuple(runs))

    def save(self, path: Path) -> None:
        """Write all places to a file that `load` maps."""
        run = self.runs[0] if len(self.runs) == 1 else _merged(self.runs)
        columns = [
            pa.Array.from_buffers(pa.binary(kind.itemsize), len(values), [None, pa.py_buffer(values)])
            for values, kind in ((run.keys, KEY), (run.places, PLACE))
        ]
        text = json.dumps({"crc32": _checksum(run), "facts": _facts(run)})
        schema = pa.schema(
            [pa.field("key", columns[0].type), pa.field("place", columns[1].type)], metadata={_METADATA: text}
        )
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(pa.record_batch(columns, schema=schema))

    @classmethod
    def load(cls, path: Path) -> "Lookup":
        """Map what `save` wrote.

        Raises:
            AttributeError, LookupError, OSError, TypeError, ValueError: it is damaged.
        """
        with pa.memory_map(str(path)) as source:
            batch = pa.ipc.open_file(source).get_batch(0)
        keys, places = (
            np.frombuffer(column.buffers()[1], kind, len(batch))
            for column, kind in zip(batch.columns, (KEY, PLACE), strict=True)
        )
        known = json.loads(batch.schema.metadata[_METADATA])
        run = Run(keys, places, {int(number): int(size) for number, size in known["facts"]["shards"].items()})
        if known["crc32"] != _checksum(run):
            raise ValueError("its checksum differs")
        return cls((run,))


def _merged(runs: Sequence[Run]) -> Run:
    """One run of these, whose keys may be in any order."""
    keys, places = (np.concatenate([getattr(run, name) for run in runs]) for name in ("keys", "places"))
    order = np.argsort(keys, kind="stable")  # which is linear where two sorted runs follow each other
    return Run(keys[order], places[order], Lookup(tuple(runs)).shards)


def _facts(run: Run) -> dict[str, Any]:
    return {"shards": {str(number): size for number, size in run.shards.items()}}


def _checksum(run: Run) -> int:
    start = zlib.crc32(json.dumps(_facts(run), sort_keys=True).encode())
    return zlib.crc32(run.places.view(np.uint8).data, zlib.crc32(run.keys.view(np.uint8).data, start))
