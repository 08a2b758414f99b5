"""Everything that can be chosen: of a training run, a frozen dataclass for each section of the YAML file; of a refit.

Sections and keys have the names that Lightning's own command line (LightningCLI) gives them, where it has them.
Nothing heavy is imported here, so that `python -m training fit --help` answers at once, with the docstrings below. No
slots: jsonargparse reads defaults through `vars`.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, Self

from encoder.config import (
    CLIP_MEAN,
    CLIP_STD,
    CropName,
    DeviceName,
    FusionConfig,
    PrecisionName,
    check_bounds,
    check_number,
)
from indexer.bundles.build_config import GalleryConfig
from indexer.choices import check_choices
from indexer.errors import InputError

Negatives = Literal["batch", "batch_distinct", "all"]  # training.cells.losses says what each one means
HeadName = Literal["geocells", "classes"]  # training.cells.heads says what each one is


@dataclass(frozen=True)
class Augmentation:
    """How photos are changed. Each number is the largest change; 0 switches it off.

    Args:
        random_crop: in each epoch see another square of a photo whose shorter edge is 8/7 of the square's, wherever it
            lies, as the ten crops of an evaluation do; else always the middle of a smaller one.
        mirror: turn half of the photos around, left for right, as half of the ten crops are, with their class maps.
        shift: of the image's edge, either way, both directions: 0.1 moves up to a tenth.
        zoom: of the scale, in or out: 0.1 shows from 90 % to 110 %.
        rotation_deg: either way.
        brightness: of all channels together: 0.1 multiplies by 0.9 to 1.1.
        colour: added to each channel by itself, in levels of 255: 16 adds -16 to 16.
    """

    random_crop: bool = False
    mirror: bool = False
    shift: float = 0.0
    zoom: float = 0.0
    rotation_deg: float = 0.0
    brightness: float = 0.0
    colour: float = 0.0

    def __post_init__(self) -> None:
        check_bounds(self, "shift", "zoom", "brightness", section="data.augmentation", low=0, high=0.99)
        check_bounds(self, "rotation_deg", section="data.augmentation", low=0, high=180)
        check_bounds(self, "colour", section="data.augmentation", low=0, high=255)

    @property
    def draws_windows(self) -> bool:
        """Whether a photo is not always cut in the same way (`training.photos.windows`)."""
        return self.random_crop or self.mirror

    @property
    def moves_pixels(self) -> bool:
        """Whether what was cut has to be sampled again."""
        return bool(self.shift or self.zoom or self.rotation_deg)


@dataclass(frozen=True)
class DataConfig:
    """Which photos to learn from.

    Args:
        photos: table with photo, lat, lng and split; with validation_share also shards, or a table without split.
        train_split: value of the column `split` in the photos to learn from.
        validation_split: value of the column `split` in the photos to measure with after each epoch.
        batch_size: photos in one step, of all processes together.
        workers: processes that decode, beside each that trains; 0: none but that one.
        memory_limit_gb: decoded photos are kept in memory, in each process; more than this of a split is refused.
        augmentation: how photos are changed while they are learned from.
        segmentation_cache: class maps of the photos, for a model with fusion: their folder, several of one segmenter,
            or a folder in which these lie. Those in the table's own column `map` are used before these.
        validation_share: share of the photos to measure with, chosen by their names, where there is no column `split`.
        stream: read and decode photos anew in every epoch, in place of keeping them in memory.
        shuffle_photos: of a stream, photos among which the next one is drawn at random; shards come in random order.
        shuffle_mb: at most, of photos that lie in the table or the shards and so must be held while they wait.
    """

    photos: str
    train_split: str = "train"
    validation_split: str = "validation"
    batch_size: int = 256
    workers: int = 2
    memory_limit_gb: float = 8.0
    augmentation: Augmentation = Augmentation()
    segmentation_cache: Path | tuple[Path, ...] | None = None
    validation_share: float | None = None
    stream: bool = False
    shuffle_photos: int = 100_000
    shuffle_mb: int = 1024

    def __post_init__(self) -> None:
        check_bounds(self, "validation_share", section="data", low=0.0001, high=0.5)
        check_bounds(self, "shuffle_photos", "shuffle_mb", section="data", low=1)
        check_bounds(self, "batch_size", section="data", low=2)  # a photo alone has no negatives
        check_bounds(self, "workers", "memory_limit_gb", section="data", low=0)


@dataclass(frozen=True)
class ModelConfig:
    """The encoder to begin with, an existing one or a new one of these sizes with random weights, and what it learns.

    Args:
        start_from: checkpoint folder or hf:<id or folder>; None: random weights of the sizes below.
        image_size: edge of the image that the model sees, in pixels.
        patch_size: edge of a patch of the vision transformer, in pixels.
        hidden_size: width of the transformer.
        layers: of the transformer, one upon the other.
        heads: of each layer's attention.
        mlp_size: width of its inner layers.
        width: D, dimensions of photo and geocell vectors.
        activation: between its linear maps; CLIP's own by default.
        mean: of the photos' channels, from 0 to 1; CLIP's own by default.
        std: standard deviation of the channels, likewise.
        fusion: of class maps with the photos; null: photos alone. What start_from has already is kept, but for another
            leave_out, given with the kind and sizes that it has.
        trainable_blocks: of the vision transformer, counted from its end; the others stay as they are, with the
            embeddings. all: nothing stays. By default 1 of what start_from names, and all of a new one.
        head: geocells are vectors of cells that photos are matched with, as in the paper; classes are those of a linear
            classifier for each level, to compare with. They learn at geocell_lr, and decay as the encoder does.
    """

    start_from: str | None = None
    image_size: int = 336
    patch_size: int = 14
    hidden_size: int = 1024
    layers: int = 24
    heads: int = 16
    mlp_size: int = 4096
    width: int = 768
    activation: str = "quick_gelu"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    fusion: FusionConfig | None = None
    trainable_blocks: int | Literal["all"] | None = None
    head: HeadName = "geocells"

    def __post_init__(self) -> None:
        check_choices(self, section="model")
        check_bounds(self, "image_size", "hidden_size", "layers", "heads", "mlp_size", "width", section="model", low=1)
        check_bounds(self, "patch_size", section="model", low=1, high=self.image_size)
        if self.fusion is not None and self.start_from is None:  # else the size is not known yet
            self.fusion.check(hidden_size=self.hidden_size)
        for channel, value in enumerate(self.std):
            check_number(f"model.std[{channel}]", value, low=1e-3)

    @property
    def unused(self) -> list[str]:
        """Options that were given and say nothing: what `start_from` names has sizes and colours of its own."""
        if self.start_from is None:
            return []
        of_any = ("start_from", "fusion", "trainable_blocks", "head")
        own = [each for each in fields(self) if each.name not in of_any]
        return [each.name for each in own if getattr(self, each.name) != each.default]


@dataclass(frozen=True)
class LossConfig:
    """Which cells a photo's own is compared with.

    Args:
        negatives: the cells of the batch, as often as they occur in it (batch, the paper's), the different ones of the
            batch (batch_distinct), or all cells of the level (all). training.cells.losses has the mathematics.
    """

    negatives: Negatives = "all"

    def __post_init__(self) -> None:
        check_choices(self, section="loss")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW.

    Args:
        lr: learning rate of the encoder.
        geocell_lr: of geocells, which start from nothing.
        temperature_lr: of the logarithms of temperatures; null: as geocell_lr. A step of Adam changes them by about
            this much at most, so the sum of all steps' rates bounds how far temperatures come from 0.07.
        weight_decay: of the encoder's matrices; directions and temperatures have none.
    """

    lr: float = 1e-4
    geocell_lr: float = 1e-3
    temperature_lr: float | None = None
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        check_bounds(self, *vars(self), section="optimizer", low=0)


@dataclass(frozen=True)
class SchedulerConfig:
    """How the learning rates change.

    Args:
        name: halving multiplies them by 0.5 after each epoch, as the paper does; one_cycle lets them rise and fall.
        warm_up: share of all steps in which one_cycle rises.
    """

    name: Literal["one_cycle", "halving"] = "halving"
    warm_up: float = 0.1

    def __post_init__(self) -> None:
        check_choices(self, section="lr_scheduler")
        check_bounds(self, "warm_up", section="lr_scheduler", low=0, high=1)


@dataclass(frozen=True)
class TrainerConfig:
    """How the run goes; the names are those of Lightning's Trainer, which does the work.

    Args:
        max_epochs: passes over the training photos.
        patience: epochs that are no better than the best one after which the run ends, with the weights of that one;
            null: all epochs are made, and the last one's weights are kept.
        monitor: with patience, which epoch is better: that of the smaller validation loss, or with more of the
            validation photos answered within 25 km.
        accelerator: where to train; gpu where there is none is an error.
        devices: of one machine, one process each.
        num_nodes: machines.
        accumulate_grad_batches: parts that a process works its share of a batch in, one after another, where all of it
            is too much for the device's memory.
        precision: 32-true is float32; bf16-mixed multiplies in bfloat16, which is fast on GPUs alone.
        gradient_clip_val: largest norm of the gradient; 0 does not clip.
        log_every_n_steps: steps between two lines of the logs.
        checkpoint_every_n_steps: steps after which the run can be taken up again, beside the end of each epoch.
    """

    max_epochs: int = 8
    patience: int | None = None
    monitor: Literal["loss", "within_25"] = "loss"
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1
    num_nodes: int = 1
    accumulate_grad_batches: int = 1
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    gradient_clip_val: float = 0.0
    log_every_n_steps: int = 20
    checkpoint_every_n_steps: int = 500

    def __post_init__(self) -> None:
        check_choices(self, section="trainer")
        check_bounds(
            self, "max_epochs", "patience", "devices", "num_nodes", "accumulate_grad_batches", section="trainer", low=1
        )
        check_bounds(self, "log_every_n_steps", "checkpoint_every_n_steps", section="trainer", low=1)
        check_bounds(self, "gradient_clip_val", section="trainer", low=0)


@dataclass(frozen=True, kw_only=True)
class FitConfig(GalleryConfig):
    """A whole run, but for the hierarchy it learns and the folder it writes.

    For the gallery every training photo is encoded once more when all is learned.

    Args:
        data: which photos to learn from.
        model: the encoder to begin with.
        loss: which cells a photo's own is compared with.
        optimizer: how fast weights change.
        lr_scheduler: how that changes as training goes.
        trainer: how the run goes.
        seed_everything: of every random draw; the same seed on the same machine gives the same weights.
    """

    data: DataConfig
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    lr_scheduler: SchedulerConfig = SchedulerConfig()
    trainer: TrainerConfig = TrainerConfig()
    seed_everything: int = 0

    def __post_init__(self) -> None:
        self.check_gallery()
        check_bounds(self, "seed_everything", low=0, high=2**63 - 1)
        if self.model.head == "classes" and self.loss.negatives != "all":
            raise InputError(
                f"model.head classes tells a photo from all classes of a level: loss.negatives must be all, not "
                f"{self.loss.negatives}."
            )
        parts = self.trainer.devices * self.trainer.num_nodes * self.trainer.accumulate_grad_batches
        if self.data.batch_size % parts or self.data.batch_size < 2 * parts:
            raise InputError(
                f"data.batch_size {self.data.batch_size} is that of all processes and parts together: it must be a "
                f"multiple of {parts} (devices x num_nodes x accumulate_grad_batches), and two of them at least."
            )

    @classmethod
    def from_yaml(cls, file: str | Path) -> Self:
        """Read a file as `python -m training fit --config` does; `hierarchy` and `out` in it are left out.

        Raises:
            InputError: the file cannot be read, or a key or value of it is none that a run has.
        """
        from jsonargparse import ArgumentError, ArgumentParser

        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(cls)
        for path in ("--hierarchy", "--out"):
            parser.add_argument(path, type=Path)
        try:
            read = parser.instantiate(parser.parse_path(file))
        except (ArgumentError, OSError) as error:
            raise InputError(f"{file}: {error}") from None
        return cls(**{each.name: read[each.name] for each in fields(cls)})


@dataclass(frozen=True)
class RefitSources:
    """What a refit is made from.

    Args:
        features: vectors of photos (python -m encoder embed), with places, or with `photos` that has them.
        hierarchy: hierarchy folder the new geocells are for.
        from_: checkpoint folder whose encoder made the features; it is copied into the new one. Without it the new
            checkpoint holds geocells alone.
        old_hierarchy: of that checkpoint's geocells: begin with these, by lineage, in place of means of photo vectors.
        photos: table that says where the photos of the features are; a tree of labels needs it for the labels.
        split: of that table, photos to fit to.
        validation_split: of that table, photos to judge by; nothing is fitted to them. Without it photos of `split` are
            held out to choose by, and what is chosen is fitted to all of them.
        crops: of each photo, of vectors of which nobody recorded it: those of five or ten are means; all others are
            scaled to length 1.
    """

    features: str | Path
    hierarchy: str | Path
    from_: str | Path | None = None
    old_hierarchy: str | Path | None = None
    photos: str | Path | None = None
    split: str | None = None
    validation_split: str | None = None
    crops: CropName | None = None

    def __post_init__(self) -> None:
        check_choices(self)
        if self.photos is None and (self.split or self.validation_split):
            raise InputError("`split` and `validation_split` go with `photos`: features have no splits.")
        if self.validation_split is not None and self.validation_split == self.split:
            raise InputError(f"`split` and `validation_split` are both {self.split!r}: hold out other photos.")
        if self.validation_split is not None and self.split is None:
            raise InputError("`validation_split` needs `split`: say which photos are fitted to.")
        if self.old_hierarchy is not None and self.from_ is None:
            raise InputError("`old_hierarchy` needs `from_`: the checkpoint whose geocells belong to it.")


@dataclass(frozen=True, kw_only=True)
class RefitConfig(GalleryConfig):
    """How geocells are fitted to photo vectors that stay as they are.

    Args:
        transform: what vectors pass first; whiten removes what does not tell places apart. Not by lineage.
        shrinkage: of the whitening, from 0 to 1; by default the best in cross-validation.
        levels_weights: fit: also how much each level counts, and the number of photos in a cell.
        seed: of every random draw.
        device: where to fit; cuda where there is none is an error.
        epochs: passes over the photos, or over `epoch_photos` of them, at most; 0 fits temperatures alone.
        patience: epochs without gain on the held-out photos after which a level stops.
        epoch_photos: of more photos than these an epoch takes as many, and the next one goes on with others: how long
            a fit takes is then bounded, and levels that gain nothing stop before all photos have been seen.
        batch_size: photos in one step.
        learning_rate: of the cells' vectors.
        decay: what the learning rate is multiplied with after each epoch.
        few_photos: fewer photos than these are held out by fifths, each once, because a share of them would say little.
        held_out: share of more photos to hold out, by name. A `validation_split` goes before both.
        held_out_photos: this many held-out photos at most are used.
    """

    transform: Literal["whiten", "none"] = "whiten"
    shrinkage: float | None = None
    levels_weights: Literal["ones", "fit"] = "ones"
    seed: int = 0
    device: DeviceName = "auto"
    epochs: int = 8
    patience: int = 2
    epoch_photos: int = 500_000
    batch_size: int = 1024
    learning_rate: float = 5e-3
    decay: float = 0.7
    few_photos: int = 5000
    held_out: float = 0.05
    held_out_photos: int = 10_000

    def __post_init__(self) -> None:
        check_choices(self)
        if self.transform == "none" and self.shrinkage is not None:
            raise InputError("`shrinkage` goes with `transform` whiten.")
        self.check_gallery()
        check_bounds(self, "epochs", "learning_rate", "few_photos", low=0)
        check_bounds(self, "patience", "epoch_photos", "batch_size", "held_out_photos", low=1)
        check_bounds(self, "decay", low=0, high=1)
        check_bounds(self, "held_out", low=0.001, high=0.5)


@dataclass(frozen=True, kw_only=True)
class NamesConfig:
    """How places are found by their names.

    Args:
        labels: with `names`, its columns of labels, coarsest first; by default continent,country,region,city.
        temperature: what cosines of photos and names are divided by, at every level; by default the model's own.
        prior_exponent: how much the number of people in a place counts; 0: nothing. By default 1 where it is known, so
            that before a photo is seen a place is as likely as one of all these people lives there.
        device: where the model runs; cuda where there is none is an error.
        precision: of the model; bfloat16 where the processor has it, by default.
        batch_size: texts in one forward pass.
    """

    labels: tuple[str, ...] = ()
    temperature: float | None = None
    prior_exponent: float | None = None
    device: DeviceName = "auto"
    precision: PrecisionName = "auto"
    batch_size: int | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        check_choices(self)
        check_bounds(self, "temperature", low=1e-4, high=1e4)
        check_bounds(self, "prior_exponent", low=0, high=100)
        check_bounds(self, "batch_size", low=1)
