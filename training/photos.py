"""The photos of a run, as its configuration wants them: in memory, or as a stream; divided by a split or by name."""

from typing import Literal

import torch

from encoder.encode import reader_of
from encoder.model import GeoEncoder
from encoder.segmentation_cache import SegmentationCache
from indexer.hierarchy import Hierarchy
from indexer.photos import open_photos
from training.batches import Photos
from training.config import DataConfig
from training.data import load_photos
from training.holding_out import by_name
from training.photo_stream import PhotoStream, StreamOptions


def open_part(
    config: DataConfig,
    part: Literal["train", "validation"],
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
    split: str | None = config.train_split if learnt else config.validation_split
    chosen = None
    if config.validation_share is not None:
        split, chosen = None, by_name(config.validation_share)[0 if learnt else 1]
    if not config.stream:
        return load_photos(
            config, split, hierarchy=hierarchy, encoder=encoder, cache=cache, chosen=chosen, needs_cell=learnt
        )
    return PhotoStream(
        open_photos(config.photos, split=split, coordinates=True),
        hierarchy,
        reader_of(encoder, crops="one", cache=cache),
        encoder.preprocessing,
        chosen=chosen,
        needs_cell=learnt,
        options=StreamOptions(config.workers, config.shuffle_photos, config.shuffle_mb << 20, device),
    )
