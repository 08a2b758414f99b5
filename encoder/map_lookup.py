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
    """Places in the order of their keys."""

    keys: np.ndarray  # (N,) KEY, ascending
    places: np.ndarray  # (N,) PLACE


@dataclass(frozen=True, slots=True, eq=False)
class Lookup:
    """Places of maps by key. Never changed, so that threads may search while another adds."""

    runs: tuple[Run, ...] = ()  # the larger first

    def __len__(self) -> int:
        return sum(len(run.keys) for run in self.runs)

    def find(self, digest: bytes) -> Place | None:
        """The place of the photo with this SHA-256, in 32 bytes; None where there is none."""
        key = np.array(digest, KEY)
        for run in self.runs:
            row = int(np.searchsorted(run.keys, key))
            if row < len(run.keys) and run.keys[row] == key:
                return Place(*run.places[row].item())
        return None

    def added(self, keys: np.ndarray, places: np.ndarray) -> "Lookup":
        """This lookup with more places, in any order."""
        runs = [*self.runs, _merged([Run(keys, places)])]
        while len(runs) > 1 and len(runs[-2].keys) <= 2 * len(runs[-1].keys):
            runs[-2:] = [_merged(runs[-2:])]
        return Lookup(tuple(runs))

    def save(self, path: Path, *, facts: Mapping[str, Any]) -> None:
        """Write all places to a file that `load` maps; `facts` is JSON."""
        run = self.runs[0] if len(self.runs) == 1 else _merged(self.runs)
        columns = [
            pa.Array.from_buffers(pa.binary(kind.itemsize), len(values), [None, pa.py_buffer(values)])
            for values, kind in ((run.keys, KEY), (run.places, PLACE))
        ]
        text = json.dumps({"crc32": _checksum(run, facts), "facts": facts})
        schema = pa.schema(
            [pa.field("key", columns[0].type), pa.field("place", columns[1].type)], metadata={_METADATA: text}
        )
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(pa.record_batch(columns, schema=schema))

    @classmethod
    def load(cls, path: Path) -> tuple["Lookup", dict[str, Any]]:
        """Map what `save` wrote; returns the lookup and its facts.

        Raises:
            ValueError, OSError, LookupError, TypeError: it is damaged.
        """
        with pa.memory_map(str(path)) as source:
            batch = pa.ipc.open_file(source).get_batch(0)
        keys, places = (
            np.frombuffer(column.buffers()[1], kind, len(batch))
            for column, kind in zip(batch.columns, (KEY, PLACE), strict=True)
        )
        run, known = Run(keys, places), json.loads(batch.schema.metadata[_METADATA])
        if known["crc32"] != _checksum(run, known["facts"]):
            raise ValueError("its checksum differs")
        return cls((run,)), dict(known["facts"])


def _merged(runs: Sequence[Run]) -> Run:
    """One run of these, whose own order does not matter."""
    keys, places = (np.concatenate([getattr(run, name) for run in runs]) for name in ("keys", "places"))
    order = np.argsort(keys, kind="stable")  # which is linear where two sorted runs follow each other
    return Run(keys[order], places[order])


def _checksum(run: Run, facts: Mapping[str, Any]) -> int:
    start = zlib.crc32(json.dumps(facts, sort_keys=True).encode())
    return zlib.crc32(run.places.view(np.uint8).data, zlib.crc32(run.keys.view(np.uint8).data, start))
