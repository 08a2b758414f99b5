"""New geocells for an encoder that stays as it is: the stage behind `python -m training refit`.

In: features (photo vectors, made once), a hierarchy, and where to begin. Out: a checkpoint folder whose geocells belong
to that hierarchy; with a checkpoint to take it `from_` it holds that checkpoint's encoder too.

Photos are divided by name into those that are fitted to and those held out, or as the splits of a table say. By these
several sets of geocells are judged (`training.candidates`), the start among them.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from encoder.device import choose_device
from encoder.model_files import copy_encoder, encoder_digest, encoder_width
from indexer.bundles.gallery import gallery_facts
from indexer.bundles.gallery_builds import write_gallery
from indexer.cells.hierarchy import Hierarchy
from indexer.cells.table import load_hierarchy
from indexer.disk.artifact import Draft, check_target, write_folder
from indexer.disk.manifest import file_digest, manifest_digest
from indexer.earth.geo import Accuracy, accuracy
from indexer.errors import BundleMismatch, InputError
from indexer.jobs.progress import track
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
from training.candidates import FITTED, START, TEMPERED, WEIGHTED, check_enough_to_weigh, choose, errors_km, weighted
from training.cell_fit import LevelFit, VectorFile, fit_cells, steps_per_epoch
from training.config import RefitConfig, RefitSources
from training.holding_out import NameFilter, by_name, name_keys

log = logging.getLogger(__name__)

_FEWEST_HELD_OUT = 20  # below this nothing can be said of a fit


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
    gallery: int  # photos in it
    seconds: float
    stage_seconds: Mapping[str, float]  # start (whitened means), lay out (vectors on disk), fit, write


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
    features, hierarchy = open_features(sources.features), load_hierarchy(sources.hierarchy)
    checkpoint, photo_table = (None if path is None else Path(path) for path in (sources.from_, sources.photos))
    encoder = features.encoder if checkpoint is None else _encoder_of(checkpoint, features)
    folders = {"hierarchy": sources.hierarchy, "checkpoint": checkpoint, "old_hierarchy": sources.old_hierarchy}
    inputs = {name: None if folder is None else manifest_digest(Path(folder)) for name, folder in folders.items()}
    inputs |= {"features": features.digest, "photos": None if photo_table is None else file_digest(photo_table)}
    learnt, others = _placements(photo_table, sources, hierarchy, config.held_out)
    gallery_photos = None
    if config.wants_gallery:  # also those that are held out by name: nothing is measured on them afterwards
        gallery_photos = Placement(hierarchy, photo_table, split=sources.split, owner_column=config.owner_column)
    start = replace(_start(sources, features, learnt, hierarchy, config), encoder=encoder)
    held_out = _held_out(features, others, start, limit=config.held_out_photos)
    for number, level in enumerate(hierarchy.levels):
        if len(level) == 1:
            log.warning("level %d has a single cell, which tells no photo from another", number)
    if config.levels_weights == "fit":  # before the fit, which takes long
        check_enough_to_weigh(held_out)
    prepared = time.perf_counter()
    with VectorFile(placed_batches(features, learnt, "transforming"), start, beside=out) as photos:
        if not len(photos):
            raise no_photo(features)
        laid_out = time.perf_counter()
        n_photos, n_steps = len(photos), max(1, config.epochs * steps_per_epoch(photos, config))
        with track("refitting", n_steps) as advance:
            fitted, levels = fit_cells(start, photos, held_out, config=config, device=device, advance=advance)
    tempered = replace(start, temperatures=np.array([level.start_temperature for level in levels]))
    candidates = {START: start, TEMPERED: tempered, FITTED: fitted}
    errors = {name: errors_km(geocells, hierarchy, held_out) for name, geocells in candidates.items()}
    if config.levels_weights == "fit":
        candidates[WEIGHTED], errors[WEIGHTED] = weighted(fitted, hierarchy, held_out)
    kept, scores = choose(errors), {name: accuracy(km) for name, km in errors.items()}
    fit_ended = time.perf_counter()
    judged = {"kept": kept, "held_out": {name: asdict(score) for name, score in scores.items()}}
    splits = {"split": sources.split, "validation_split": sources.validation_split}
    made_by = {"refit": asdict(config), **splits, **judged}
    gallery = partial(
        _write_gallery, features=features, placement=gallery_photos, geocells=candidates[kept], config=config
    )
    n_gallery = _write(out, candidates[kept], gallery, encoder_of=checkpoint, config=made_by, inputs=inputs)
    marks = np.array([began, prepared, laid_out, fit_ended, time.perf_counter()])
    return RefitSummary(
        out,
        n_photos,
        len(held_out.cells),
        kept,
        scores,
        levels,
        candidates[kept],
        n_gallery,
        float(marks[-1] - began),
        dict(zip(("start", "lay out", "fit", "write"), np.diff(marks).tolist(), strict=True)),
    )


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


def _placements(
    photos: Path | None, sources: RefitSources, hierarchy: Hierarchy, share: float
) -> tuple[Placement, Placement]:
    """Where the photos that are fitted to lie, and where the held-out ones lie."""
    parts: Iterable[tuple[str | None, NameFilter | None]] = [(sources.split, chosen) for chosen in by_name(share)]
    if sources.validation_split is not None:
        parts = (sources.split, None), (sources.validation_split, None)
    learnt, others = (Placement(hierarchy, photos, split=split, chosen=chosen) for split, chosen in parts)
    return learnt, others


def _start(
    sources: RefitSources, features: FeatureSource, placement: Placement, hierarchy: Hierarchy, config: RefitConfig
) -> Geocells:
    if sources.old_hierarchy is None:
        return prototypes(
            features, placement, transform=config.transform, shrinkage=config.shrinkage, seed=config.seed
        ).geocells
    assert sources.from_ is not None, "RefitSources checks it"
    old = load_hierarchy(sources.old_hierarchy)
    return carry_over(load_geocells(Path(sources.from_), hierarchy=old.digest), old, hierarchy)


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


def _held_out(features: FeatureSource, placement: Placement, start: Geocells, *, limit: int) -> Placed:
    n_photos, kept = 0, None
    for part in placed_batches(features, placement, "holding out"):
        n_photos += len(part.cells)
        # At once: of millions of photos those held out alone would fill memory.
        together = part if kept is None else joined_placed([kept, part])
        kept = together.take(np.argsort(name_keys(together.photo.tolist()), kind="stable")[:limit])
    if kept is None or n_photos < _FEWEST_HELD_OUT:
        raise InputError(
            f"{features.location}: {n_photos} held-out photos have a vector and a cell; {_FEWEST_HELD_OUT} are needed "
            "to see what a fit is worth. Raise `held_out`, or name a `validation_split` of `photos`."
        )
    return replace(kept, vectors=start.compared(kept.vectors))
