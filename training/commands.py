"""The commands of `python -m training`: arguments -> one library call -> one result; imports wait for it."""

from dataclasses import asdict
from pathlib import Path

from indexer.cli import Result
from indexer.errors import InputError
from training.config import FitConfig, RefitConfig, RefitSources


def fit(*, hierarchy: Path, out: Path, check: bool = False, config: FitConfig) -> Result | None:
    """Train an encoder and the geocells of a hierarchy together. A run that was cut short goes on where it ended.

    Args:
        hierarchy: hierarchy folder, made from the training photos.
        out: folder of the run: its options, its logs, and at the end its `checkpoint`.
        check: look at all files, photos, maps, models and devices, let one batch go forward and backward, and say what
            is missing and what the run will take; nothing is trained, and nothing written.
        config: the rest.
    """
    from training.fitting import fit as fit_run

    if check:
        from training.checking import check as check_run

        report = check_run(hierarchy, out, config=config)
        text = f"{out}: {report.text()}"
        if report.problems:
            raise InputError(text)
        return Result(asdict(report), text)
    summary = fit_run(hierarchy, out, config=config)
    if summary is None:  # another process of the run reports
        return None
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
        "gallery": summary.gallery,
    }
    kept_one = "" if kept is summary.epochs[-1] else f"the weights are those of epoch {kept.epoch + 1}, "
    within = kept.validation.within
    text = (
        f"{summary.checkpoint}: {len(summary.epochs)} epochs over {summary.train_photos:,} photos in "
        f"{summary.train_seconds:.0f} s; {kept_one}validation median {kept.validation.median_km:.0f} km, within 25 km "
        f"{within['25']:.1f} %, 200 km {within['200']:.1f} %; {summary.gallery:,} photos in the gallery"
    )
    return Result(result, text)


def refit(*, sources: RefitSources, out: Path, config: RefitConfig) -> Result:
    """Fit the geocells of a new hierarchy to photo vectors, the encoder untouched.

    Args:
        sources: what it is made from.
        out: checkpoint folder to write.
        config: how the fit goes.
    """
    from training.refitting import refit as refit_checkpoint

    summary = refit_checkpoint(sources, out, config=config)
    geocells = summary.geocells
    data = {
        "checkpoint": str(out),
        "photos": summary.photos,
        "held_out": summary.held_out,
        "folds": summary.folds,
        "kept": summary.kept,
        "candidates": {name: asdict(score) for name, score in summary.candidates.items()},
        "levels": [asdict(level) for level in summary.levels],
        "temperatures": geocells.temperatures.tolist(),
        "level_weights": geocells.level_weights.tolist(),
        "prior_exponent": geocells.prior_exponent,
        "gallery": summary.gallery,
        "seconds": summary.seconds,
        "stage_seconds": dict(summary.stage_seconds),
    }
    weights = ""
    if summary.kept == "weighted":
        shown = ", ".join(f"{weight:.2f}" for weight in geocells.level_weights)
        weights = f"; level weights {shown}; prior exponent {geocells.prior_exponent:.2f}"
    of_folds = f" ({summary.folds} fits, each to the others)" if summary.folds > 1 else ""
    lines = [
        f"{out}: {summary.kept} geocells, from {summary.photos:,} photos in {summary.seconds:.0f} s; "
        f"temperatures {', '.join(f'{tau:.3f}' for tau in geocells.temperatures)}{weights}; "
        f"{summary.gallery:,} photos in the gallery",
        f"On {summary.held_out:,} held-out photos{of_folds}:",
    ]
    for name, score in summary.candidates.items():
        shares = ", ".join(f"{share:.1f} % within {limit} km" for limit, share in score.within.items())
        lines.append(f"  {name:<9} median {score.median_km:.1f} km; {shares}")
    return Result(data, "\n".join(lines))
