"""The commands of `python -m training`: arguments -> one library call -> one result; imports wait for it."""

from dataclasses import asdict
from pathlib import Path
from typing import Literal

from encoder.config import DeviceName
from indexer.cli import Result
from indexer.errors import InputError
from training.config import (
    DataConfig,
    FitConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    RefitConfig,
    SchedulerConfig,
    TrainerConfig,
)


def fit(
    *,
    hierarchy: Path,
    out: Path,
    data: DataConfig,
    model: ModelConfig,
    loss: LossConfig,
    optimizer: OptimizerConfig,
    lr_scheduler: SchedulerConfig,
    trainer: TrainerConfig,
    seed_everything: int = 0,
    references: int = 0,
) -> Result:
    """Train an encoder and the geocells of a hierarchy together. A run that was cut short goes on where it ended.

    Args:
        hierarchy: hierarchy folder, made from the training photos.
        out: folder of the run: its options, its logs, and at the end its `checkpoint`.
        data: which photos to learn from.
        model: the encoder to begin with.
        loss: what a photo's cells are told from.
        optimizer: how fast weights change.
        lr_scheduler: how that changes as training goes.
        trainer: how the run goes.
        seed_everything: of every random draw; the same seed on the same machine gives the same weights.
        references: most typical training photos to keep of each finest cell, to explain answers with; when all is
            learned, every training photo is encoded once more to choose them.
    """
    from training.fitting import fit as fit_run

    config = FitConfig(data, model, loss, optimizer, lr_scheduler, trainer, seed_everything, references)
    summary = fit_run(hierarchy=hierarchy, out=out, config=config)
    if summary is None:  # another process of the run reports
        raise SystemExit(0)
    kept = summary.kept
    result = {
        "checkpoint": str(summary.checkpoint),
        "train_seconds": summary.train_seconds,
        "total_seconds": summary.total_seconds,
        "train_photos": summary.train_photos,
        "epochs": len(summary.epochs),
        "kept_epoch": kept.epoch + 1,
        "loss": kept.loss,
        "temperatures": list(summary.temperatures),
        "validation": asdict(kept.validation),
        "references": summary.references,
    }
    kept_one = "" if kept is summary.epochs[-1] else f"the weights are those of epoch {kept.epoch + 1}, "
    text = (
        f"{summary.checkpoint}: {len(summary.epochs)} epochs over {summary.train_photos:,} photos in "
        f"{summary.train_seconds:.0f} s; {kept_one}validation median {kept.validation.median_km:.0f} km, within 200 km "
        f"{kept.validation.within['200']:.1f} %"
    )
    return Result(result, text)


def refit(
    *,
    features: Path,
    hierarchy: Path,
    out: Path,
    from_: Path | None = None,
    old_hierarchy: Path | None = None,
    photos: Path | None = None,
    split: str | None = None,
    validation_split: str | None = None,
    transform: Literal["whiten", "none"] = "whiten",
    shrinkage: float | None = None,
    levels_weights: Literal["ones", "fit"] = "ones",
    references: int = 0,
    fit: RefitConfig,
    seed: int = 0,
    device: DeviceName = "auto",
) -> Result:
    """Fit the geocells of a new hierarchy to photo vectors, the encoder untouched.

    Args:
        features: vectors of photos (python -m encoder embed), with places, or with --photos that has them.
        hierarchy: hierarchy folder the new geocells are for.
        out: checkpoint folder to write.
        from_: checkpoint folder whose encoder made the features; it is copied into the new one. Without it the new
            checkpoint holds geocells alone.
        old_hierarchy: of that checkpoint's geocells: begin with these, by lineage, in place of means of photo vectors.
        photos: table that says where the photos of the features are; a tree of labels needs it for the labels.
        split: of that table, photos to fit to.
        validation_split: of that table, photos to hold out.
        transform: what vectors pass first; whiten removes what does not tell places apart. Not by lineage.
        shrinkage: of the whitening, from 0 to 1; by default the best in cross-validation.
        levels_weights: fit: also how much each level counts, and the number of photos in a cell.
        references: most typical photos to keep of each finest cell, to explain answers with.
        fit: how the cells' vectors descend.
        seed: of every random draw.
        device: where to fit; cuda where there is none is an error.
    """
    from encoder.device import choose_device
    from training.refitting import RefitSources
    from training.refitting import refit as refit_checkpoint

    if old_hierarchy is not None and (transform, shrinkage) != ("whiten", None):
        raise InputError("--transform and --shrinkage go with means of photo vectors, not with --old-hierarchy.")
    if transform == "none" and shrinkage is not None:
        raise InputError("--shrinkage goes with --transform whiten.")
    summary = refit_checkpoint(
        RefitSources(features, hierarchy, photos, split, validation_split, from_, old_hierarchy),
        out,
        transform=transform,
        shrinkage=shrinkage,
        level_weights=levels_weights,
        references=references,
        config=fit,
        seed=seed,
        device=choose_device(device),
    )
    data = {
        "checkpoint": str(out),
        "photos": summary.photos,
        "held_out": summary.held_out,
        "kept": summary.kept,
        "candidates": {name: asdict(score) for name, score in summary.candidates.items()},
        "levels": [asdict(level) for level in summary.levels],
        "temperatures": summary.geocells.temperatures.tolist(),
        "level_weights": summary.geocells.level_weights.tolist(),
        "prior_exponent": summary.geocells.prior_exponent,
        "references": summary.references,
        "seconds": summary.seconds,
        "stage_seconds": dict(summary.stage_seconds),
    }
    rows = [
        f"  {name:<9} median {score.median_km:.1f} km; "
        + ", ".join(f"{share:.1f} % within {limit} km" for limit, share in score.within.items())
        for name, score in summary.candidates.items()
    ]
    weights = ""
    if summary.kept == "weighted":
        shown = ", ".join(f"{weight:.2f}" for weight in summary.geocells.level_weights)
        weights = f"; level weights {shown}; prior exponent {summary.geocells.prior_exponent:.2f}"
    lines = [
        f"{out}: {summary.kept} geocells, from {summary.photos:,} photos in {summary.seconds:.0f} s; "
        f"temperatures {', '.join(f'{tau:.3f}' for tau in summary.geocells.temperatures)}{weights}",
        f"On {summary.held_out:,} held-out photos:",
        *rows,
    ]
    return Result(data, "\n".join(lines))
