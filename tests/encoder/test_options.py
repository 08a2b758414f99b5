"""Options of commands and of Python: numbers that make no sense, and who is asked for class maps."""

from dataclasses import fields
from pathlib import Path

import pytest

from encoder.options import EmbedConfig, EncoderOptions, FeedOptions, ReadOptions, SegmentConfig
from indexer.errors import InputError


@pytest.mark.parametrize(
    ("options", "name", "value"),
    [
        (FeedOptions, "batch_size", 0),
        (FeedOptions, "workers", -1),
        (ReadOptions, "max_pixels", 0),
        (EmbedConfig, "max_pixels", 178_956_971),
        (EmbedConfig, "batch_size", 0),
        (EmbedConfig, "workers", -1),
        (EmbedConfig, "shard_rows", 0),
        (SegmentConfig, "max_pixels", 0),
        *((SegmentConfig, name, 0) for name in ("batch_size", "workers", "map_edge", "shard_maps")),
    ],
)
def test_numbers_that_make_no_sense_are_refused_by_name(options: type[ReadOptions], name: str, value: int) -> None:
    with pytest.raises(InputError, match=f"`{name}` must be .*not {value:,}"):
        options(**{name: value})


def test_what_embeds_has_the_options_of_who_encodes_and_of_who_feeds() -> None:
    names = {each.name for options in (EncoderOptions, FeedOptions) for each in fields(options)}
    assert {each.name for each in fields(EmbedConfig)} == names | {"split", "crops", "shard_rows"}


def test_any_word_on_maps_is_noticed() -> None:
    assert not EncoderOptions().says_how_maps_come
    assert EncoderOptions(segmentation_cache=Path("S")).says_how_maps_come
    assert EncoderOptions(segmenter="M").says_how_maps_come
