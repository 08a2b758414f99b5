"""What users choose of encoding and segmenting; the fields become flags of commands. Nothing heavy: imports wait."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from encoder.config import (
    DECODERS,
    MAP_EDGE,
    MAX_PIXELS,
    PILLOW_MAX_PIXELS,
    SEGMENT_BATCH,
    SHARD_MAPS,
    SHARD_ROWS,
    CropName,
    DeviceName,
    PrecisionName,
)
from indexer.errors import InputError
from indexer.photos.uris import SCHEMES

if TYPE_CHECKING:
    from encoder.encode import PhotoEncoder


@dataclass(frozen=True)
class EncoderOptions:
    """Which maps an encoder sees, and where it runs.

    Args:
        segmentation_cache: class maps made by `python -m encoder segment`, for an encoder with semantic fusion. Maps
            that come with the photos go before them, and are taken as made by the same model.
        segmenter: folder or hub id of the model that makes the maps the cache lacks.
        device: where models run, and a search; cuda where there is none is an error.
        precision: of the encoder; bfloat16 where the processor has it, by default.
    """

    segmentation_cache: Path | None = None
    segmenter: str | None = None
    device: DeviceName = "auto"
    precision: PrecisionName = "auto"

    @property
    def says_how_maps_come(self) -> bool:
        """Whether any of the options on class maps was given."""
        return self.segmentation_cache is not None or self.segmenter is not None

    def open(self, checkpoint: str, *, crops: CropName = "one") -> "PhotoEncoder":
        """The encoder of a checkpoint folder, or of `hf:<hub id or folder>`.

        Raises:
            InputError: a model cannot be had, there is no such device, or maps and encoder do not go together.
            ArtifactError: a checkpoint or a cache that is none, or damaged.
        """
        from encoder.checkpoint import load_encoder
        from encoder.device import choose_device, choose_precision
        from encoder.encode import MapSource, PhotoEncoder
        from encoder.segmentation import load_segmenter
        from encoder.segmentation_cache import open_cache

        device = choose_device(self.device)
        encoder = load_encoder(checkpoint, device=device, dtype=choose_precision(self.precision, device))
        maps = MapSource(
            None if self.segmentation_cache is None else open_cache(self.segmentation_cache),
            None if self.segmenter is None else load_segmenter(self.segmenter, device=device),
        )
        return PhotoEncoder(encoder, crops=crops, maps=maps)


@dataclass(frozen=True)
class ReadOptions:
    """Which photos are read. Like all that extend it, it raises InputError for numbers that make no sense.

    Args:
        max_pixels: photos with more pixels are refused.
        schemes: of the URIs that photos may be read from.
    """

    max_pixels: int = MAX_PIXELS
    schemes: tuple[str, ...] = SCHEMES

    def __post_init__(self) -> None:
        if not 1 <= self.max_pixels <= PILLOW_MAX_PIXELS:
            raise InputError(
                f"`max_pixels` must be from 1 to {PILLOW_MAX_PIXELS:,}, which is Pillow's own, not {self.max_pixels:,}."
            )

    def _check_at_least(self, least: int, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value != "auto" and value < least:
                raise InputError(f"`{name}` must be at least {least}, not {value}.")


@dataclass(frozen=True)
class FeedOptions(ReadOptions):
    """How photos reach an encoder. None of this changes what vectors mean.

    Args:
        batch_size: crops in one forward pass; auto: as many as help and fit into memory. The crops of a photo go
            through together, so that with ten crops less than 10 is as 10.
        workers: decoding processes; 0: none but this one.
    """

    batch_size: int | Literal["auto"] = "auto"
    workers: int = DECODERS

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_at_least(1, "batch_size")
        self._check_at_least(0, "workers")


@dataclass(frozen=True)
class EmbedConfig(EncoderOptions, FeedOptions):
    """How photos become vectors.

    Args:
        split: use only rows whose column `split` is this.
        crops: of each photo, averaged: the middle; that and four corners; those and their mirror images.
        shard_rows: photos in one Parquet file.
    """

    split: str | None = None
    crops: CropName = "one"
    shard_rows: int = SHARD_ROWS

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_at_least(1, "shard_rows")


@dataclass(frozen=True)
class SegmentConfig(ReadOptions):
    """How photos become class maps.

    Args:
        split: use only rows whose column `split` is this.
        device: where the model runs; cuda where there is none is an error.
        batch_size: photos in one forward pass, at most: all of them have one shape.
        workers: decoding threads.
        map_edge: shorter edge of a map in pixels; less where the photo is smaller.
        shard_maps: maps in one tar.
    """

    split: str | None = None
    device: DeviceName = "auto"
    batch_size: int = SEGMENT_BATCH
    workers: int = DECODERS
    map_edge: int = MAP_EDGE
    shard_maps: int = SHARD_MAPS

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_at_least(1, "batch_size", "workers", "map_edge", "shard_maps")
