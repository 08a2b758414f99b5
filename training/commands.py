"""The commands of `python -m training`: arguments -> one library call -> one result; imports wait for it."""

from dataclasses import asdict
from pathlib import Path
from typing import Literal

from indexer.cli import Result
from training.config import DataConfig, ModelConfig, OptimisationConfig


def fit(
    *,
    hierarchy: Path,
    out: Path,
    data: DataConfig,
    model: ModelConfig,
    optimisation: OptimisationConfig,
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> Result:
    """Train an encoder and the geocells of a hierarchy together.

    Args:
        hierarchy: hierarchy folder, made from the training photos.
        out: checkpoint folder to write.
        data: which photos to learn from.
        model: the encoder to begin with.
        optimisation: how the weights are fitted.
        seed: of every random draw; the same seed on the same machine gives the same weights.
        device: where to train; cuda where there is none is an error.
    """
    from encoder.device import choose_device
    from training.fit import fit as fit_checkpoint

    summary = fit_checkpoint(
        hierarchy=hierarchy,
        out=out,
        data=data,
        model=model,
        optimisation=optimisation,
        seed=seed,
        device=choose_device(device).type,
    )
    last = summary.epochs[-1]
    result = {
        "checkpoint": str(summary.checkpoint),
        "train_seconds": summary.train_seconds,
        "total_seconds": summary.total_seconds,
        "train_photos": summary.train_photos,
        "epochs": len(summary.epochs),
        "loss": last.loss,
        "temperatures": list(summary.temperatures),
        "validation": asdict(last.validation),
    }
    text = (
        f"{out}: {len(summary.epochs)} epochs over {summary.train_photos:,} photos in {summary.train_seconds:.0f} s; "
        f"validation median {last.validation.median_km:.0f} km, within 200 km {last.validation.within['200']:.1f} %"
    )
    return Result(result, text)
