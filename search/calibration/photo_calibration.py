"""The calibration of photos and cells together: how photos count, radii and the limit of abstaining.

In: a bundle with a gallery, held-out queries, what was fitted of cells alone. Out: a `Calibration` that has a `fit`.

What makes the true place likeliest is fitted first (`search.calibration.photo_fit`). Then, by the answers themselves,
how wide bells are for pointing, where errors are least; and how many lists are looked at, so that they hold 99 % of the
weight that a look at all photos finds, and that 99 % of answers stay where they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from encoder.config import DeviceName
from encoder.device import choose_device
from indexer.bundles.bundle import Bundle
from indexer.bundles.gallery import Gallery
from indexer.bundles.list_choice import LISTS, WEIGHT
from indexer.earth.geo import haversine_km, lat_lng
from indexer.errors import InputError
from indexer.vectors.calibration import Calibration, PhotoFit, Protocol, usual_photo_fit
from indexer.vectors.scoring import leaf_vectors, scores_of
from search.answers.engine import Engine, Found
from search.answers.options import GalleryName, SearchOptions
from search.answers.photo_evidence import PhotoEvidence
from search.answers.points import points_of_bundle, usual_mass_km
from search.answers.recall import STAYED, held_and_moved
from search.calibration.cell_calibration import Check, Fitted, joined_checks, share_up_to
from search.calibration.held_out import HeldOutQueries
from search.calibration.photo_fit import MOST_NEAR, PhotoSample, fit_photos
from search.evaluation.options import Resampling
from search.retrieval.exact import ExactSearch
from search.retrieval.gallery_lists import GalleryLists, NearPhotos
from search.retrieval.proof import tensor_of

_ALL_LOOKED_AT = 1 << 18  # photos of a gallery that is looked at whole for a fit; of larger ones the best lists
_MOST_LISTS = 512
_SAME = 0.99  # of answers that must stay where they are with fewer lists
_POINT_WIDTHS = np.geomspace(0.25, 4, 9)  # of bells for pointing, in those of the median leaf
_SEEN_COSINE, _SEEN_KM, _SEEN_MOST = 0.98, 1.0, 0.05
_TOGETHER = 1024  # queries that are answered together
_ENOUGH = 2000  # queries to choose how wide and how many by


@dataclass(frozen=True, slots=True)
class PhotoCalibration:
    """What was fitted, and how much may be thought of it."""

    fitted: Fitted  # before: with the numbers of `usual_photo_fit`
    left_out: int  # held-out queries that are in the gallery themselves


def calibrate_photos(
    bundle: Bundle,
    sample: HeldOutQueries,
    cells: Calibration,
    *,
    protocol: Protocol,
    device: DeviceName,
    resampling: Resampling,
) -> PhotoCalibration:
    """Fit how photos count in answers from a bundle that has some.

    cells: the calibration of its cells alone. protocol: how the queries are made of photos.

    Raises:
        InputError: more than 5 % of the held-out queries are in the gallery themselves.
    """
    gallery, model, leaves = bundle.gallery, bundle.model, bundle.hierarchy.leaves
    assert gallery is not None, "without one there are cells alone"
    lists, width_km = GalleryLists(gallery), leaves.median_width_km
    search = ExactSearch(model, tensor_of(leaf_vectors(model)).to(choose_device(device)), low_precision=False)
    everywhere = len(gallery) <= _ALL_LOOKED_AT
    most_lists = min(_MOST_LISTS, model.n_leaves)
    looked_at = None if everywhere else search(sample.queries, most_lists).leaf
    near = lists.nearest(sample.queries, looked_at, near=MOST_NEAR)
    seen = _seen(gallery, sample, near)
    if seen.mean() > _SEEN_MOST:
        raise InputError(
            f"{int(seen.sum())} of {len(seen)} held-out photos are in the gallery, by name or by vector and place: "
            "what is fitted to them says nothing of other photos. Give photos that the bundle was not built from."
        )
    unseen = np.flatnonzero(~seen)
    sample, near = sample.take(unseen), near.take(unseen)
    division, start = sample.divided(), usual_photo_fit(width_km)

    def engine(fit: PhotoFit, temperature: float, how: GalleryName = "lists") -> Engine:
        return _engine(bundle, fit, temperature, cells.growth, protocol=protocol, device=device, gallery=how)

    def fitted_to(rows: np.ndarray) -> tuple[PhotoFit, float]:
        part, of_part = sample.take(rows), near.take(rows)
        known = PhotoSample(
            part,
            near=of_part,
            leaf_score=scores_of(model, part.queries, np.maximum(of_part.leaf, 0)),
            gallery=gallery,
            leaves=leaves,
            with_photos=lists.sizes > 0,
            search=search,
        )
        fit, temperature = fit_photos(
            known, start, temperature=cells.temperature, growth=cells.growth, leaf_width_km=width_km
        )
        few = part.take(np.arange(min(len(part), _ENOUGH)))
        fit = replace(fit, lists=most_lists)
        whole = _evidence(engine(fit, temperature, "all" if everywhere else "lists"), few)
        widths = np.maximum(width_km * _POINT_WIDTHS, 0.02).tolist()
        fit = replace(fit, point_width_km=min(widths, key=lambda width: _error(whole, few, width)))
        whole = [evidence.pointing(fit.point_width_km) for evidence in whole]
        for number in LISTS:
            fewer = replace(fit, lists=number)
            if number < most_lists and _holds_enough(whole, _evidence(engine(fewer, temperature), few), fit):
                return fewer, temperature
        return fit, temperature

    fits = [fitted_to(rows) for rows, _ in division.parts]
    fit, temperature = fitted_to(np.arange(len(sample))) if division.approximate else fits[0]
    promised = [sample.take(rows) for _, rows in division.parts]
    before = joined_checks([_check(engine(start, cells.temperature), part) for part in promised])
    check = joined_checks([_check(engine(*each), part) for part, each in zip(promised, fits, strict=True)])
    calibration = Calibration(
        temperature=temperature,
        growth=cells.growth,
        inside=sample.inside,
        masses=check.masses(),
        mass_km=usual_mass_km(bundle.hierarchy),
        least_score=check.least_score(),
        queries=len(sample),
        approximate=division.approximate,
        fit=fit,
    )
    reliabilities = (each.reliability(sample.inside, resampling) for each in (before, check))
    return PhotoCalibration(Fitted(calibration, *reliabilities), int(seen.sum()))


def _seen(gallery: Gallery, sample: HeldOutQueries, near: NearPhotos) -> np.ndarray:
    """Which queries are in the gallery, by name, or by a photo of the same place that is nearly the same: (N,) bool.

    Of an album the name of one photo is enough.
    """
    names = pa.array([name for each in sample.names for name in each], pa.string())
    found = pc.is_in(names, value_set=gallery.texts("photo").combine_chunks()).to_numpy(zero_copy_only=False)
    query = np.repeat(np.arange(len(sample)), [len(each) for each in sample.names])
    by_name = np.bincount(query, found, minlength=len(sample)) > 0
    row = np.maximum(near.row[:, 0], 0)
    cosine = near.similarity[:, 0] / np.linalg.norm(sample.queries, axis=1)
    km = haversine_km(sample.lat_deg, sample.lng_deg, gallery.lat_deg[row], gallery.lng_deg[row])
    alike = (near.row[:, 0] >= 0) & (cosine > _SEEN_COSINE) & (km < _SEEN_KM)
    return np.asarray(by_name | alike)


def _engine(
    bundle: Bundle,
    fit: PhotoFit,
    temperature: float,
    growth: float,
    *,
    protocol: Protocol,
    device: DeviceName,
    gallery: GalleryName,
) -> Engine:
    """Answers by these numbers, by exact search, whatever way the bundle is searched."""
    # What discs hold, and when answers abstain, is what they are asked for.
    of_photos = Calibration(
        temperature=temperature,
        growth=growth,
        inside=1.0,
        masses={"cell": (0.0, 1.0)},
        mass_km=usual_mass_km(bundle.hierarchy),
        least_score=0.0,
        queries=0,
        fit=fit,
    )
    calibrations = {protocol: replace(of_photos, fit=None, with_photos=of_photos)}
    options = SearchOptions(mode="exact", gallery=gallery, radii=False)
    return Engine(replace(bundle, calibrations=calibrations), device=device, options=options, protocol=protocol)


def _found(engine: Engine, sample: HeldOutQueries) -> Sequence[tuple[slice, Found]]:
    blocks = [slice(start, start + _TOGETHER) for start in range(0, len(sample), _TOGETHER)]
    return [(block, engine.find(sample.queries[block], n_photos=sample.n_photos[block])) for block in blocks]


def _evidence(engine: Engine, sample: HeldOutQueries) -> list[PhotoEvidence]:
    return [found.evidence for _, found in _found(engine, sample) if found.evidence is not None]


def _error(whole: Sequence[PhotoEvidence], sample: HeldOutQueries, width_km: float) -> float:
    """The mean of log(1 + km) between true places and where bells of this width let answers point."""
    points = np.concatenate([evidence.pointing(width_km).points for evidence in whole])
    there = np.concatenate([evidence.there for evidence in whole])
    lat, lng = lat_lng(points[there])
    return float(np.log1p(haversine_km(lat, lng, sample.lat_deg[there], sample.lng_deg[there])).mean())


def _holds_enough(whole: Sequence[PhotoEvidence], few: Sequence[PhotoEvidence], fit: PhotoFit) -> bool:
    """Whether fewer lists hold the weight of all photos, and let answers stay where these have them."""
    parts = [held_and_moved(of_all, of_few) for of_all, of_few in zip(whole, few, strict=True)]
    held, moved_km = (np.concatenate(each) for each in zip(*parts, strict=True))
    stay = moved_km <= STAYED * fit.point_width_km
    return bool(held.mean() >= WEIGHT and stay.mean() >= _SAME)


def _check(engine: Engine, sample: HeldOutQueries) -> Check:
    """How answers compare with the truth."""
    kinds = points_of_bundle(engine.bundle, photos=True)
    shares = {name: np.empty(len(sample)) for name in kinds}
    probability, right, score = np.empty(len(sample)), np.empty(len(sample), bool), np.empty(len(sample))
    for block, found in _found(engine, sample):
        answer = found.hits.leaf[:, 0]
        assert found.posterior is not None, "photos need it"
        for name, kind in kinds.items():
            shares[name][block] = share_up_to(kind, answer, found.posterior, found.evidence, sample, block)
        probability[block], right[block] = found.hits.probability[:, 0], answer == sample.leaf[block]
        score[block] = found.hits.score[:, 0]
    return Check(probability, right, shares, score / sample.n_photos)
