"""The calibration of photos and cells together: how photos count, radii and the limit of abstaining.

In: a bundle with a gallery, held-out queries, what was fitted of cells alone. Out: a `Calibration` that has a `fit`.
How photos count is fitted by `search.calibration.photo_numbers`; what its answers promise is counted here, on queries
that it was not fitted to.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from encoder.config import DeviceName
from indexer.bundles.bundle import Bundle
from indexer.bundles.gallery import Gallery
from indexer.earth.geo import haversine_km
from indexer.errors import InputError
from indexer.vectors.calibration import Calibration, Protocol, stored_nonconformities
from search.answers.engine import Engine
from search.answers.points import AnswerPoints, CapPoints, points_of_bundle, usual_mass_km
from search.calibration.cell_calibration import Check, Fitted, joined_checks, share_up_to, true_nonconformity
from search.calibration.held_out import HeldOutQueries
from search.calibration.photo_numbers import PhotoFitting, RerankerGain, found_of
from search.evaluation.options import Resampling
from search.retrieval.gallery_lists import NearPhotos

log = logging.getLogger(__name__)

_SEEN_COSINE, _SEEN_KM, _SEEN_MOST = 0.98, 1.0, 0.05


@dataclass(frozen=True, slots=True)
class PhotoCalibration:
    """What was fitted, and how much may be thought of it."""

    fitted: Fitted  # before: with the numbers of `usual_photo_fit`
    left_out: int  # held-out queries that are in the gallery themselves
    gain: RerankerGain | None  # of the reranker that was tried


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
    fitting = PhotoFitting(bundle, cells, protocol=protocol, device=device, resampling=resampling)
    sample = sample.take(sample.order)  # a reranker depends on the order of what it learns from, but for rounding
    near = fitting.near(sample)
    seen = _seen(fitting.gallery, sample, near)
    if seen.mean() > _SEEN_MOST:
        raise InputError(
            f"{int(seen.sum())} of {len(seen)} held-out photos are in the gallery, by name or by vector and place: "
            "what is fitted to them says nothing of other photos. Give photos that the bundle was not built from."
        )
    unseen = np.flatnonzero(~seen)
    sample, near = sample.take(unseen), near.take(unseen)
    division = sample.divided()
    times = "once for all and once for each fifth" if division.approximate else "by half of them"
    log.info("fitting how photos count to %s queries, %s: that may take minutes", f"{len(sample):,}", times)
    if division.approximate:  # each fifth says what the fit to the others promises, with a reranker where all have one
        numbers = fitting(sample, near)
        reranked = numbers.reranker is not None
        fits = [fitting(sample.take(rows), near.take(rows), reranked=reranked) for rows, _ in division.parts]
    else:
        fits = [fitting(sample.take(rows), near.take(rows)) for rows, _ in division.parts]
        numbers = fits[0]
    promised = [sample.take(rows) for _, rows in division.parts]
    log.info("counting what answers promise")
    points = points_of_bundle(bundle, photos=True)
    before = joined_checks([_check(fitting.engine(fitting.start), {}, part) for part in promised])
    parts = zip(promised, fits, strict=True)
    check = joined_checks([_check(fitting.engine(each), points, part) for part, each in parts])
    calibration = Calibration(
        temperature=numbers.temperature,
        growth=cells.growth,
        inside=cells.inside,
        masses=check.masses(),
        mass_km=usual_mass_km(bundle.hierarchy),
        cap_km=bundle.precision_cap_km,
        least_score=check.least_score(),
        queries=len(sample),
        approximate=division.approximate,
        nonconformities=stored_nonconformities(check.nonconformity),
        fit=numbers.fit,
        in_leaves=numbers.in_leaves,
        reranker=numbers.reranker,
    )
    reliabilities = (each.reliability(resampling) for each in (before, check))
    return PhotoCalibration(Fitted(calibration, *reliabilities), int(seen.sum()), numbers.gain)


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


def _check(engine: Engine, points: Mapping[str, AnswerPoints | CapPoints], sample: HeldOutQueries) -> Check:
    """How answers compare with the truth. points: as for cells alone, of all kinds or of none."""
    shares = {name: np.empty(len(sample)) for name in points}
    probability, score, nonconformity = np.full((3, len(sample)), np.nan)
    right = np.empty(len(sample), bool)
    for block, found in found_of(engine, sample):
        answer = found.hits.leaf[:, 0]
        assert found.posterior is not None, "photos need it"
        assert found.evidence is not None, "photos count"
        for name, kind in points.items():
            shares[name][block] = share_up_to(kind, answer, found.posterior, found.evidence, sample, block)
        probability[block] = engine.inside_by_photos(found.evidence) * found.posterior.likeliest(1)[1][:, 0]
        right[block] = answer == sample.leaf[block]
        score[block] = found.hits.score[:, 0]
        if points:
            nonconformity[block] = true_nonconformity(found.evidence.density, sample, block)
    return Check(probability, right, shares, score / sample.n_photos, nonconformity)
