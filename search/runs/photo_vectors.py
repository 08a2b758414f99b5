"""Vectors made on the way from photos, as a run takes them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from encoder.config import FeedOptions
from encoder.embedding import embed_photos, facts_of, features_job, settled
from encoder.encode import PhotoEncoder
from indexer.jobs.job_folder import Job, Mark
from indexer.jobs.stages import Line
from indexer.photos.photo import Photo
from indexer.photos.shard_cut import JobPart, ShardCut
from indexer.photos.sources import PhotoSource
from indexer.vectors.features import FeatureBatch
from search.answers.engine import Engine
from search.runs.vectors import StoredVectors, VectorShard


class PhotoVectors:
    """The same as `StoredVectors`, made on the way. InputError where the photos cannot have the class maps it needs.

    job: what was begun at the same place before, and did not end.
    """

    def __init__(
        self,
        engine: Engine,
        photos: PhotoSource,
        encode: PhotoEncoder,
        *,
        feed: FeedOptions,
        shard_rows: int,
        job: Job | None = None,
    ) -> None:
        engine.check_encoder(encode.encoder.digest, source=encode.encoder.name)
        encode.check_source(photos)
        self._photos, self._encode, self._few_here = photos, encode, job is None
        self._feed = settled(feed, encode, job)
        self.rows = photos.n_photos
        self.shard_rows = shard_rows
        made = features_job(encode, photos, feed=self._feed, shard_rows=shard_rows)
        self.features: Job | None = made
        self.inputs, self.options = made.inputs, made.options
        self.facts: Mapping[str, Any] = facts_of(encode.encoder)

    def shards(self, line: Line, done: Mapping[int, Mark], part: JobPart) -> Iterator[VectorShard]:
        """Photos are decoded ahead, over the ends of shards."""
        cut = self._cut(done, part)
        numbered = ((cut.next_number(), batch) for batch in self._embedded(cut, line))
        return (VectorShard(number, number * self.shard_rows, batch) for number, batch in numbered)

    def tasks(self, done: Mapping[int, Mark], part: JobPart) -> Iterator[tuple[int, list[Photo]]]:
        """The number of each shard, and where its photos lie."""
        return self._cut(done, part).lists()

    def vectors(self, task: tuple[int, list[Photo]], line: Line) -> Iterator[VectorShard]:
        """The photos of a task, embedded."""
        number, photos = task
        return (VectorShard(number, number * self.shard_rows, batch) for batch in self._embedded(photos, line))

    def _embedded(self, photos: Iterable[Photo], line: Line) -> Iterator[FeatureBatch]:
        few_here, rows = self._few_here, self.shard_rows
        return embed_photos(self._encode, photos, feed=self._feed, shard_rows=rows, line=line, few_here=few_here)

    def _cut(self, done: Mapping[int, Mark], part: JobPart) -> ShardCut:
        return ShardCut(self._photos, shard_rows=self.shard_rows, done=done, part=part)


VectorSource = StoredVectors | PhotoVectors  # what a run answers
