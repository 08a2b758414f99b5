"""Vectors that were made before, shard by shard: of the bundle's encoder, and as many as were cut."""

from pathlib import Path

import pytest

from indexer.errors import BundleMismatch
from indexer.jobs.stages import Line
from indexer.photos.shard_cut import WHOLE
from indexer.vectors.features import open_features
from search.answers.engine import Engine
from search.runs.vectors import StoredVectors
from tests.search.conftest import features


def test_rows_that_have_no_vector_are_counted_as_failed(engine: Engine, tmp_path: Path) -> None:
    stored = StoredVectors(engine, open_features(features(tmp_path / "F", [10, 1, 7], bad={3, 10})), shard_rows=7)
    with Line() as line:
        assert sum(map(len, stored.shards(line, {}, WHOLE))) == 18
    assert line.failed == 2


def test_features_of_another_encoder_are_refused(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(BundleMismatch):
        StoredVectors(engine, open_features(features(tmp_path / "F", [4], encoder="f" * 64)))


def test_features_of_an_unknown_encoder_are_taken_with_a_warning(
    engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = StoredVectors(engine, open_features(features(tmp_path / "F", [4], encoder=None)))
    assert source.inputs["encoder"] is None
    assert "nobody recorded which encoder" in caplog.text
