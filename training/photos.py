"""The photos of a run, as its configuration wants them: in memory, or as a stream; divided by a split or by name."""

from typing import Literal

import torch

from encoder.encode import reader_of
from encoder.model import GeoEncoder
from encoder.segmentation_cache import SegmentationCache
from indexer.cells.hierarchy import Hierarchy
from indexer.errors import InputError
from indexer.photos.sources import PhotoSource, open_photos
from training.batches import Photos
from training.config import DataConfig
from training.data import load_photos
from training.holding_out import Choice, by_name
from training.photo_stream import PhotoStream, StreamOptions

Which = Literal["train", "validation"]


def source_of(config: DataConfig, part: Which) -> tuple[PhotoSource, Choice | None]:
    """Where a part of a run's photos are, and which of their names are wanted; None wants all."""
    split, chosen = _asked(config, part)
    return open_photos(config.photos, split=split, coordinates=True), chosen


def open_part(
    config: DataConfig,
    part: Which,
    *,
    hierarchy: Hierarchy,
    encoder: GeoEncoder,
    cache: SegmentationCache | None,
    device: torch.device,
) -> Photos:
    """Photos to learn from, all of which lie in a cell; or those to measure with, wherever they lie.

    Raises:
        InputError: the table is unusable, too large for memory, or none of its photos can be read.
    """
    learnt = part == "train"
    if not config.stream:
        split, chosen = _asked(config, part)
        return load_photos(
            config, split, hierarchy=hierarchy, encoder=encoder, cache=cache, chosen=chosen, needs_cell=learnt
        )
    source, chosen = source_of(config, part)
    photos = PhotoStream(
        source,
        hierarchy,
        reader_of(encoder, crops="one", cache=cache),
        encoder.preprocessing,
        chosen=chosen,
        needs_cell=learnt,
        options=StreamOptions(config.workers, config.shuffle_photos, config.shuffle_mb << 20, device),
    )
    if not learnt and not photos.has_any():
        advice = "" if config.validation_share is None else " Raise data.validation_share."
        raise InputError(f"{source.location}: there is no photo to validate with.{advice}")
    return photos


def _asked(config: DataConfig, part: Which) -> tuple[str | None, Choice | None]:
    """The split of a part, or where photos are divided by name the choice of names."""
    if config.validation_share is not None:
        return None, by_name(config.validation_share)[0 if part == "train" else 1]
    return config.train_split if part == "train" else config.validation_split, None
