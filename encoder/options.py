"""Options that commands with an encoder share, and what becomes of them. Nothing heavy here: imports wait for use."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from encoder.config import DECODERS, MAX_PIXELS, SHARD_ROWS, CropName, DeviceName, PrecisionName
from indexer.photos.uris import SCHEMES

if TYPE_CHECKING:
    from encoder.embedding import EmbedConfig
    from encoder.encode import PhotoEncoder
    from encoder.reading import ReadLimits


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

    def open(self, checkpoint: str, *, crops: CropName) -> "PhotoEncoder":
        """The encoder of a checkpoint folder, or of `hf:<hub id or folder>`; raises what `PhotoEncoder.open` does."""
        from encoder.encode import PhotoEncoder

        return PhotoEncoder.open(
            checkpoint,
            crops=crops,
            segmentation_cache=self.segmentation_cache,
            segmenter=self.segmenter,
            device=self.device,
            precision=self.precision,
        )


@dataclass(frozen=True)
class ReadOptions:
    """Which photos are read.

    Args:
        max_pixels: photos with more pixels are refused.
        schemes: of the URIs that photos may be read from.
    """

    max_pixels: int = MAX_PIXELS
    schemes: tuple[str, ...] = SCHEMES

    @property
    def limits(self) -> "ReadLimits":
        """The same for who reads."""
        from encoder.reading import ReadLimits

        return ReadLimits(schemes=self.schemes)


@dataclass(frozen=True)
class FeedOptions(ReadOptions):
    """How photos reach an encoder.

    Args:
        batch_size: crops in one forward pass; auto: as many as help and fit into memory. The crops of a photo go
            through together, so that with ten crops less than 10 is as 10.
        workers: decoding processes; 0: none but this one.
    """

    batch_size: int | Literal["auto"] = "auto"
    workers: int = DECODERS

    def embedding(self, *, shard_rows: int = SHARD_ROWS) -> "EmbedConfig":
        """The same for who embeds; raises InputError for numbers that make no sense."""
        from encoder.embedding import EmbedConfig

        size = None if self.batch_size == "auto" else self.batch_size
        return EmbedConfig(
            batch_size=size,
            workers=self.workers,
            shard_rows=shard_rows,
            max_pixels=self.max_pixels,
            limits=self.limits,
        )
