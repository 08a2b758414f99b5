"""The photos of a run, as its configuration wants them: in memory, or as a stream; divided by a split or by name."""

from typing import Literal

import torch

from encoder.model import GeoEncoder
from encoder.segmentation_cache import SegmentationCache
from indexer.cells.hierarchy import Hierarchy
from indexer.errors import InputError
from indexer.photos.sources import PhotoSource, open_photos
from training.batches import Photos
from training.config import DataConfig
from training.holding_out import NameFilter, by_name
from training.photo_set import load_photos
from training.photo_stream import CPU, PhotoStream


def source_of(config: DataConfig, half: Literal["train", "validation"]) -> tuple[PhotoSource, NameFilter | None]:
    """Where the photos to learn from, or to measure with, are, and which of their names are wanted; None wants all."""
    learnt = half == "train"
    if config.validation_share is not None:
        return open_photos(config.photos, coordinates=True), by_name(config.validation_share)[0 if learnt else 1]
    split = config.train_split if learnt else config.validation_split
    return open_photos(config.photos, split=split, coordinates=True), None


def open_half(
    config: DataConfig,
    half: Literal["train", "validation"],
    *,
    hierarchy: Hierarchy,
    encoder: GeoEncoder,
    cache: SegmentationCache | None = None,
    device: torch.device = CPU,
) -> Photos:
    """Photos to learn from, all of which lie in a cell; or those to measure with, wherever they lie.

    cache: class maps of the photos that bring none of their own. device: where photos of a stream are cut.

    Raises:
        InputError: the table is unusable, too large for memory, or none of its photos can be read.
    """
    source, chosen = source_of(config, half)
    stream = PhotoStream(
        source,
        hierarchy,
        encoder=encoder,
        config=config,
        cache=cache,
        chosen=chosen,
        needs_cell=half == "train",
        device=device if config.stream else CPU,
    )
    if not stream.has_any():
        if half == "train":
            raise InputError(
                f"{source.location}: no training photo lies in a cell of the hierarchy. Was it made from other photos?"
            )
        advice = "" if config.validation_share is None else " Raise data.validation_share."
        raise InputError(f"{source.location}: there is no photo to validate with.{advice}")
    return stream if config.stream else load_photos(stream, memory_limit_gb=config.memory_limit_gb)
