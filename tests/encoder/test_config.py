"""What an encoder's settings may be, and how JSON holds them."""

import json
from typing import Any

import pytest

from encoder.config import FusionConfig, Preprocessing
from indexer.errors import InputError


def test_preprocessing_survives_json() -> None:
    settings = Preprocessing(40, 32, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert Preprocessing.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_several_crops_come_from_a_larger_picture() -> None:
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
