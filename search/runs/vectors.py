"""What a run answers: vectors, shard by shard, wherever they come from; here those that were made before."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from encoder.config import SHARD_ROWS
from indexer.jobs.job_folder import Job, Mark
from indexer.jobs.stages import Line
from indexer.photos.shard_cut import JobPart
from indexer.vectors.features import FeatureBatch, FeatureSource
from search.answers.engine import Engine


@dataclass(frozen=True, slots=True, eq=False)
class VectorShard:
    """Vectors of the photos of one shard."""

    number: int
    first_row: int  # of the input
    batch: FeatureBatch
    answers: pa.Table | None = None  # a row for each photo, once they were searched for

    def __len__(self) -> int:
        return len(self.batch)


class StoredVectors:
    """Vectors that were made before. BundleMismatch where they are of another encoder than the bundle's."""

    rows: int | None  # None where nobody knows before the end, as of some photos
    shard_rows: int
    inputs: Mapping[str, str | None]  # name -> digest
    options: Mapping[str, Any]  # that decide the vectors, and how they are cut
    features: Job | None = None  # the features folder they could be kept in, where they are made here
    facts: Mapping[str, Any] = {}  # what such a folder says of them

    def __init__(self, engine: Engine, source: FeatureSource, *, shard_rows: int = SHARD_ROWS) -> None:
        engine.check_encoder(source.encoder, source=str(source.location))
        self._source = source
        self.rows, self.shard_rows, self.options = source.rows, shard_rows, {"shard_rows": shard_rows}
        self.inputs = {"features": source.digest, "encoder": source.encoder}

    def shards(self, line: Line, done: Mapping[int, Mark], part: JobPart) -> Iterator[VectorShard]:
        """Vectors of all shards but those that are done or another part's, in stages of a line."""
        return self._read(line, lambda number: number not in done and part.has(number))

    def tasks(self, done: Mapping[int, Mark], part: JobPart) -> Iterator[int]:
        """The same shards as something small, which `vectors` of an equal source in any process makes vectors of."""
        shards = range(-(-self._source.rows // self.shard_rows))
        return (number for number in shards if number not in done and part.has(number))

    def vectors(self, task: int, line: Line) -> Iterator[VectorShard]:
        """Vectors of the one shard of a task, in stages of a line."""
        return self._read(line, lambda number: number == task)

    def _read(self, line: Line, wanted: Callable[[int], bool]) -> Iterator[VectorShard]:
        def shards() -> Iterator[VectorShard]:
            for number, batch in self._source.cut(self.shard_rows, wanted):
                line.failed += len(batch) - int(batch.ok.sum())
                yield VectorShard(number, number * self.shard_rows, batch)

        return line.stage("read", shards())
