"""New geocells for an encoder that stays as it is: the stage behind `python -m training refit`.

In: features (photo vectors, made once), a hierarchy, and where to begin. Out: a checkpoint folder whose geocells belong
to that hierarchy; with a checkpoint to take it `from_` it holds that checkpoint's encoder too.

Photos are divided by name into those that are fitted to and those held out, or as the splits of a table say. By these
several sets of geocells are judged (`training.candidates`), the start among them.
"""

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from encoder.device import choose_device
from encoder.model_files import copy_encoder, encoder_digest, encoder_width
from indexer.bundles.gallery import gallery_facts
from indexer.bundles.gallery_builds import write_gallery
from indexer.cells.hierarchy import Hierarchy
from indexer.cells.table import load_hierarchy
from indexer.disk.artifact import check_target, write_folder
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


def refit(sources: RefitSources, out: Path, *, config: RefitConfig) -> RefitSummary:
    """Fit geocells to features and write a checkpoint folder, `out`.

    Raises:
        InputError: `out` exists, no photo has a vector and a cell, or too few are held out.
        BundleMismatch: the features are not of the checkpoint's encoder, or its geocells not of `old_hierarchy`.
        WorkError: the loss stopped being a number, or the disk is full.
    """
    began = time.perf_counter()
    check_target(out)
    if sources.old_hierarchy is not None and (config.transform, config.shrinkage) != ("whiten", None):
        raise InputError(
            "`transform` and `shrinkage` go with means of photo vectors, not with `old_hierarchy`. Leave them out."
        )
    device = choose_device(config.device)
    features, tree = open_features(sources.features), load_hierarchy(sources.hierarchy)
    encoder = _encoder_of(sources, features)
    folders = {"hierarchy": sources.hierarchy, "checkpoint": sources.from_, "old_hierarchy": sources.old_hierarchy}
    inputs = {name: None if folder is None else manifest_digest(folder) for name, folder in folders.items()}
    inputs |= {"features": features.digest, "photos": None if sources.photos is None else file_digest(sources.photos)}
    learnt, others = _placements(sources, tree, config.held_out)
    gallery_photos = None
    if config.wants_gallery:  # also those that are held out by name: nothing is measured on them afterwards
        gallery_photos = Placement(tree, sources.photos, split=sources.split, owner_column=config.owner_column)
    start = replace(_start(sources, features, learnt, tree, config), encoder=encoder)
    held_out = _held_out(features, others, start, limit=config.held_out_photos)
    for number, level in enumerate(tree.levels):
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
    errors = {name: errors_km(geocells, tree, held_out) for name, geocells in candidates.items()}
    if config.levels_weights == "fit":
        candidates[WEIGHTED], errors[WEIGHTED] = weighted(fitted, tree, held_out)
    kept = choose(errors)
    fit_ended = time.perf_counter()
    n_gallery = 0
    scores = {name: accuracy(km) for name, km in errors.items()}
    made_by = {
        "refit": asdict(config),
        "split": sources.split,
        "validation_split": sources.validation_split,
        "kept": kept,
        "held_out": {name: asdict(score) for name, score in scores.items()},
    }
    with write_folder(
        out, kind=CHECKPOINT_KIND, schema_version=CHECKPOINT_SCHEMA_VERSION, config=made_by, inputs=inputs
    ) as draft:
        if sources.from_ is not None:
            copy_encoder(sources.from_, draft)
        save_geocells(draft, candidates[kept])
        if gallery_photos is not None:
            batches = placed_batches(features, gallery_photos, "gallery", everywhere=True)
            made = write_gallery(draft.path, batches, candidates[kept], tree, config, owners=gallery_photos.owners)
            draft.facts["gallery"], n_gallery = gallery_facts(made.facts), made.facts.photos
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


def _encoder_of(sources: RefitSources, features: FeatureSource) -> str | None:
    """Digest of the encoder the new geocells are for."""
    if sources.from_ is None:
        return features.encoder
    digest, advice = encoder_digest(sources.from_), "Make features with that checkpoint: python -m encoder embed"
    if features.encoder is not None and features.encoder != digest:
        raise BundleMismatch(
            f"{features.location}: vectors of encoder {features.encoder[:8]}; {sources.from_} holds "
            f"{digest[:8]}. {advice}"
        )
    wanted, width = encoder_width(sources.from_), next((batch.embedding.shape[1] for batch in features), None)
    if width not in (None, wanted):  # nobody recorded which encoder made them
        raise BundleMismatch(
            f"{features.location}: vectors of {width} dimensions; those of {sources.from_} have {wanted}. {advice}"
        )
    return digest


def _placements(sources: RefitSources, tree: Hierarchy, share: float) -> tuple[Placement, Placement]:
    """Where the photos that are fitted to lie, and where the held-out ones lie."""
    parts: Iterable[tuple[str | None, NameFilter | None]] = [(sources.split, chosen) for chosen in by_name(share)]
    if sources.validation_split is not None:
        parts = (sources.split, None), (sources.validation_split, None)
    learnt, others = (Placement(tree, sources.photos, split=split, chosen=chosen) for split, chosen in parts)
    return learnt, others


def _start(
    sources: RefitSources, features: FeatureSource, placement: Placement, tree: Hierarchy, config: RefitConfig
) -> Geocells:
    if sources.old_hierarchy is None:
        return prototypes(
            features, placement, transform=config.transform, shrinkage=config.shrinkage, seed=config.seed
        ).geocells
    assert sources.from_ is not None, "RefitSources checks it"
    old = load_hierarchy(sources.old_hierarchy)
    return carry_over(load_geocells(sources.from_, hierarchy=old.digest), old, tree)


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
