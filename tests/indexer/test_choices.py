"""Misspelt words are refused when a config is made, with the field, the choices and the nearest one."""

import re
from collections.abc import Callable

import numpy as np
import pytest

from encoder.config import EmbedConfig, EncoderOptions, FeedOptions, SegmentConfig
from encoder.models.device import choose_device
from indexer.bundles.build_config import BuildConfig
from indexer.choices import check_choice, check_choices
from indexer.errors import InputError
from search.answers.options import SearchOptions
from search.evaluation.options import CalibrateConfig
from search.runs.run_spec import RunConfig, RunSpec
from training.config import LossConfig, ModelConfig, RefitConfig, SchedulerConfig, TrainerConfig

WRONG: list[tuple[Callable[..., object], str, str, str]] = [
    (SearchOptions, "mode", "adaptve", "auto or exact or beam or adaptive"),
    (SearchOptions, "score", "cosine", "softmax or cosine-clamped or cosine-affine"),
    (SearchOptions, "point", "foo", "density or cell or medoid or mass"),
    (BuildConfig, "transform", "foo", "whiten or none"),
    (BuildConfig, "index", "foo", "auto or flat or ivf"),
    (BuildConfig, "precision", "fp8", "fp32 or fp16 or int8"),
    (RunConfig, "engine", "foo", "local or ray"),
    (EncoderOptions, "device", "gpu", "auto or cpu or cuda"),
    (EncoderOptions, "precision", "foo", "auto or float32 or bfloat16"),
    (FeedOptions, "batch_size", "foo", "a number or auto"),
    (EmbedConfig, "crops", "six", "one or five or ten"),
    (EmbedConfig, "device", "foo", "auto or cpu or cuda"),
    (SegmentConfig, "device", "foo", "auto or cpu or cuda"),
    (CalibrateConfig, "crops", "foo", "one or five or ten"),
    (RefitConfig, "levels_weights", "foo", "ones or fit"),
    (LossConfig, "negatives", "foo", "batch or batch_distinct or all"),
    (ModelConfig, "trainable_blocks", "foo", "a number or all"),
    (SchedulerConfig, "name", "foo", "one_cycle or halving"),
    (TrainerConfig, "precision", "foo", "32-true or bf16-mixed"),
]
SECTIONS = {
    "LossConfig": "loss.",
    "ModelConfig": "model.",
    "SchedulerConfig": "lr_scheduler.",
    "TrainerConfig": "trainer.",
}


@pytest.mark.parametrize(("config", "name", "word", "choices"), WRONG, ids=lambda each: getattr(each, "__name__", each))
def test_every_config_refuses_a_word_that_is_no_choice(
    config: Callable[..., object], name: str, word: str, choices: str
) -> None:
    field = f"{SECTIONS.get(config.__name__, '')}{name}"
    with pytest.raises(InputError, match=re.escape(f"`{field}` must be {choices}, not '{word}'.")):
        config(**{name: word})


def test_other_doors_refuse_them_too() -> None:
    with pytest.raises(InputError, match="`crops` must be one or five or ten"):
        RunSpec(registry="R", photos="P", checkpoint="C", crops="foo")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="`device` must be auto or cpu or cuda, not 'foo'"):
        choose_device("foo")  # type: ignore[arg-type]


def test_the_nearest_choice_is_named_where_one_is_near() -> None:
    with pytest.raises(InputError, match=r"not 'adaptve'\. Did you mean adaptive\?$"):
        SearchOptions(mode="adaptve")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"not 'xyz'\.$"):
        SearchOptions(mode="xyz")  # type: ignore[arg-type]


def test_numbers_and_none_pass_where_the_type_has_them() -> None:
    assert FeedOptions(batch_size=np.int64(8)).batch_size == 8  # type: ignore[arg-type]
    check_choices(CalibrateConfig())
    check_choices(ModelConfig())
    with pytest.raises(InputError, match=r"`mode` must be .*, not None"):
        SearchOptions(mode=None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"`mode` must be .*, not 3"):
        SearchOptions(mode=3)  # type: ignore[arg-type]
    check_choice("split", "any word", str | None)
