"""What a run is made from, as names: small, so that other processes and machines can open the same."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

from encoder.config import SHARD_ROWS, CropName
from encoder.options import EncoderOptions, FeedOptions
from indexer.bundles.registry import Registry
from indexer.jobs.job_folder import Job, read_job
from indexer.photos.sources import open_photos
from indexer.vectors.calibration import protocol_of
from indexer.vectors.features import open_features
from search.answers.engine import Engine
from search.answers.options import SearchOptions
from search.runs.vectors import StoredVectors, VectorSource

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Where engine and vectors come from; small, so that other processes and machines can open the same."""

    registry: Path
    version: str | None
    search: SearchOptions
    encoder: EncoderOptions
    features: Path | None = None
    photos: str | None = None
    checkpoint: str | None = None
    split: str | None = None
    crops: CropName = "one"
    feed: FeedOptions = field(default_factory=FeedOptions)
    shard_rows: int = SHARD_ROWS
    in_albums: bool = False

    def open(self, out: Path) -> tuple[Engine, VectorSource]:
        """Open both, for the job at `out`, which keeps the bundle and the batch size it began with.

        Raises:
            InputError: something cannot be had, or the parts do not go together.
        """
        features = None if self.features is None else open_features(self.features)
        job = read_job(out)
        begun = bundle_of(job)
        current = Registry(self.registry).current
        if self.version is None and begun is not None and current not in (None, begun):
            log.warning(
                "%s: goes on with the bundle it began with, %s; the current one is %s",
                out,
                begun[:8],
                (current or "")[:8],
            )
        engine = Engine.open(
            self.registry,
            version=self.version or begun,
            device=self.encoder.device,
            options=self.search,
            protocol="album" if self.in_albums else self.crops if features is None else protocol_of(features),
        )
        if features is not None:
            return engine, StoredVectors(engine, features, shard_rows=self.shard_rows)
        assert self.photos is not None
        assert self.checkpoint is not None
        from search.runs.photo_vectors import (
            PhotoVectors,  # torch is only imported where it is needed: that takes seconds
        )

        photos = open_photos(self.photos, split=self.split, schemes=self.feed.schemes)
        encode = self.encoder.open(self.checkpoint, crops=self.crops)
        return engine, PhotoVectors(engine, photos, encode, feed=self.feed, shard_rows=self.shard_rows, job=job)


def bundle_of(job: Job | None) -> str | None:
    """The version of the bundle that a job began with; None where none was begun."""
    return None if job is None else job.inputs.get("bundle")
