"""Calibration: temperatures, radii and the limit of abstaining, fitted to photos that nothing else was fitted to.

In: a bundle, vectors of held-out photos, and where these were taken. Out: a `Calibration` for the way in which the
vectors were made of photos.

The product over levels is too sure of itself, because the levels say much the same. One temperature T over leaves
mends that (temperature scaling: Guo et al., ICML 2017). It is fitted to the event that a row's probability speaks of,
"the true place lies in the answered cell", by its log loss; photos taken outside all cells count, as ones that no
answer is right for: probabilities over cells add up to the share of photos that lie in one, or by photos of a gallery
to how likely this one does (`Calibration.inside_by_photos`). Albums have T n**growth for n photos.

Radii are calibrated as conformal prediction does it (Vovk et al., Algorithmic Learning in a Random World, 2005): of
each held-out photo it is known what share of its posterior lies no farther from the answer than the true place does. A
disc that holds the share that nine in ten of them stay below holds nine in ten places of photos like these, whatever is
wrong with the posterior. So it is for each kind of point that answers may have. A photo scores unlike the held-out ones
when its best cell does below a hundredth of theirs.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from encoder.models.device import choose_device
from indexer.bundles.bundle import Bundle, calibrated_bundle
from indexer.bundles.faiss_index import flat_index
from indexer.bundles.registry import Registry
from indexer.photos.tables import table_digest
from indexer.vectors.calibration import PROTOCOL_TEXTS, Calibration, Protocol, protocol_of
from indexer.vectors.features import open_features
from indexer.vectors.level_weights import fit_level_weights
from indexer.vectors.scoring import leaf_vectors
from search.answers.engine import Engine
from search.answers.options import DEFAULT_OPTIONS
from search.answers.points import points_of_bundle
from search.calibration.cell_calibration import Fitted, fit_calibration
from search.calibration.held_out import held_out
from search.calibration.photo_calibration import PhotoCalibration, calibrate_photos
from search.evaluation.options import CalibrateConfig

log = logging.getLogger(__name__)

_DEFAULT = CalibrateConfig()


@dataclass(frozen=True, slots=True, eq=False)
class CalibratedVersion:
    """A new version of a bundle."""

    version: str
    protocol: Protocol
    fitted: Fitted  # of cells alone
    photos: PhotoCalibration | None  # of photos and cells together, where the bundle has a gallery


def calibrate(
    registry: str | Path, features: str | Path, truth: str | Path, *, config: CalibrateConfig = _DEFAULT
) -> CalibratedVersion:
    """Calibrate a bundle for the photos of a features folder, and write it as a new version beside it.

    truth: table with photo, lat, lng, or a folder of photos whose metadata say where they were taken. The version
    becomes the current one with `Registry.publish`.

    Raises:
        InputError: too few photos, a table that cannot be used, or crops that the features were not made with.
        BundleMismatch: vectors of another encoder.
        WorkError: the disk is full.
    """
    source, truth = open_features(features, crops=config.crops), Path(truth)
    engine = Engine.open(registry, version=config.version, device=config.device)
    bundle, model = engine.bundle, engine.bundle.model
    engine.check_encoder(source.encoder, source=str(source.location))
    split, album = config.split, config.album
    protocol: Protocol = "album" if album is not None else protocol_of(source)
    sample = held_out(bundle, source, truth, split=split, album=album)
    calibrations, geocells = _that_hold(bundle), None
    if config.fit_weights:
        geocells = fit_level_weights(model, sample.queries, sample.leaf)
        model, calibrations = replace(model, geocells=geocells), {}
    fitted = fit_calibration(
        model,
        points_of_bundle(bundle, photos=False),
        sample,
        device=choose_device(config.device),
        resampling=config.resampling,
    )
    photos = None
    if DEFAULT_OPTIONS.uses_gallery(bundle):
        scored = (
            bundle if geocells is None else replace(bundle, model=model, leaf_index=flat_index(leaf_vectors(model)))
        )
        photos = calibrate_photos(
            scored,
            sample,
            fitted.calibration,
            protocol=protocol,
            device=config.device,
            resampling=config.resampling,
        )
    of_photos = None if photos is None else photos.fitted.calibration
    calibrations[protocol] = replace(fitted.calibration, with_photos=of_photos)
    lost = [name for name, each in calibrations.items() if of_photos is not None and each.with_photos is None]
    if lost:
        log.warning(
            "the gallery changed since the calibration for %s: with its photos that has to be calibrated again, too",
            ", ".join(PROTOCOL_TEXTS[name] for name in lost),
        )
    folder = calibrated_bundle(
        bundle,
        Registry(registry).versions_folder,
        calibrations,
        config={"protocol": protocol, "split": split, "album": album, "fit_weights": config.fit_weights},
        inputs={"calibration_features": source.digest, "calibration_truth": table_digest(truth)},
        geocells=geocells,
        photos=sample.queries,
    )
    return CalibratedVersion(folder.name, protocol, fitted, photos)


def _that_hold(bundle: Bundle) -> dict[Protocol, Calibration]:
    """The calibrations of a bundle, but those of photos where too many of its gallery's have changed since."""
    if bundle.gallery is None or bundle.gallery.facts.keeps_calibrations:
        return dict(bundle.calibrations)
    return {name: replace(each, with_photos=None) for name, each in bundle.calibrations.items()}
