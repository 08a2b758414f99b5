"""New geocells for an encoder that stays as it is: the stage behind `python -m training refit`.

In: features (photo vectors, made once), a hierarchy, and where to begin. Out: a checkpoint folder whose geocells belong
to that hierarchy; with `start_from` it holds that checkpoint's encoder too.

Photos are divided by name into those that are fitted to and those held out, or as the splits of a table say. By these
several sets of geocells are judged (`training.candidates`), the start among them.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from encoder.checkpoint_folder import encoder_digest, encoder_width, save_geocells_checkpoint
from indexer.bundles.references import save_references
from indexer.cells.hierarchy import Hierarchy
from indexer.cells.table import load_hierarchy
from indexer.disk.artifact import Draft, check_target
from indexer.disk.manifest import file_digest, manifest_digest
from indexer.earth.geo import Accuracy, accuracy
from indexer.errors import BundleMismatch, InputError
from indexer.jobs.progress import track
from indexer.vectors.features import FeatureSource, open_features
from indexer.vectors.geocells import Geocells, load_geocells
from indexer.vectors.inheritance import carry_over
from indexer.vectors.prototypes import Placed, Placement, joined_placed, no_photo, placed_batches, prototypes
from training.candidates import FITTED, START, TEMPERED, WEIGHTED, check_enough_to_weigh, choose, errors_km, weighted
from training.cell_fit import HeldOut, LevelFit, fit_cells, steps_per_epoch
from training.config import RefitConfig
from training.holding_out import by_name, name_keys
from training.references import typical_photos
from training.vector_file import VectorFile

log = logging.getLogger(__name__)

_FEWEST_HELD_OUT = 20  # below this nothing can be said of a fit


@dataclass(frozen=True, slots=True)
class RefitSources:
    """What a refit is made from.

    features, hierarchy: required. photos: table that says where the photos of the features are, with `split` and
    `validation_split` of it where wanted. checkpoint: whose encoder made the features, copied along. old_hierarchy: of
    that checkpoint's geocells, to begin with these by lineage.
    """

    features: Path
    hierarchy: Path
    photos: Path | None = None
    split: str | None = None
    validation_split: str | None = None
    checkpoint: Path | None = None
    old_hierarchy: Path | None = None

    def __post_init__(self) -> None:
        if self.photos is None and (self.split or self.validation_split):
            raise InputError("--split and --validation-split go with --photos: features have no splits.")
        if self.validation_split is not None and self.validation_split == self.split:
            raise InputError(f"--split and --validation-split are both {self.split!r}: hold out other photos.")
        if self.validation_split is not None and self.split is None:
            raise InputError("--validation-split needs --split: say which photos are fitted to.")
        if self.old_hierarchy is not None and self.checkpoint is None:
            raise InputError("--old-hierarchy needs --from: the checkpoint whose geocells belong to it.")

    def digests(self, features: FeatureSource) -> dict[str, str | None]:
        """Of everything, for manifests."""
        return {
            "hierarchy": manifest_digest(self.hierarchy),
            "features": features.digest,
            "photos": None if self.photos is None else file_digest(self.photos),
            "checkpoint": None if self.checkpoint is None else manifest_digest(self.checkpoint),
            "old_hierarchy": None if self.old_hierarchy is None else manifest_digest(self.old_hierarchy),
        }


@dataclass(frozen=True, slots=True)
class RefitSummary:
    """What a refit came to."""

    checkpoint: Path
    photos: int  # that were fitted to
    held_out: int
    kept: str  # which of the candidates (`training.candidates`)
    candidates: Mapping[str, Accuracy]  # on the held-out photos
    levels: list[LevelFit]
    geocells: Geocells
    references: int  # rows of the table
    seconds: float
    stage_seconds: Mapping[str, float]  # start (whitened means), lay out (vectors on disk), fit, write


def refit(
    sources: RefitSources,
    out: Path,
    *,
    transform: Literal["whiten", "none"] = "whiten",
    shrinkage: float | None = None,
    level_weights: Literal["ones", "fit"] = "ones",
    references: int = 0,
    config: RefitConfig,
    seed: int = 0,
    device: torch.device,
) -> RefitSummary:
    """Fit geocells to features and write a checkpoint.

    Args:
        sources: what it is made from.
        out: checkpoint folder to write.
        transform: what vectors pass first, where geocells do not begin by lineage.
        shrinkage: of the whitening; None chooses it by cross-validation.
        level_weights: fit: also the exponents of the levels and of the prior.
        references: most typical photos to keep of each finest cell.
        config: how the fit goes.
        seed: of every random draw.
        device: where the fit runs.

    Raises:
        InputError: `out` exists, no photo has a vector and a cell, or too few are held out.
        BundleMismatch: the features are not of the checkpoint's encoder, or its geocells not of `old_hierarchy`.
        WorkError: the loss stopped being a number, or the disk is full.
    """
    began = time.perf_counter()
    check_target(out)
    if references < 0:
        raise InputError(f"--references must be at least 0, not {references}.")
    features, tree = open_features(sources.features), load_hierarchy(sources.hierarchy)
    encoder = _encoder_of(sources, features)
    inputs = sources.digests(features)
    learnt, others = _placements(sources, tree, config.held_out)
    start = _start(sources, features, learnt, tree, transform=transform, shrinkage=shrinkage, seed=seed)
    start = replace(start, encoder=encoder)
    held_out = _held_out(features, others, start, limit=config.held_out_photos)
    for number, level in enumerate(tree.levels):
        if len(level) == 1:
            log.warning("level %d has a single cell, which tells no photo from another", number)
    if level_weights == "fit":  # told before the fit
        check_enough_to_weigh(held_out)
    prepared = time.perf_counter()
    with VectorFile(start.width, transform=start.transform, beside=out) as photos:
        for placed in placed_batches(features, learnt, "transforming"):
            photos.add(placed)
        photos.finish()
        if not len(photos):
            raise no_photo(features)
        laid_out = time.perf_counter()
        n_photos, n_steps = len(photos), max(1, config.epochs * steps_per_epoch(photos, config))
        with track("refitting", n_steps) as advance:
            fitted, levels = fit_cells(
                start, photos, held_out, config=config, device=device, seed=seed, advance=advance
            )
    tempered = replace(start, temperatures=np.array([level.start_temperature for level in levels]))
    candidates = {START: start, TEMPERED: tempered, FITTED: fitted}
    errors = {name: errors_km(geocells, tree, held_out) for name, geocells in candidates.items()}
    if level_weights == "fit":
        candidates[WEIGHTED], errors[WEIGHTED] = weighted(fitted, tree, held_out)
    kept = choose(errors)
    fit_ended = time.perf_counter()
    table = None
    if references:
        batches = placed_batches(features, learnt, "choosing references")
        table = typical_photos(batches, candidates[kept], k=references)

    def finish(draft: Draft) -> None:
        if table is not None:
            save_references(table, draft.path)

    scores = {name: accuracy(km) for name, km in errors.items()}
    save_geocells_checkpoint(
        out,
        geocells=candidates[kept],
        encoder=sources.checkpoint,
        config={
            "refit": asdict(config),
            "transform": transform,
            "shrinkage": shrinkage,
            "level_weights": level_weights,
            "references": references,
            "split": sources.split,
            "validation_split": sources.validation_split,
            "seed": seed,
            "kept": kept,
            "held_out": {name: asdict(score) for name, score in scores.items()},
        },
        inputs=inputs,
        finish=finish,
    )
    ended = time.perf_counter()
    return RefitSummary(
        out,
        n_photos,
        len(held_out),
        kept,
        scores,
        levels,
        candidates[kept],
        0 if table is None else table.num_rows,
        ended - began,
        {
            "start": prepared - began,
            "lay out": laid_out - prepared,
            "fit": fit_ended - laid_out,
            "write": ended - fit_ended,
        },
    )


def _encoder_of(sources: RefitSources, features: FeatureSource) -> str | None:
    """Digest of the encoder the new geocells are for."""
    if sources.checkpoint is None:
        return features.encoder
    digest, advice = encoder_digest(sources.checkpoint), "Make features with that checkpoint: python -m encoder embed"
    if features.encoder is not None and features.encoder != digest:
        raise BundleMismatch(
            f"{features.location}: vectors of encoder {features.encoder[:8]}; {sources.checkpoint} holds "
            f"{digest[:8]}. {advice}"
        )
    wanted, width = encoder_width(sources.checkpoint), next((batch.embedding.shape[1] for batch in features), None)
    if width not in (None, wanted):  # nobody recorded which encoder made them
        raise BundleMismatch(
            f"{features.location}: vectors of {width} dimensions; those of {sources.checkpoint} have {wanted}. {advice}"
        )
    return digest


def _placements(sources: RefitSources, tree: Hierarchy, share: float) -> tuple[Placement, Placement]:
    """Where the photos that are fitted to lie, and where the held-out ones lie."""
    if sources.validation_split is not None:
        learnt, others = (
            Placement(tree, sources.photos, split=split) for split in (sources.split, sources.validation_split)
        )
        return learnt, others
    learnt, others = (Placement(tree, sources.photos, split=sources.split, chosen=chosen) for chosen in by_name(share))
    return learnt, others


def _start(
    sources: RefitSources,
    features: FeatureSource,
    placement: Placement,
    tree: Hierarchy,
    *,
    transform: Literal["whiten", "none"],
    shrinkage: float | None,
    seed: int,
) -> Geocells:
    if sources.old_hierarchy is None:
        return prototypes(features, placement, transform=transform, shrinkage=shrinkage, seed=seed).geocells
    assert sources.checkpoint is not None, "RefitSources checks it"
    old = load_hierarchy(sources.old_hierarchy)
    return carry_over(load_geocells(sources.checkpoint, hierarchy=old.digest), old, tree)


def _held_out(features: FeatureSource, placement: Placement, start: Geocells, *, limit: int) -> HeldOut:
    n_photos, kept = 0, list[Placed]()
    for part in placed_batches(features, placement, "holding out"):
        n_photos += len(part.cells)
        # At once: of millions of photos those held out alone would fill memory.
        together = joined_placed([*kept, part])
        kept = [together.take(np.argsort(name_keys(together.photo.tolist()), kind="stable")[:limit])]
    if n_photos < _FEWEST_HELD_OUT:
        raise InputError(
            f"{features.location}: {n_photos} held-out photos have a vector and a cell; {_FEWEST_HELD_OUT} are needed "
            "to see what a fit is worth. Raise --held-out, or name a --validation-split of --photos."
        )
    (placed,) = kept
    return HeldOut(start.compared(placed.vectors), placed.cells, placed.lat_deg, placed.lng_deg)
