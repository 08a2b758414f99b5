"""Training from photos and a hierarchy to a checkpoint: the stage behind `python -m training fit`."""

import contextlib
import csv
import io
import logging
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import torch

from encoder.checkpoint import LoadedEncoder, load_encoder, save_checkpoint
from encoder.config import Preprocessing
from encoder.encode import MapSource, check_maps
from encoder.model import GeoEncoder, GeoEncoderConfig
from encoder.segmentation_cache import MapOrigin, open_cache
from indexer.artifact import check_target
from indexer.cells import load_hierarchy
from indexer.errors import InputError
from indexer.hierarchy import Hierarchy
from indexer.manifest import file_digest, manifest_digest
from indexer.progress import track
from training.config import DataConfig, ModelConfig, OptimisationConfig
from training.data import Batches, PhotoSet, load_photos
from training.module import Epoch, GeoModule

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FitSummary:
    """What a training run came to."""

    checkpoint: Path
    train_seconds: float  # inside the training loop, validation included
    total_seconds: float  # reading and writing included
    epochs: Sequence[Epoch]
    temperatures: Sequence[float]
    train_photos: int


def fit(
    *,
    hierarchy: Path,
    out: Path,
    data: DataConfig,
    model: ModelConfig,
    optimisation: OptimisationConfig,
    seed: int,
    device: str,
) -> FitSummary:
    """Train and write a checkpoint folder with the weights of the last epoch.

    Raises:
        InputError: `out` exists or could not be written, the hierarchy or the photos cannot be used, or a level has
            a single cell, or a seed no generator takes.
        WorkError: the loss stopped being a number.
    """
    started = time.perf_counter()
    if not 0 <= seed < 2**63:
        raise InputError(f"seed must be from 0 to 2**63 - 1, not {seed}.")
    check_target(out)
    tree = load_hierarchy(hierarchy)
    _check_levels(tree)
    torch.manual_seed(seed)
    cache = None if data.segmentation_cache is None else open_cache(data.segmentation_cache)
    start = None if model.start_from is None else load_encoder(model.start_from)
    encoder = build_encoder(model if cache is None else _learning_from(cache.origin, model), start)
    check_maps(encoder, MapSource(cache))
    validation, learnt = (  # the small one first: what is wrong with the table shows at once
        load_photos(data, split, hierarchy=tree, encoder=encoder, cache=cache)
        for split in (data.validation_split, data.train_split)
    )
    # Before training: what the files say hours later is not what was learned from.
    inputs = {
        "photos": file_digest(data.photos),
        "hierarchy": manifest_digest(hierarchy),
        "maps": None if cache is None else cache.origin.segmenter,
        "start_from": None if start is None else start.digest,
    }
    if not (learnt.targets >= 0).any():
        raise InputError(
            f"{data.photos}: no training photo lies in a cell of {hierarchy}. Was it made from other photos?"
        )
    began = time.perf_counter()
    module = train(encoder, tree, learnt, validation, data=data, optimisation=optimisation, seed=seed, device=device)
    train_seconds = time.perf_counter() - began
    save_checkpoint(
        out,
        encoder=encoder,
        geocells=module.geocell_vectors(),
        config=_plain(
            {"data": asdict(data), "model": asdict(model), "optimisation": asdict(optimisation), "seed": seed}
        ),
        inputs=inputs,
        extra={"training_log.csv": _as_csv(module.epochs)},
    )
    return FitSummary(
        out,
        train_seconds,
        time.perf_counter() - started,
        module.epochs,
        module.temperatures.tolist(),
        len(learnt),
    )


def train(
    encoder: GeoEncoder,
    hierarchy: Hierarchy,
    photos: PhotoSet,
    validation: PhotoSet,
    *,
    data: DataConfig,
    optimisation: OptimisationConfig,
    seed: int,
    device: str,
) -> GeoModule:
    """The training itself: changes the weights of `encoder` in place and returns them with the geocells.

    Raises:
        WorkError: the loss stopped being a number.
    """
    module = GeoModule(
        encoder,
        hierarchy,
        optimisation=optimisation,
        augmentation=data.augmentation,
        validation=validation,
        generator=torch.Generator().manual_seed(seed),
    )
    batches = Batches(photos, data.batch_size, generator=torch.Generator().manual_seed(seed + 1))
    with track("training", optimisation.epochs * len(batches)) as advance:
        trainer = _trainer(optimisation, device, _Reporter(advance, optimisation.epochs))
        with _interruptible(), warnings.catch_warnings():
            # Lightning 2.6 with torch 2.13: its own call of a torch function that is going away.
            warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)`", FutureWarning)
            trainer.fit(module, batches, Batches(validation, data.batch_size))
    return module


def build_encoder(config: ModelConfig, start: LoadedEncoder | None = None) -> GeoEncoder:
    """The encoder training begins with; random weights come from torch's global generator.

    start: what `config.start_from` names, which is changed; None where it names nothing.
    """
    if start is None:
        encoder, trainable = _new_encoder(config), config.trainable_blocks
    else:
        encoder = start.model.requires_grad_(True).train()
        trainable = 1 if config.trainable_blocks is None else config.trainable_blocks
    if config.fusion is not None:
        if encoder.fusion is not None:
            raise InputError(f"{config.start_from} has a fusion already. Leave out model.fusion.")
        encoder.add_fusion(config.fusion)
    if isinstance(trainable, int):
        encoder.freeze(trainable_blocks=trainable)
    return encoder


def _learning_from(maps: MapOrigin, model: ModelConfig) -> ModelConfig:
    """With what made the maps that a new fusion learns from on record, so that no other maps are taken for them."""
    if model.fusion is None or model.fusion.segmenter is not None:
        return model
    return replace(model, fusion=replace(model.fusion, segmenter=maps.segmenter))


def _new_encoder(config: ModelConfig) -> GeoEncoder:
    vision = {
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_size,
        "hidden_act": config.activation,
    }
    preprocessing = Preprocessing(config.image_size, config.image_size, config.mean, config.std).to_dict()
    return GeoEncoder(GeoEncoderConfig(vision_config=vision, projection_dim=config.width, preprocessing=preprocessing))


class _Reporter(lightning.Callback):
    """Moves the progress bar with each batch and says how each epoch went."""

    def __init__(self, advance: Callable[[int], None], epochs: int) -> None:
        self.advance = advance
        self.n_epochs = epochs

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.advance(1)

    def on_validation_end(self, trainer: lightning.Trainer, module: GeoModule) -> None:
        epoch = module.epochs[-1]
        within = epoch.validation.within
        log.info(
            "epoch %d of %d: loss %.3f, validation loss %.3f, median %.0f km, within 200 km %.1f %%, 750 km %.1f %%, "
            "temperatures %s, %.0f s, %.0f s left",
            epoch.epoch + 1,
            self.n_epochs,
            epoch.loss,
            epoch.validation_loss,
            epoch.validation.median_km,
            within["200"],
            within["750"],
            " ".join(f"{tau:.3f}" for tau in epoch.temperatures),
            epoch.seconds,
            epoch.seconds / (epoch.epoch + 1) * (self.n_epochs - epoch.epoch - 1),
        )


def _trainer(optimisation: OptimisationConfig, device: str, reporter: _Reporter) -> lightning.Trainer:
    # Its information lines (accelerators found, tips) would stand between ours.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return lightning.Trainer(
        max_epochs=optimisation.epochs,
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        precision=optimisation.precision,
        gradient_clip_val=optimisation.gradient_clip or None,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[reporter],
    )


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Hand on Ctrl-C as it came: Lightning turns it into an exit of its own and leaves the signal ignored."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as end:
        if not isinstance(end.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, before)
        raise KeyboardInterrupt from None


def _check_levels(hierarchy: Hierarchy) -> None:
    for number, level in enumerate(hierarchy.levels):
        if len(level) == 1:
            raise InputError(
                f"Level {number} (tau_max {level.tau_max}) has a single cell, which teaches nothing. "
                "Leave that tau out: python -m indexer partition --tau-max ..."
            )


def _plain(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _plain(value) for key, value in values.items()}
    return str(values) if isinstance(values, Path) else values


def _as_csv(epochs: Sequence[Epoch]) -> str:
    text = io.StringIO()
    rows = [
        {
            "epoch": epoch.epoch + 1,
            "loss": epoch.loss,
            "seconds": epoch.seconds,
            "validation_median_km": epoch.validation.median_km,
            "validation_mean_km": epoch.validation.mean_km,
            **{f"validation_within_{limit}_km": share for limit, share in epoch.validation.within.items()},
            "validation_loss": epoch.validation_loss,
            **{f"temperature_{level}": tau for level, tau in enumerate(epoch.temperatures)},
        }
        for epoch in epochs
    ]
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
