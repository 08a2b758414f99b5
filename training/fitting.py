"""Training from photos and a hierarchy to a checkpoint: the stage behind `python -m training fit`."""

import contextlib
import csv
import logging
import signal
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import lightning
import numpy as np
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from encoder.class_maps.cache import SegmentationCache
from encoder.config import FeedOptions
from encoder.embedding import embed_photos
from encoder.encode import MapSource, PhotoEncoder
from encoder.models.checkpoint import LoadedEncoder, save_checkpoint
from encoder.models.model import GeoEncoder
from indexer.bundles.gallery import gallery_facts
from indexer.bundles.gallery_builds import write_gallery
from indexer.disk.artifact import Draft
from indexer.errors import InputError
from indexer.jobs.progress import track, track_line
from indexer.jobs.stages import Line
from indexer.vectors.geocells import Geocells
from indexer.vectors.prototypes import Placed, Placement
from training.cells.heads import Head
from training.config import FitConfig
from training.photos.batches import Photos, Share, ValidationPhotos, n_batches
from training.photos.held_out import write_held_out
from training.photos.run_photos import source_of
from training.runs.callbacks import BestEpoch, CheckpointFiles, Reporter, Resumable, best_epoch
from training.runs.folder import RunFolder
from training.runs.inputs import RunInputs
from training.runs.module import Epoch, GeoModule, TrainingLoader, ValidationLoader

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
    out = Path(out)
    run, inputs = RunFolder(out), RunInputs(Path(hierarchy), config)
    device = inputs.device
    first = rank_zero_only.rank == 0
    if first:
        run.check()
    _, encoder, head = inputs.hierarchy, inputs.encoder, inputs.head  # the cells first: they are soon read
    inputs.check_maps_come(encoder)
    # Before training: what the files say hours later is not what was learned from.
    digests = inputs.digests()
    facts = run.facts(inputs.folder, config, digests)
    if first:
        run.check_same(facts)  # before photos are read, which may take long
    validation, learnt = inputs.validation, inputs.learnt  # what is wrong with the table shows at the small one
    gallery_photos = inputs.gallery
    with run.begun(facts) if first else contextlib.nullcontext():
        if first and not run.held_out.exists():
            write_held_out(run.held_out, *source_of(config.data, "validation"))
        began = time.perf_counter()
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
                n_gallery = _add_gallery(draft, loaded, geocells, gallery_photos, config, inputs.cache)

        save_checkpoint(
            run.checkpoint,
            encoder=encoder,
            geocells=geocells,
            config=facts["options"],
            inputs=digests,
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
    validation: ValidationPhotos,
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
    check_shares(len(photos), config)
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


def check_shares(n_photos: int, config: FitConfig) -> None:
    """Raise InputError where so many photos to learn from are too few for a batch that is shared."""
    options, size = config.trainer, config.data.batch_size
    if options.devices * options.num_nodes * options.accumulate_grad_batches > 1 and n_photos < size:
        raise InputError(f"{n_photos} training photos; data.batch_size {size} cannot be shared. Lower it.")


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
