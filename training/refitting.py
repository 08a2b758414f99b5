"""New geocells for an encoder that stays as it is: the stage behind `python -m training refit`.

In: features (photo vectors, made once), a hierarchy, and where to begin. Out: a checkpoint folder whose geocells belong
to that hierarchy; with a checkpoint to take it `from_` it holds that checkpoint's encoder too.

Several sets of geocells, the start among them, are judged by photos that they were not made with
(`training.cells.candidates`). What these photos choose is then made once more, from all photos: those that judged are
not lost to the geocells, and the start, where it is kept, is what a build from the same features has. Of few photos a
share would say little: they are divided into fifths by name, and each is judged by what the other four make. Of many a
share judges. A `validation_split` judges and is never fitted to.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from encoder.models.device import choose_device
from encoder.models.files import copy_encoder, encoder_digest, encoder_width
from indexer.bundles.gallery import gallery_facts
from indexer.bundles.gallery_builds import write_gallery
from indexer.cells.table import load_hierarchy
from indexer.disk.artifact import Draft, check_target, write_folder
from indexer.disk.manifest import manifest_digest
from indexer.earth.geo import Accuracy, accuracy
from indexer.errors import BundleMismatch, InputError
from indexer.jobs.progress import track
from indexer.photos.tables import table_digest
from indexer.vectors.features import FeatureSource, open_features
from indexer.vectors.geocells import (
    CHECKPOINT_KIND,
    CHECKPOINT_SCHEMA_VERSION,
    Geocells,
    load_geocells,
    save_geocells,
)
from indexer.vectors.means import carry_over
from indexer.vectors.prototypes import Placed, Placement, joined_placed, no_photo, placed_batches, prototypes
from training.cells.candidates import START, TEMPERED, WEIGHTED, check_enough_to_weigh, judge, with_weights
from training.cells.cell_fit import Fold, LevelFit, VectorFile, fit_again, fit_cells, steps_per_epoch
from training.config import RefitConfig, RefitSources
from training.photos.holding_out import by_name, folds_by_name, name_keys

log = logging.getLogger(__name__)

_FEWEST_HELD_OUT = 20  # below this nothing can be said of a fit
_FOLDS = 5  # of few photos: what is judged is made from four fifths of them


@dataclass(frozen=True, slots=True)
class RefitSummary:
    """What a refit came to."""

    checkpoint: Path
    photos: int  # that the geocells are made from
    held_out: int  # that judged the candidates
    folds: int  # in which they were held out
    kept: str  # which of the candidates (`training.cells.candidates`)
    candidates: Mapping[str, Accuracy]  # on the held-out photos
    levels: list[LevelFit]
    geocells: Geocells
    gallery: int  # photos in it
    seconds: float
    stage_seconds: Mapping[str, float]  # start (whitened means), lay out (vectors on disk), fit, fit to all, write


def refit(sources: RefitSources, out: str | Path, *, config: RefitConfig) -> RefitSummary:
    """Fit geocells to features and write a checkpoint folder, `out`.

    Raises:
        InputError: `out` exists, no photo has a vector and a cell, or too few are held out.
        BundleMismatch: the features are not of the checkpoint's encoder, or its geocells not of `old_hierarchy`.
        WorkError: the loss stopped being a number, or the disk is full.
    """
    began, out = time.perf_counter(), Path(out)
    check_target(out)
    if sources.old_hierarchy is not None and (config.transform, config.shrinkage) != ("whiten", None):
        raise InputError(
            "`transform` and `shrinkage` go with means of photo vectors, not with `old_hierarchy`. Leave them out."
        )
    device = choose_device(config.device)
    features, hierarchy = open_features(sources.features, crops=sources.crops), load_hierarchy(sources.hierarchy)
    checkpoint, photo_table = (None if path is None else Path(path) for path in (sources.from_, sources.photos))
    encoder = features.encoder if checkpoint is None else _encoder_of(checkpoint, features)
    folders = {"hierarchy": sources.hierarchy, "checkpoint": checkpoint, "old_hierarchy": sources.old_hierarchy}
    inputs = {name: None if folder is None else manifest_digest(Path(folder)) for name, folder in folders.items()}
    inputs |= {"features": features.digest, "photos": None if photo_table is None else table_digest(photo_table)}
    learnt, gallery_photos = Placement(hierarchy, photo_table, split=sources.split), None
    if config.wants_gallery:
        gallery_photos = Placement(hierarchy, photo_table, split=sources.split, owner_column=config.owner_column)
    start, n_photos = _start(sources, features, learnt, config)
    start = replace(start, encoder=encoder)
    trials = _trials(sources, features, learnt, start, n_photos=n_photos, config=config)
    held_out = [trial.held_out for trial in trials]
    for number, level in enumerate(hierarchy.levels):
        if len(level) == 1:
            log.warning("level %d has a single cell, which tells no photo from another", number)
    if config.levels_weights == "fit":  # before the fit, which takes long
        check_enough_to_weigh(held_out)
    marks = [began, time.perf_counter()]
    with ExitStack() as files:
        folds = []
        for trial in trials:
            vectors = VectorFile(placed_batches(features, trial.learnt, "transforming"), trial.start, beside=out)
            folds.append(Fold(trial.start, files.enter_context(vectors), trial.held_out))
        marks.append(time.perf_counter())
        n_steps = config.epochs * sum(steps_per_epoch(fold.photos, config) for fold in folds)
        with track("refitting", max(1, n_steps)) as advance:
            fitted, levels = fit_cells(folds, config=config, device=device, advance=advance)
    choice = judge(folds, fitted, levels, hierarchy, weigh=config.levels_weights == "fit")
    marks.append(time.perf_counter())
    if choice.kept == START:
        geocells = start
    elif choice.kept == TEMPERED or not any(level.epoch for level in levels):
        geocells = replace(start, temperatures=np.array([level.start_temperature for level in levels]))
    elif sources.validation_split is not None:  # nobody else was held out
        geocells = fitted[0]
    else:
        geocells = _fitted_to_all(features, learnt, start, levels, out, config=config, device=device)
    if choice.kept == WEIGHTED:
        assert choice.weights is not None, "they were wanted"
        geocells = with_weights(geocells, choice.weights)
    marks.append(time.perf_counter())
    scores = {name: accuracy(km) for name, km in choice.errors_km.items()}
    judged = {
        "kept": choice.kept,
        "folds": len(folds),
        "held_out": {name: asdict(score) for name, score in scores.items()},
    }
    splits = {"split": sources.split, "validation_split": sources.validation_split}
    made_by = {"refit": asdict(config), **splits, **judged}
    gallery = partial(_write_gallery, features=features, placement=gallery_photos, geocells=geocells, config=config)
    n_gallery = _write(out, geocells, gallery, encoder_of=checkpoint, config=made_by, inputs=inputs)
    marks.append(time.perf_counter())
    return RefitSummary(
        out,
        n_photos,
        sum(len(photos.cells) for photos in held_out),
        len(folds),
        choice.kept,
        scores,
        levels,
        geocells,
        n_gallery,
        marks[-1] - began,
        dict(zip(("start", "lay out", "fit", "fit to all", "write"), np.diff(marks).tolist(), strict=True)),
    )


def _fitted_to_all(
    features: FeatureSource,
    learnt: Placement,
    start: Geocells,
    levels: Sequence[LevelFit],
    out: Path,
    *,
    config: RefitConfig,
    device: torch.device,
) -> Geocells:
    """The fit that was chosen, `levels`, to the photos that judged it as well."""
    with VectorFile(placed_batches(features, learnt, "transforming"), start, beside=out) as photos:
        n_steps = max(level.epoch for level in levels) * steps_per_epoch(photos, config)
        with track("refitting to all", n_steps) as advance:
            return fit_again(start, photos, levels, config=config, device=device, advance=advance)


def _encoder_of(checkpoint: Path, features: FeatureSource) -> str:
    """Digest of the encoder of a checkpoint, which the new geocells are for."""
    digest, advice = encoder_digest(checkpoint), "Make features with that checkpoint: python -m encoder embed"
    if features.encoder is not None and features.encoder != digest:
        raise BundleMismatch(
            f"{features.location}: vectors of encoder {features.encoder[:8]}; {checkpoint} holds {digest[:8]}. {advice}"
        )
    wanted, width = encoder_width(checkpoint), next((batch.embedding.shape[1] for batch in features), None)
    if width not in (None, wanted):  # nobody recorded which encoder made them
        raise BundleMismatch(
            f"{features.location}: vectors of {width} dimensions; those of {checkpoint} have {wanted}. {advice}"
        )
    return digest


def _start(
    sources: RefitSources, features: FeatureSource, placement: Placement, config: RefitConfig
) -> tuple[Geocells, int]:
    """The geocells to begin with, and how many photos have a vector and a cell."""
    if sources.old_hierarchy is None:
        made = prototypes(features, placement, transform=config.transform, shrinkage=config.shrinkage, seed=config.seed)
        return made.geocells, made.photos
    assert sources.from_ is not None, "RefitSources checks it"
    n_photos = sum(len(placed.cells) for placed in placed_batches(features, placement, "counting"))
    if not n_photos:
        raise no_photo(features)
    old = load_hierarchy(sources.old_hierarchy)
    return carry_over(load_geocells(Path(sources.from_), hierarchy=old.digest), old, placement.hierarchy), n_photos


@dataclass(frozen=True, slots=True, eq=False)
class _Trial:
    """Photos to begin with and to fit to, and others, transformed, that judge what comes out."""

    learnt: Placement
    start: Geocells
    held_out: Placed


def _trials(
    sources: RefitSources,
    features: FeatureSource,
    learnt: Placement,
    start: Geocells,
    *,
    n_photos: int,
    config: RefitConfig,
) -> list[_Trial]:
    """The fits that the choice rests on. start: made from all of `learnt`, which are n_photos."""
    if sources.validation_split is not None:
        assert sources.photos is not None, "RefitSources checks it"
        parts = [(learnt, Placement(learnt.hierarchy, Path(sources.photos), split=sources.validation_split))]
    else:
        chosen = folds_by_name(_FOLDS) if n_photos < config.few_photos else [by_name(config.held_out)]
        parts = [(learnt.only(others), learnt.only(judges)) for others, judges in chosen]
    limit = max(1, config.held_out_photos // len(parts))
    held_out = [_held_out(features, judges, limit=limit) for _, judges in parts]
    n_held_out = sum(len(photos.cells) for photos in held_out if photos is not None)
    if n_held_out < _FEWEST_HELD_OUT:
        raise InputError(
            f"{features.location}: {n_held_out} held-out photos have a vector and a cell; {_FEWEST_HELD_OUT} are "
            "needed to see what a fit is worth. Raise `held_out` or `held_out_photos`, or name a `validation_split` of "
            "`photos`."
        )
    trials = []
    for (others, _), photos in zip(parts, held_out, strict=True):
        if photos is None:
            continue
        begin = start
        if others is not learnt and sources.old_hierarchy is None:
            # The shrinkage is one number that all photos have chosen; the rest is made without those held out.
            shrinkage = None if start.transform is None else start.transform.shrinkage
            begin = prototypes(features, others, transform=config.transform, shrinkage=shrinkage).geocells
        trials.append(_Trial(others, begin, replace(photos, vectors=begin.compared(photos.vectors))))
    return trials


def _write(
    out: Path,
    geocells: Geocells,
    gallery: Callable[[Draft], int],
    *,
    encoder_of: Path | None,
    config: Mapping[str, Any],
    inputs: Mapping[str, str | None],
) -> int:
    """Write the checkpoint folder; encoder_of: a checkpoint whose encoder goes with it.

    gallery: writes photos into it, and says how many there are, which is returned.
    """
    with write_folder(
        out, kind=CHECKPOINT_KIND, schema_version=CHECKPOINT_SCHEMA_VERSION, config=config, inputs=inputs
    ) as draft:
        if encoder_of is not None:
            copy_encoder(encoder_of, draft)
        save_geocells(draft, geocells)
        return gallery(draft)


def _write_gallery(
    draft: Draft, features: FeatureSource, placement: Placement | None, geocells: Geocells, config: RefitConfig
) -> int:
    """Write the photos of a placement into a checkpoint; how many there are, 0 where no gallery is wanted."""
    if placement is None:
        return 0
    batches = placed_batches(features, placement, "gallery", everywhere=True)
    made = write_gallery(draft.path, batches, geocells, placement.hierarchy, config, owners=placement.owners)
    draft.facts["gallery"] = gallery_facts(made.facts)
    return made.facts.photos


def _held_out(features: FeatureSource, placement: Placement, *, limit: int) -> Placed | None:
    """Held-out photos as they are, at most this many; None where there is none."""
    kept = None
    for part in placed_batches(features, placement, "holding out"):
        # At once: of millions of photos those held out alone would fill memory.
        together = part if kept is None else joined_placed([kept, part])
        kept = together.take(np.argsort(name_keys(together.photo.tolist()), kind="stable")[:limit])
    return kept
