"""Weights of published models, opened by transformers, which knows the names that layers had in older releases.

What is missing, left over or of another shape is told to the caller, who knows what a model can do without.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

_Model = TypeVar("_Model", bound=PreTrainedModel)


@dataclass(frozen=True, slots=True)
class Misfits:
    """Names of weights, sorted, as the model has them; their numbers differ from what its configuration wants."""

    missing: list[str]  # the model has drawn them at random
    left_over: list[str]
    changed: list[str]  # of another shape, drawn at random too


def open_weights(model_class: type[_Model], config: PreTrainedConfig, weights_file: Path) -> tuple[_Model, Misfits]:
    """A model in eval mode and in float32, nothing of it to be learned, and how its weights do not fit.

    Torch's random state is left as it was. Raises what transformers raises of values that make no model.
    """
    with _quiet(), torch.random.fork_rng(devices=[]):
        model, found = model_class.from_pretrained(
            None,
            config=config,
            state_dict=load_file(weights_file),
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # they are told of
            output_loading_info=True,
        )
    # Of a mismatch transformers tells the name, or the name and both shapes.
    names = [key if isinstance(key, str) else key[0] for key in found["mismatched_keys"]]
    misfits = Misfits(sorted(found["missing_keys"]), sorted(found["unexpected_keys"]), sorted(names))
    return model.eval().requires_grad_(False), misfits


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bar and report: what is wrong becomes an error, and the rest is no news."""
    verbosity, bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bar:
            transformers_logging.enable_progress_bar()
