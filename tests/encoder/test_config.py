"""What an encoder's settings and options may be: how JSON holds them, numbers that make no sense, class maps."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from encoder.config import (
    EmbedConfig,
    EncoderOptions,
    FeedOptions,
    FusionConfig,
    Preprocessing,
    ReadOptions,
    Resizing,
    SegmentConfig,
)
from indexer.errors import InputError


def test_preprocessing_survives_json() -> None:
    for more in ({}, {"squash": True, "filter": "bilinear"}):
        settings = Preprocessing(40, 32, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), **more)
        assert Preprocessing.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_preprocessing_of_older_checkpoints_is_clips() -> None:
    older = {"resize": 40, "crop": 32, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    assert Preprocessing.from_dict(older) == Preprocessing(40, 32, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), False, "bicubic")


def test_the_longer_edge_follows_or_is_squashed() -> None:
    assert Resizing(32).shape(100, 51) == (62, 32)
    assert Resizing(32).shape(51, 100) == (32, 62)
    assert Resizing(32, squash=True).shape(51, 100) == (32, 32)
    squashing = Preprocessing(224, 224, squash=True, filter="bilinear")
    assert squashing.resizing("one") == Resizing(224, True, "bilinear")
    assert squashing.resizing("ten") == Resizing(256, True, "bilinear")


def test_several_crops_come_from_a_larger_image() -> None:
    assert [Preprocessing(size, size).shorter_edge("one") for size in (336, 224)] == [336, 224]
    assert [Preprocessing(size, size).shorter_edge("ten") for size in (336, 224)] == [384, 256]
    assert [Preprocessing(400, 336).shorter_edge(crops) for crops in ("one", "five")] == [400, 384]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"crop": 0}, r"crop \(0\) must be from 1"),
        ({"resize": 32, "crop": 33}, r"crop \(33\) must be from 1 to resize \(32\)"),
        ({"mean": (0.1, 0.2)}, "three means"),
        ({"std": (0.1, 0.2, 0.0)}, "stds above 0"),
        ({"filter": "bilinaer"}, "Did you mean bilinear"),
    ],
)
def test_preprocessing_that_cannot_be_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Preprocessing(**values)


def test_a_fusion_is_checked_against_its_transformer() -> None:
    FusionConfig().check(hidden_size=1024)
    FusionConfig(classes=255).check(hidden_size=1024)
    for values, message in (
        ({"blocks": 0}, "fusion.blocks must be at least 1, not 0"),
        ({"classes": 256}, "at most 255"),
        ({"heads": 3}, "3 heads cannot share 1024"),
    ):
        with pytest.raises(InputError, match=message):
            FusionConfig(**values).check(hidden_size=1024)


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
