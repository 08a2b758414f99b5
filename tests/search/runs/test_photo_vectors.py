"""Vectors made on the way: the same in one line of stages and task by task, by the bundle's own encoder alone."""

from pathlib import Path

import numpy as np
import pytest

from encoder.config import EncoderOptions, FeedOptions
from encoder.encode import open_encoder
from indexer.bundles.registry import Registry
from indexer.errors import BundleMismatch
from indexer.jobs.stages import Line
from indexer.photos.shard_cut import WHOLE
from indexer.photos.sources import open_photos
from search.answers.engine import Engine
from search.runs.photo_vectors import PhotoVectors


def test_shards_and_tasks_give_the_same_vectors(world: Path, registry: Registry) -> None:
    photos = open_photos(str(world / "photos.csv"))
    encode = open_encoder(str(world / "C"), EncoderOptions(precision="float32"))
    feed = FeedOptions(batch_size=2, workers=0)
    source = PhotoVectors(Engine.open(world / "R"), photos, encode, feed=feed, shard_rows=2)
    assert (source.rows, source.shard_rows) == (5, 2)
    with Line() as line:
        whole = list(source.shards(line, {}, WHOLE))
    assert [(shard.number, len(shard)) for shard in whole] == [(0, 2), (1, 2), (2, 1)]
    assert line.failed == 1
    for task, expected in zip(source.tasks({}, WHOLE), whole, strict=True):
        with Line() as line:
            (shard,) = source.vectors(task, line)
        assert shard.number == expected.number
        assert list(shard.batch.photo) == list(expected.batch.photo)
        np.testing.assert_array_equal(shard.batch.embedding, expected.batch.embedding)
    with pytest.raises(BundleMismatch):
        PhotoVectors(Engine.open(registry.path), photos, encode, feed=feed, shard_rows=2)
