"""Vectors made on the way from photos, as a run takes them."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from encoder.config import FeedOptions
from encoder.embedding import embed_photos, facts_of, features_job, settled
from encoder.encode import PhotoEncoder
from indexer.jobs.job_folder import Job, Mark
from indexer.jobs.stages import Line
from indexer.photos.photo import Photo
from indexer.photos.shard_cut import JobPart, ShardCut
from indexer.photos.sources import PhotoSource
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
        feed = settled(feed, encode, job)
        self._cut = partial(ShardCut, photos, shard_rows=shard_rows)
        self._embed = partial(embed_photos, encode, feed=feed, shard_rows=shard_rows, few_here=job is None)
        self.rows, self.shard_rows = photos.n_photos, shard_rows
        made = features_job(encode, photos, feed=feed, shard_rows=shard_rows)
        self.features: Job | None = made
        self.inputs, self.options = made.inputs, made.options
        self.facts: Mapping[str, Any] = facts_of(encode.encoder)

    def shards(self, line: Line, done: Mapping[int, Mark], part: JobPart) -> Iterator[VectorShard]:
        """Photos are decoded ahead, over the ends of shards."""
        cut = self._cut(done=done, part=part)
        numbered = ((cut.next_number(), batch) for batch in self._embed(cut, line=line))
        return (VectorShard(number, number * self.shard_rows, batch) for number, batch in numbered)

    def tasks(self, done: Mapping[int, Mark], part: JobPart) -> Iterator[tuple[int, list[Photo]]]:
        """The number of each shard, and where its photos lie."""
        return self._cut(done=done, part=part).lists()

    def vectors(self, task: tuple[int, list[Photo]], line: Line) -> Iterator[VectorShard]:
        """The photos of a task, embedded."""
        number, photos = task
        return (VectorShard(number, number * self.shard_rows, batch) for batch in self._embed(photos, line=line))


VectorSource = StoredVectors | PhotoVectors  # what a run answers
