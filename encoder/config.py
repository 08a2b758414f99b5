"""What can be chosen of preparing photos, encoding and segmenting, and limits. Nothing heavy here: imports wait.

Fields of options become flags of commands.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from indexer.choices import check_choices
from indexer.errors import InputError
from indexer.photos.photo import PILLOW_MAX_PIXELS
from indexer.photos.uris import SCHEMES

# CLIP's own statistics (Radford et al. 2021; transformers.image_utils.OPENAI_CLIP_MEAN and _STD).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

MAX_PIXELS = 178_000_000  # a little less than what Pillow itself refuses
# Photos of more, after JPEGs were decoded at a fraction of their size, are resized where they are decoded: what waits
# for the model, and what the model's device is sent, stays bounded.
MAX_SENT_PIXELS = 2 << 20
MAX_ASPECT = 32  # photos longer than this times their width are refused: strips of which no square shows anything

MAP_EDGE = 384  # pixels of a class map's shorter edge: what ten crops of 336 need
SHARD_ROWS = 8192  # photos in one Parquet file
SHARD_MAPS = 1024  # class maps in one tar
SEGMENT_BATCH = 4  # photos in one forward pass of a segmenter, which takes a few GB of a GPU's memory
DECODERS = 2  # threads or processes that decode photos
PICKLED_WEIGHTS = "pytorch_model.bin"  # as transformers wrote them before safetensors

MAX_CLASSES = 255  # of class maps, numbered from 0: encoder.class_maps.class_map says what 255 itself stands for

CropName = Literal["one", "five", "ten"]
DeviceName = Literal["auto", "cpu", "cuda"]
MapFolders = str | Path | tuple[str | Path, ...]  # folders of class maps, or folders that hold these
PrecisionName = Literal["auto", "float32", "bfloat16"]
FilterName = Literal["bicubic", "bilinear"]  # both antialiased, as Pillow's are
FusionKind = Literal["steer", "gather", "concatenate"]  # encoder.models.fusion says what each one is


def check_bounds(given: object, *names: str, low: float, high: float = math.inf, section: str | None = None) -> None:
    """Raise InputError where one of these options is out of bounds; None and words, which are no numbers, are in.

    section: of a configuration file that the options stand in; None names them as fields.
    """
    for name in names:
        value = getattr(given, name)
        if value is not None and not isinstance(value, str):
            check_number(f"{section}.{name}" if section else f"`{name}`", value, low=low, high=high)


def check_number(name: str, value: float, *, low: float, high: float = math.inf) -> None:
    """Raise InputError where a number is not finite or out of bounds."""
    if not (low <= value <= high and math.isfinite(value)):  # written so that NaN is refused too
        bound = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise InputError(f"{name} must be {bound}, not {value:g}.")


@dataclass(frozen=True, slots=True)
class Resizing:
    """How a photo is resized before it is cut."""

    edge: int  # length of the shorter edge afterwards, in pixels
    squash: bool = False  # the longer edge becomes as long: a square, whatever the photo's shape
    filter: FilterName = "bicubic"

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a photo afterwards.

        The longer edge is cut down to whole pixels, as transformers and torchvision do.
        """
        if self.squash:
            return self.edge, self.edge
        short = min(height, width)
        return int(self.edge * height / short), int(self.edge * width / short)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How pixels become model input; part of the encoder, and of its digest."""

    resize: int = 336  # length of the shorter edge after resizing, in pixels
    crop: int = 336  # edge of the square centre crop, in pixels; at most `resize`
    mean: tuple[float, float, float] = CLIP_MEAN  # per channel, of values from 0 to 1
    std: tuple[float, float, float] = CLIP_STD
    squash: bool = False  # both edges are resized to `resize`, whatever the photo's shape
    filter: FilterName = "bicubic"

    def __post_init__(self) -> None:
        check_choices(self)
        if not 0 < self.crop <= self.resize:
            raise InputError(f"Preprocessing: crop ({self.crop}) must be from 1 to resize ({self.resize}) pixels.")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise InputError(
                f"Preprocessing: three means and three stds above 0 are needed, not {self.mean}, {self.std}."
            )

    def shorter_edge(self, crops: CropName) -> int:
        """Length of a photo's shorter edge before it is cut, in pixels.

        Several crops come from an image 8/7 of their size: 384 for 336, as in GeoDecoder's protocol (256 for 224).
        """
        return self.resize if crops == "one" else round(self.crop * 8 / 7)

    def resizing(self, crops: CropName) -> Resizing:
        """How photos are resized before they are cut.

        Where they are squashed, several crops come from the squashed photo: what they show looks as it does in the
        whole one, which is what the model knows, and together they show all of the photo.
        """
        return Resizing(self.shorter_edge(crops), self.squash, self.filter)

    def to_dict(self) -> dict[str, Any]:
        """As JSON writes it."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocessing":
        """The inverse of `to_dict`."""
        return cls(**values | {"mean": tuple(values["mean"]), "std": tuple(values["std"])})


@dataclass(frozen=True)  # no slots: jsonargparse reads defaults through `vars`
class FusionConfig:
    """Kind and sizes of the semantic fusion (paper sections III-B and IV), by default of the paper where it says them.

    It says width, latent and number of blocks. The kind is the reading that follows its text most closely, the number
    of heads is ours, that of CLIP's own attention, and an inner layer of 1024 is how we read that "remaining
    dimensionalities" match the backbone's.

    Args:
        kind: how map and photo meet. steer: the map steers where the photo's tokens look. gather: tokens of the map
            gather from the photo what they need, and all of them are read. concatenate: no attention, the map passes a
            network of its own; latent, heads and blocks say nothing.
        classes: of the class maps; 150 for ADE20K.
        width: of a segmentation token.
        latent: what keys and values are squeezed through.
        heads: of each block's attention; together they are as wide as the vision transformer.
        blocks: one upon the other. Of a single one that steers, the map decides nothing: patches of it change the
            tokens of patches, which only a further block hands on to the class token.
        mlp_size: width of a block's inner layer.
        leave_out: share of the photos whose maps are left out while it learns, drawn anew in every epoch. Above 0 it
            learns to do without, and takes photos that have no map; 0: it takes none.
        segmenter: digest of the model that made the maps learned from; None where nobody recorded it.
    """

    kind: FusionKind = "steer"  # checkpoints of before there were kinds say none: they are of this one
    classes: int = 150
    width: int = 128
    latent: int = 64
    heads: int = 16
    blocks: int = 3
    mlp_size: int = 1024
    leave_out: float = 0.0
    segmenter: str | None = None

    @property
    def needs_maps(self) -> bool:
        """Whether a photo without a class map is refused: nothing was learned of such photos."""
        return self.leave_out == 0

    def check(self, *, hidden_size: int) -> None:
        """Raise InputError where no fusion can have these sizes, in a transformer of `hidden_size`.

        Not when it is made: jsonargparse, which makes it from a command line, would show a traceback.
        """
        check_choices(self, section="fusion")
        check_bounds(self, "classes", "width", "latent", "heads", "blocks", "mlp_size", section="fusion", low=1)
        check_bounds(self, "leave_out", section="fusion", low=0, high=0.99)  # of 1 it would learn nothing of maps
        if self.classes > MAX_CLASSES:
            raise InputError(f"fusion.classes must be at most {MAX_CLASSES} (maps are 8-bit), not {self.classes}.")
        if self.kind != "concatenate" and hidden_size % self.heads:
            raise InputError(f"fusion.heads: {self.heads} heads cannot share {hidden_size} dimensions evenly.")


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """Which maps an encoder sees, and where it runs.

    Args:
        segmentation_cache: class maps made by `python -m encoder segment`, for an encoder with semantic fusion: their
            folder, several of one segmenter, or a folder in which these lie. Maps that come with the photos go before
            them, and are taken as made by the same model.
        segmenter: folder or hub id of the model that makes the maps the cache lacks.
        device: where models run, and a search; cuda where there is none is an error.
        precision: of the encoder; bfloat16 where the processor has it, by default.
    """

    segmentation_cache: MapFolders | None = None
    segmenter: str | None = None
    device: DeviceName = "auto"
    precision: PrecisionName = "auto"

    def __post_init__(self) -> None:
        check_choices(self)

    @property
    def says_how_maps_come(self) -> bool:
        """Whether any of the options on class maps was given."""
        return self.segmentation_cache is not None or self.segmenter is not None


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Which photos are read. Like all that extend it, it raises InputError for values that make no sense.

    Args:
        max_pixels: photos with more pixels are refused.
        schemes: of the URIs that photos may be read from.
    """

    max_pixels: int = MAX_PIXELS
    schemes: tuple[str, ...] = SCHEMES

    def __post_init__(self) -> None:
        check_choices(self)
        if not 1 <= self.max_pixels <= PILLOW_MAX_PIXELS:
            raise InputError(
                f"`max_pixels` must be from 1 to {PILLOW_MAX_PIXELS:,}, which is Pillow's own, not {self.max_pixels:,}."
            )


@dataclass(frozen=True, kw_only=True)
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
        check_bounds(self, "batch_size", low=1)
        check_bounds(self, "workers", low=0)


@dataclass(frozen=True, kw_only=True)
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
        FeedOptions.__post_init__(self)
        check_bounds(self, "shard_rows", low=1)


@dataclass(frozen=True, kw_only=True)
class SegmentConfig(ReadOptions):
    """How photos become class maps.

    Args:
        split: use only rows whose column `split` is this.
        device: where the model runs; cuda where there is none is an error.
        batch_size: photos in one forward pass, at most: all of them have one shape.
        workers: decoding threads.
        map_edge: shorter edge of a map in pixels; less where the photo is smaller.
        shard_maps: maps in one tar.
        part: 2/8 segments every eighth photo, from the second on, into an `out` of its own: for several GPUs.
    """

    split: str | None = None
    device: DeviceName = "auto"
    batch_size: int = SEGMENT_BATCH
    workers: int = DECODERS
    map_edge: int = MAP_EDGE
    shard_maps: int = SHARD_MAPS
    part: str = "1/1"

    def __post_init__(self) -> None:
        from indexer.photos.shard_cut import JobPart

        super().__post_init__()
        check_bounds(self, "batch_size", "workers", "map_edge", "shard_maps", low=1)
        JobPart.parse(self.part)
