"""Training from photos and a hierarchy to a checkpoint: the stage behind `python -m training fit`."""

import contextlib
import csv
import logging
import signal
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import lightning
import numpy as np
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from encoder.checkpoint import LoadedEncoder, load_encoder, save_checkpoint
from encoder.config import FeedOptions, Preprocessing
from encoder.device import choose_device
from encoder.embedding import embed_photos
from encoder.encode import MapSource, PhotoEncoder, check_maps
from encoder.model import GeoEncoder, GeoEncoderConfig
from encoder.segmentation_cache import SegmentationCache, open_cache
from indexer.bundles.gallery import gallery_facts
from indexer.bundles.gallery_builds import write_gallery
from indexer.cells.hierarchy import Hierarchy
from indexer.cells.table import load_hierarchy
from indexer.disk.artifact import Draft
from indexer.disk.manifest import manifest_digest
from indexer.errors import InputError
from indexer.jobs.progress import track, track_line
from indexer.jobs.stages import Line
from indexer.photos.sources import PhotoSource, open_photos
from indexer.vectors.geocells import Geocells
from indexer.vectors.prototypes import Placed, Placement
from training.batches import Photos, Share, n_batches
from training.callbacks import BestEpoch, CheckpointFiles, Reporter, Resumable, best_epoch
from training.config import FitConfig, ModelConfig
from training.heads import GeocellHead, Head
from training.module import Epoch, GeoModule, TrainingLoader, ValidationLoader
from training.photos import open_half, source_of
from training.run_folder import RunFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FitSummary:
    """What a training run came to."""

    checkpoint: Path
    train_seconds: float  # inside the training loop, validation included
    total_seconds: float  # reading and writing included
    epochs: Sequence[Epoch]
    kept: Epoch  # whose weights these are: the last one, or with patience the best one
    temperatures: Sequence[float]
    train_photos: int
    gallery: int  # photos in it


@contextlib.contextmanager
def _warnings_alone(*names: str) -> Iterator[None]:
    """Loggers of these names are silent below a warning."""
    levels = {logger: logger.level for logger in map(logging.getLogger, names)}
    try:
        for logger in levels:
            logger.setLevel(logging.WARNING)
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


@contextlib.contextmanager
def _process_left_as_it_was() -> Iterator[None]:
    """Training has torch's global generators and the log to itself; whoever called it has theirs back."""
    silent = ("indexer", "encoder", "training") if rank_zero_only.rank else ()  # the first process tells
    with torch.random.fork_rng(range(torch.cuda.device_count())), _warnings_alone(*silent):
        yield


@_process_left_as_it_was()
def fit(hierarchy: str | Path, out: str | Path, *, config: FitConfig) -> FitSummary | None:
    """Train, or go on with a run that was cut short, and write its checkpoint.

    hierarchy: folder, made from the training photos. out: folder of the run. Returns None in every process of a run but
    the first, which alone writes and has a summary; so a run in one process always has one.

    Raises:
        InputError: `out` holds a finished run, another one or other things, or could not be written; the hierarchy or
            the photos cannot be used; or a level has a single cell.
        ArtifactError: what an unfinished run goes on with is damaged.
        WorkError: the loss stopped being a number, or the disk is full.
        Stopped: SIGTERM ended the run; it can be gone on with.
    """
    started = time.perf_counter()
    hierarchy, out = Path(hierarchy), Path(out)
    run, options = RunFolder(out), config.trainer
    if options.accelerator == "gpu" and not torch.cuda.is_available():
        raise InputError("trainer.accelerator is gpu, and torch finds none. Use auto or cpu, or mend the driver.")
    device = choose_device({"auto": "auto", "cpu": "cpu", "gpu": "cuda"}[options.accelerator])  # type: ignore[arg-type]
    first = rank_zero_only.rank == 0
    if first:
        run.check()
    opened = load_hierarchy(hierarchy)
    _check_levels(opened)
    torch.manual_seed(config.seed_everything)
    data = config.data
    cache = None if data.segmentation_cache is None else open_cache(data.segmentation_cache)
    start = None if config.model.start_from is None else load_encoder(config.model.start_from)
    encoder = _encoder_with_maps(config.model, start, cache)
    source = open_photos(data.photos)
    if encoder.fusion is not None and cache is None:
        _check_maps_come(source)
    # Before training: what the files say hours later is not what was learned from.
    inputs = {
        "photos": source.identity,
        "hierarchy": manifest_digest(hierarchy),
        "maps": None if cache is None else cache.origin.segmenter,
        "start_from": None if start is None else start.digest,
    }
    facts = run.facts(hierarchy, config, inputs)
    if first:
        run.check_same(facts)  # before photos are read, which may take long
    open_ = partial(open_half, data, hierarchy=opened, encoder=encoder, cache=cache, device=device)
    validation, learnt = open_("validation"), open_("train")  # what is wrong with the table shows at the small one
    gallery_photos = _gallery_placement(config, opened) if config.wants_gallery else None
    with run.begun(facts) if first else contextlib.nullcontext():
        began = time.perf_counter()
        head = GeocellHead(
            opened, encoder.config.projection_dim, negatives=config.loss.negatives, seed=config.seed_everything
        )
        module = train(encoder, head, learnt, validation, config=config, device=device.type, run=run)
        train_seconds = time.perf_counter() - began
        if not first:
            return None
        geocells, n_gallery = head.geocells(), 0
        kept = module.epochs[-1 if config.trainer.patience is None else best_epoch(module)]

        def finish(draft: Draft) -> None:
            nonlocal n_gallery
            _write_log(draft.path / "training_log.csv", module.epochs, kept)
            if gallery_photos is not None:
                loaded = LoadedEncoder(str(out), encoder.eval().to(device), digest=draft.facts["encoder"])
                n_gallery = _add_gallery(draft, loaded, geocells, gallery_photos, config, cache)

        save_checkpoint(
            run.checkpoint,
            encoder=encoder,
            geocells=geocells,
            config=facts["options"],
            inputs=inputs,
            finish=finish,
        )
        run.end()
    return FitSummary(
        run.checkpoint,
        train_seconds,
        time.perf_counter() - started,
        module.epochs,
        kept,
        head.temperatures.tolist(),
        len(learnt),
        n_gallery,
    )


# Lightning's information lines (accelerators found, tips) would stand between ours.
@_warnings_alone("lightning.pytorch", "lightning.fabric")
def train(
    encoder: GeoEncoder,
    head: Head,
    photos: Photos,
    validation: Photos,
    *,
    config: FitConfig,
    device: str,
    run: RunFolder | None = None,
) -> GeoModule:
    """The training itself: changes the weights of `encoder` and of `head` in place, and returns them together.

    run: where logs go and where an unfinished run is found; None writes nothing. Raises as `fit`, of training alone.
    """
    options, data = config.trainer, config.data
    processes = options.devices * options.num_nodes
    if processes * options.accumulate_grad_batches > 1 and len(photos) < data.batch_size:
        raise InputError(
            f"{len(photos)} training photos; data.batch_size {data.batch_size} cannot be shared. Lower it."
        )
    reporter = Reporter()
    callbacks: list[lightning.Callback] = [reporter]
    if options.patience is not None:
        callbacks.append(BestEpoch(None if run is None else run.best))
    if run is not None:  # after the best epoch: what is gone on with must know of it
        callbacks.append(Resumable(run.resume))
    steps = n_batches(len(photos), data.batch_size)
    trainer = _trainer(config, device, callbacks, run, log_every=min(options.log_every_n_steps, steps))
    share = Share(trainer.global_rank, processes, options.accumulate_grad_batches)
    module = GeoModule(encoder, head, config=config, share=share)
    loader = TrainingLoader(photos, module)
    resume = run.resume if run is not None and run.resume.is_file() else None
    if resume is not None and trainer.global_rank == 0:
        log.info("going on with the run in %s", resume.parent)
    with track("training", options.max_epochs * len(loader)) as reporter.advance:
        with _interruptible(), warnings.catch_warnings():
            # Lightning 2.6 with torch 2.13: its own call of a torch function that is going away.
            warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)`", FutureWarning)
            trainer.fit(
                module,
                loader,
                ValidationLoader(validation, module),
                ckpt_path=resume,
                weights_only=True,
            )
    if run is not None and options.patience is not None:
        best = CheckpointFiles().load_checkpoint(run.best)
        module.load_state_dict(best["state_dict"], strict=True)
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
    known = encoder.fusion_config
    if config.fusion is not None:
        if known is None:
            encoder.add_fusion(config.fusion)
        elif config.fusion != known == replace(config.fusion, leave_out=known.leave_out, segmenter=known.segmenter):
            encoder.config.fusion["leave_out"] = config.fusion.leave_out
        else:
            raise InputError(
                f"{config.start_from} has a fusion already. Leave out model.fusion; or give the kind and sizes it has, "
                "and another leave_out."
            )
    if isinstance(trainable, int):
        encoder.freeze(trainable_blocks=trainable)
    return encoder


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


def _trainer(
    config: FitConfig, device: str, callbacks: list[lightning.Callback], run: RunFolder | None, *, log_every: int
) -> lightning.Trainer:
    options = config.trainer
    logs: list[Logger] = []
    if run is not None:
        folder = {"save_dir": run.path, "name": "logs", "version": run.next_log()}
        # Written at once: what a kill takes with it would be missing from the curve for good.
        logs = [CSVLogger(**folder, flush_logs_every_n_steps=1), TensorBoardLogger(**folder, flush_secs=5)]
    return lightning.Trainer(
        max_epochs=options.max_epochs,
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=options.devices,
        num_nodes=options.num_nodes,
        strategy="ddp" if options.devices * options.num_nodes > 1 else "auto",
        use_distributed_sampler=False,
        accumulate_grad_batches=options.accumulate_grad_batches,
        precision=options.precision,
        gradient_clip_val=options.gradient_clip_val or None,
        log_every_n_steps=log_every,
        num_sanity_val_steps=0,
        logger=logs,
        plugins=[CheckpointFiles()],
        enable_checkpointing=False,  # `Resumable` and `BestEpoch` do it
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
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


def _encoder_with_maps(model: ModelConfig, start: LoadedEncoder | None, cache: SegmentationCache | None) -> GeoEncoder:
    """The encoder to train, whose fusion, if it has one, understands the maps of the cache, if there is one."""
    if model.unused:
        log.warning("%s has its own model.%s: what is given has no effect", model.start_from, ", ".join(model.unused))
    if cache is not None and model.fusion is not None and model.fusion.segmenter is None:
        # On record: no maps of another segmenter may be taken for those that the fusion learned from.
        model = replace(model, fusion=replace(model.fusion, segmenter=cache.origin.segmenter))
    encoder = build_encoder(model, start)
    check_maps(encoder, MapSource(cache))
    return encoder


def _gallery_placement(config: FitConfig, hierarchy: Hierarchy) -> Placement:
    """Where the photos to learn from were taken; with a column of owners, as the table of photos says it.

    Raises:
        InputError: the photos come in no table, or in one without that column.
    """
    _, chosen = source_of(config.data, "train")
    if config.owner_column is None:
        return Placement(hierarchy, chosen=chosen)
    split = None if config.data.validation_share is not None else config.data.train_split
    return Placement(hierarchy, config.data.photos, split=split, chosen=chosen, owner_column=config.owner_column)


def _add_gallery(
    draft: Draft,
    encoder: LoadedEncoder,
    geocells: Geocells,
    placement: Placement,
    config: FitConfig,
    cache: SegmentationCache | None,
) -> int:
    """Put the gallery into a checkpoint that is being written, and return the number of its photos.

    They are those that were learned from, by the encoder as it is now. Their vectors are those that `encoder embed`
    would make, so that `refit` would make the same gallery.
    """
    source, _ = source_of(config.data, "train")
    line = Line()
    encode = PhotoEncoder(encoder, maps=MapSource(cache))
    embedded = embed_photos(encode, source, feed=FeedOptions(workers=config.data.workers), line=line)
    geocells = replace(geocells, encoder=encoder.digest)
    with line, track_line(line, "gallery", source.n_photos):
        batches = _of_new_names(placement.place(batch, everywhere=True) for batch in embedded)
        made = write_gallery(draft.path, batches, geocells, placement.hierarchy, config, owners=placement.owners)
    draft.facts["gallery"] = gallery_facts(made.facts)
    return made.facts.photos


def _of_new_names(batches: Iterable[Placed]) -> Iterator[Placed]:
    """Photos but for those whose name came before: a run of hours must not end at that."""
    seen: set[str] = set()
    n_left_out = 0
    for placed in batches:
        fresh = []
        for row, name in enumerate(placed.photo.tolist()):
            if name not in seen:
                seen.add(name)
                fresh.append(row)
        n_left_out += len(placed.cells) - len(fresh)
        yield placed.take(np.array(fresh, np.int64))
    if n_left_out:
        log.warning("%d photos are not in the gallery: others have their names", n_left_out)


def _check_levels(hierarchy: Hierarchy) -> None:
    for number, level in enumerate(hierarchy.levels):
        if len(level) == 1:
            raise InputError(
                f"Level {number} (tau_max {level.tau_max}) has a single cell, which teaches nothing. "
                "Leave that one out of `tau_max` of the partition."
            )


def _check_maps_come(source: PhotoSource) -> None:
    if not source.may_have_maps:
        raise InputError(
            f"{source.location}: model.fusion sees each photo with its class map, and none come with these. Give "
            "data.segmentation_cache (python -m encoder segment makes one), or leave out model.fusion."
        )


def _write_log(file: Path, epochs: Sequence[Epoch], kept: Epoch) -> None:
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
            "kept": int(epoch is kept),
        }
        for epoch in epochs
    ]
    with file.open("w") as stream:
        csv.writer(stream, lineterminator="\n").writerows([rows[0].keys(), *(row.values() for row in rows)])
