"""Options of commands with an encoder: what becomes of them, and numbers that make no sense."""

from pathlib import Path

import pytest

from encoder.options import EncoderOptions, FeedOptions, ReadOptions
from indexer.errors import InputError
from indexer.photos.uris import SCHEMES


def test_defaults_are_those_of_who_reads_and_embeds() -> None:
    config = FeedOptions().embedding(shard_rows=7)
    assert (config.batch_size, config.workers, config.shard_rows) == (None, 2, 7)
    assert config.limits == ReadOptions().limits
    assert tuple(config.limits.schemes) == SCHEMES


def test_what_is_given_reaches_them() -> None:
    config = FeedOptions(max_pixels=99, schemes=("file",), batch_size=3, workers=0).embedding()
    assert (config.batch_size, config.workers, config.max_pixels) == (3, 0, 99)
    assert tuple(config.limits.schemes) == ("file",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (FeedOptions(batch_size=0), "--batch-size must be at least 1"),
        (FeedOptions(workers=-1), "--workers must be at least 0"),
        (FeedOptions(max_pixels=0), "pixels"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(options: FeedOptions, message: str) -> None:
    with pytest.raises(InputError, match=message):
        options.embedding()


def test_any_word_on_maps_is_noticed() -> None:
    assert not EncoderOptions().says_how_maps_come
    assert EncoderOptions(segmentation_cache=Path("S")).says_how_maps_come
    assert EncoderOptions(segmenter="M").says_how_maps_come
