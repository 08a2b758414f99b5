"""Calibration: temperatures, radii and the limit of abstaining, fitted to photos that nothing else was fitted to.

In: a bundle, vectors of held-out photos, and where these were taken. Out: a `Calibration` for the way in which the
vectors were made of photos.

The product over levels is too sure of itself, because the levels say much the same. One temperature T over leaves
mends that (temperature scaling: Guo et al., ICML 2017). It is fitted to the event that a row's probability speaks of,
"the true place lies in the answered cell", by its log loss; photos taken outside all cells count, as ones that no
answer is right for: probabilities over cells add up to the share of photos that lie in one. Albums have T n**growth for
n photos.

Radii are calibrated as conformal prediction does it (Vovk et al., Algorithmic Learning in a Random World, 2005): of
each held-out photo it is known what share of its posterior lies no farther from the answer than the true place does. A
disc that holds the share that nine in ten of them stay below holds nine in ten places of photos like these, whatever is
wrong with the posterior. So it is for each kind of point that answers may have. A photo scores unlike the held-out ones
when its best cell does below a hundredth of theirs.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from encoder.device import choose_device
from indexer.bundles.bundle import Bundle, calibrated_bundle
from indexer.bundles.registry import Registry
from indexer.cells.labels import label_columns, locate_labels
from indexer.disk.manifest import file_digest
from indexer.earth.geo import haversine_km, lat_lng, unit_vectors
from indexer.errors import InputError
from indexer.jobs.progress import track
from indexer.photos.tables import read_columns
from indexer.vectors.calibration import Calibration, Protocol, protocol_of
from indexer.vectors.cell_sums import CellSums
from indexer.vectors.features import FeatureSource, open_features
from indexer.vectors.level_weights import fit_level_weights
from indexer.vectors.scoring import ScoringModel, leaf_vectors
from search.answers.album import albums_of_table
from search.answers.engine import Engine
from search.answers.options import PointName
from search.answers.points import AnswerPoints, points_of_bundle
from search.answers.radii import share_within
from search.evaluation.options import CalibrateConfig, Resampling
from search.evaluation.reliability import Reliability, reliability
from search.evaluation.truth import read_truth
from search.retrieval.exact import ExactSearch
from search.retrieval.posterior import posterior_of
from search.retrieval.proof import tensor_of

log = logging.getLogger(__name__)

FEWEST = 100  # queries: with fewer, nine in ten are a matter of luck
_ABSTAIN_SHARE = 0.01  # of photos like the held-out ones, whose answers abstain
_TEMPERATURES = np.geomspace(0.02, 50, 35)
_CLOSER, _CLOSER_STEPS = 0.25, 15  # then, in log T, around the best of these
_GROWTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
_DEFAULT = CalibrateConfig()


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutQueries:
    """Queries whose true places are known: photos, or albums."""

    queries: np.ndarray  # (N, D) float32, as `Engine.search_prepared` takes them
    n_photos: np.ndarray  # (N,) int64, that each is made of
    lat_deg: np.ndarray  # (N,) float64
    lng_deg: np.ndarray  # (N,) float64
    leaf: np.ndarray  # (N,) int64, the leaf of the true place, -1 for outside all

    def __len__(self) -> int:
        return len(self.queries)


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """What a calibration came to."""

    calibration: Calibration
    before: Reliability  # at T = 1, on the held-out queries themselves
    after: Reliability


@dataclass(frozen=True, slots=True, eq=False)
class CalibratedVersion:
    """A new version of a bundle."""

    version: str
    protocol: Protocol
    fitted: Fitted


def calibrate(
    registry: str | Path, features: str | Path, truth: str | Path, *, config: CalibrateConfig = _DEFAULT
) -> CalibratedVersion:
    """Calibrate a bundle for the photos of a features folder, and write it as a new version beside it.

    truth: table with photo, lat, lng. The version becomes the current one with `Registry.publish`.

    Raises:
        InputError: too few photos, a table that cannot be used, or crops that the features were not made with.
        BundleMismatch: vectors of another encoder.
        WorkError: the disk is full.
    """
    source, truth = open_features(features), Path(truth)
    engine = Engine.open(registry, version=config.version, device=config.device)
    bundle, model = engine.bundle, engine.bundle.model
    engine.check_encoder(source.encoder, source=str(source.location))
    crops, split, album = config.crops, config.split, config.album
    if crops is not None and source.crops not in (None, crops):
        raise InputError(f"{features}: its vectors are of `crops` {source.crops}, not {crops}. Leave `crops` out.")
    protocol: Protocol = "album" if album is not None else crops or protocol_of(source)
    sample = held_out(bundle, source, truth, split=split, album=album)
    calibrations, geocells = dict(bundle.calibrations), None
    if config.fit_weights:
        geocells = fit_level_weights(model, sample.queries, sample.leaf)
        model, calibrations = replace(model, geocells=geocells), {}
    device = choose_device(config.device)
    fitted = fit_calibration(model, points_of_bundle(bundle), sample, device=device, resampling=config.resampling)
    calibrations[protocol] = fitted.calibration
    folder = calibrated_bundle(
        bundle,
        Registry(registry).versions_folder,
        calibrations,
        config={"protocol": protocol, "split": split, "album": album, "fit_weights": config.fit_weights},
        inputs={"calibration_features": source.digest, "calibration_truth": file_digest(truth)},
        geocells=geocells,
        photos=sample.queries,
    )
    return CalibratedVersion(folder.name, protocol, fitted)


def held_out(
    bundle: Bundle, features: FeatureSource, truth: Path, *, split: str | None = None, album: str | None = None
) -> HeldOutQueries:
    """The queries of features whose places a table knows.

    truth: photo, lat, lng (and the labels of a tree of labels), names as in the features. album: column of it; photos
    of one album are one query, at the mean of their places.

    Raises:
        InputError: too few of its photos have a vector, or the table cannot be used.
    """
    hierarchy, geocells = bundle.hierarchy, bundle.model.geocells
    photos = read_truth(truth, split=split)
    if len(set(photos.photo)) < len(photos):
        raise InputError(f"{truth}: names of photos repeat, so their vectors cannot be told apart. Rename them.")
    group = np.arange(len(photos)) if album is None else albums_of_table(truth, album, split=split).of_row
    names = pa.array(photos.photo, pa.string())
    sums = CellSums.zeros(int(group.max()) + 1, geocells.width)
    places = np.zeros((len(sums.counts), 3))
    leaf = np.full(len(sums.counts), -1)
    labels = label_columns(hierarchy)
    if labels:
        own_leaf = locate_labels(hierarchy, read_columns(truth, ["photo", *labels], split=split))[:, -1]
    else:
        own_leaf = hierarchy.locate(photos.lat_deg, photos.lng_deg)[:, -1]
    points, times = unit_vectors(photos.lat_deg, photos.lng_deg), np.zeros(len(photos), np.int64)
    with track("reading vectors", features.rows) as advance:
        for batch in features:
            row = pc.index_in(pa.array(batch.photo, pa.string()), value_set=names).fill_null(-1).to_numpy()
            used = np.flatnonzero(batch.ok & (row >= 0))
            row = row[used].astype(np.int64)
            np.add.at(times, row, 1)
            sums.add(geocells.compared(np.ascontiguousarray(batch.embedding[used], np.float32)), group[row])
            np.add.at(places, group[row], points[row])
            leaf[group[row]] = own_leaf[row]
            advance(len(batch))
    if (times > 1).any():
        name = photos.photo[int(times.argmax())]
        raise InputError(f"{features.location}: {name!r} has {times.max()} vectors. Keep one row for each name.")
    there = np.flatnonzero(sums.counts)
    if len(there) < FEWEST:
        what = "photos" if album is None else "albums"
        raise InputError(
            f"{features.location}: {len(there)} {what} of {truth} have a vector; a calibration takes {FEWEST} at "
            "least. Are the names the same, and is this the split that the vectors are of?"
        )
    lat, lng = lat_lng(places[there])
    if album is not None and hierarchy.is_s2:
        leaf[there] = hierarchy.locate(lat, lng)[:, -1]
    return HeldOutQueries(sums.sums[there].astype(np.float32), sums.counts[there], lat, lng, leaf[there])


def fit_calibration(
    model: ScoringModel,
    points: Mapping[PointName, AnswerPoints],
    sample: HeldOutQueries,
    *,
    device: torch.device,
    resampling: Resampling,
) -> Fitted:
    """Fit a calibration to held-out queries; by exact search, whatever way the bundle is searched.

    model, points: of the bundle that it is for. resampling: for the intervals of the reliabilities.
    """
    search = ExactSearch(model, tensor_of(leaf_vectors(model)).to(device), low_precision=False)
    temperature, growth = _temperature(search, sample)
    inside = _inside(sample)
    before, _, _ = _answers(search, {}, sample, np.ones(len(sample)), 1.0, resampling)
    if not before.right:
        log.warning("none of the held-out photos was taken in the cell that answers it: are these the right tables?")
    lowest, highest = _TEMPERATURES[[0, -1]]
    if not lowest < temperature < highest:
        log.warning("the temperature that fits best, %.3g, is at an end of those that are tried", temperature)
    own = temperature * sample.n_photos.astype(np.float64) ** growth
    after, shares, best = _answers(search, points, sample, own, inside, resampling)
    calibration = Calibration(
        temperature=temperature,
        growth=growth,
        inside=inside,
        masses={name: (_conformal(each, 0.5), _conformal(each, 0.9)) for name, each in shares.items()},
        least_score=float(np.quantile(best / sample.n_photos, _ABSTAIN_SHARE)),
        queries=len(sample),
    )
    return Fitted(calibration, before, after)


def _temperature(search: ExactSearch, sample: HeldOutQueries) -> tuple[float, float]:
    """The temperature and its growth with the number of photos under which the log loss of the event is least."""
    growths = _GROWTHS if (sample.n_photos > 1).any() else (0.0,)
    losses = _losses(search, sample, _TEMPERATURES, growths)
    at, growth = np.unravel_index(losses.argmin(), losses.shape)
    closer = _TEMPERATURES[at] * np.exp(np.linspace(-_CLOSER, _CLOSER, _CLOSER_STEPS))
    losses = _losses(search, sample, closer, (growths[growth],))
    return float(closer[losses.argmin()]), growths[growth]


def _inside(sample: HeldOutQueries) -> float:
    """The share of the queries that were taken in a leaf."""
    inside = float((sample.leaf >= 0).mean())
    if not inside:
        raise InputError("None of the held-out photos was taken in a finest cell. Is this the table of these vectors?")
    return inside


def _losses(
    search: ExactSearch, sample: HeldOutQueries, temperatures: np.ndarray, growths: tuple[float, ...]
) -> np.ndarray:
    """Mean log loss of "the true place lies in the answered cell": (temperatures, growths) float64."""
    losses, outside = np.zeros((len(temperatures), len(growths))), 1 - _inside(sample)
    for block, scores in search.scores(sample.queries):
        best, leaf = scores.max(dim=1, keepdim=True)
        scores -= best
        right = leaf[:, 0].cpu().numpy() == sample.leaf[block]
        n_photos = torch.from_numpy(sample.n_photos[block].astype(np.float32)).to(scores.device)
        for column, growth in enumerate(growths):
            for row, temperature in enumerate(temperatures):
                divisor = (temperature * n_photos**growth)[:, None]
                others = (scores / divisor).exp_().sum(dim=1, dtype=torch.float64) - 1  # all but the best
                # p = inside / (1 + others): its log but for a constant, or that of what it leaves to all else.
                wrong = (others + outside).clamp_min(1e-12).log()  # no probability is quite 1
                loss = others.log1p() - torch.where(torch.from_numpy(right).to(others.device), 0.0, wrong)
                losses[row, column] += float(loss.sum())
    return losses / len(sample)


def _answers(
    search: ExactSearch,
    points: Mapping[PointName, AnswerPoints],
    sample: HeldOutQueries,
    temperature: np.ndarray,
    inside: float,
    resampling: Resampling,
) -> tuple[Reliability, dict[PointName, np.ndarray], np.ndarray]:
    """How reliable answers are; what share of each posterior lies as near as the true place; and the best scores.

    There are shares for each kind of point.
    """
    probability = np.empty(len(sample))
    shares = {name: np.empty(len(sample)) for name in points}
    right, best = np.empty(len(sample), bool), np.empty(len(sample))
    for block, scores in search.scores(sample.queries):
        top, leaf = scores.max(dim=1)
        answer, score = leaf.cpu().numpy(), top.double().cpu().numpy()
        divisor = torch.from_numpy(temperature[block].astype(np.float32)).to(scores.device)[:, None]
        posterior = posterior_of(scores.div_(divisor), 1.0)
        probability[block] = np.exp(score / temperature[block] - posterior.log_total)
        for name, kind in points.items():
            at = kind(sample.queries[block], answer, posterior)
            km = haversine_km(at.lat_deg, at.lng_deg, sample.lat_deg[block], sample.lng_deg[block])
            shares[name][block] = share_within(posterior, kind.discs, at.lat_deg, at.lng_deg, km)
        right[block], best[block] = answer == sample.leaf[block], score
    return reliability(inside * np.minimum(probability, 1.0), right, resampling), shares, best


def _conformal(shares: np.ndarray, wanted: float) -> float:
    """What so many of new queries stay below: of n shares the ceil((n + 1) q)-th smallest; 1 where there is none."""
    rank = math.ceil((len(shares) + 1) * wanted)
    return float(min(np.sort(shares)[rank - 1], 1.0)) if rank <= len(shares) else 1.0
