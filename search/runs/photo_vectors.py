"""Vectors made on the way from photos, as a run takes them."""

from collections.abc import Iterator, Mapping
from typing import Any

from encoder.embedding import EmbedConfig, embed_photos, facts_of, features_job
from encoder.encode import PhotoEncoder
from indexer.jobs.job_folder import Job, Mark
from indexer.jobs.stages import Line
from indexer.photos.shard_cut import JobPart, ShardCut
from indexer.photos.sources import Photo, PhotoSource
from search.answers.engine import Engine
from search.runs.vectors import VectorShard


class PhotoVectors:
    """Vectors made on the way from photos.

    Raises:
        BundleMismatch: this is not the encoder the bundle was built for.
        InputError: the photos cannot have the class maps it needs.
    """

    def __init__(self, engine: Engine, photos: PhotoSource, encode: PhotoEncoder, *, config: EmbedConfig) -> None:
        engine.check_encoder(encode.encoder.digest, source=encode.encoder.name)
        encode.check_source(photos)
        self._photos, self._encode, self._config = photos, encode, config
        self.rows = photos.n_photos
        self.shard_rows = config.shard_rows
        job = features_job(encode, photos, config)
        self.features: Job | None = job
        self.inputs, self.options = job.inputs, job.options

    def shards(self, line: Line, done: Mapping[int, Mark], part: JobPart) -> Iterator[VectorShard]:
        """Photos are decoded ahead, over the ends of shards."""
        cut = self._cut(done, part)
        batches = embed_photos(self._encode, cut, config=self._config, line=line)
        return (VectorShard(cut.next_number(), batch) for batch in batches)

    def tasks(self, done: Mapping[int, Mark], part: JobPart) -> Iterator[tuple[int, list[Photo]]]:
        """The number of each shard, and where its photos lie."""
        return self._cut(done, part).lists()

    def vectors(self, task: tuple[int, list[Photo]], line: Line) -> Iterator[VectorShard]:
        """The photos of a task, embedded."""
        number, photos = task
        batches = embed_photos(self._encode, photos, config=self._config, line=line)
        return (VectorShard(number, batch) for batch in batches)

    def facts(self) -> Mapping[str, Any]:
        """Of the encoder."""
        return facts_of(self._encode.encoder)

    def _cut(self, done: Mapping[int, Mark], part: JobPart) -> ShardCut:
        return ShardCut(self._photos, shard_rows=self.shard_rows, done=done, part=part)
