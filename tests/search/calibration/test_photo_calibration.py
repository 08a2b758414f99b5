"""The calibration of photos and cells on a world whose truth is known: radii that hold, copies that are found."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from indexer.earth.geo import haversine_km, unit_vectors
from indexer.errors import InputError
from indexer.vectors.calibration import Calibration, Protocol, usual_photo_fit
from search.answers.claims import Claim, ClaimCheck
from search.answers.engine import Engine
from search.answers.options import GalleryName, PointName, SearchOptions
from search.answers.points import points_of_bundle
from search.calibration import photo_fit, photo_numbers, reranker_fit
from search.calibration.cell_calibration import fit_calibration
from search.calibration.held_out import HeldOutQueries, named
from search.calibration.photo_calibration import PhotoCalibration, calibrate_photos
from search.evaluation.options import Resampling
from tests.search.calibration.conftest import PhotoWorld
from tests.search.gallery_oracle import brute_force

RESAMPLING = Resampling(0)
N = 800
CAP_KM = 600.0


def cells_of(world: PhotoWorld, sample: HeldOutQueries) -> Calibration:
    points = points_of_bundle(world.bundle, photos=False)
    model = world.bundle.model
    return fit_calibration(model, points, sample, device=torch.device("cpu"), resampling=RESAMPLING).calibration


def calibrate(
    world: PhotoWorld, sample: HeldOutQueries, cells: Calibration, *, protocol: Protocol = "one"
) -> PhotoCalibration:
    return calibrate_photos(world.bundle, sample, cells, protocol=protocol, device="cpu", resampling=RESAMPLING)


@pytest.fixture(scope="module")
def capped(photo_world: PhotoWorld) -> PhotoWorld:
    """The same whose answers are capped; all else that is fitted to it is that of the other."""
    return replace(photo_world, bundle=replace(photo_world.bundle, precision_cap_km=CAP_KM))


@pytest.fixture(scope="module")
def cells(capped: PhotoWorld) -> Calibration:
    return cells_of(capped, capped.sample(N, seed=30))


@pytest.fixture(scope="module")
def made(capped: PhotoWorld, cells: Calibration) -> PhotoCalibration:
    return calibrate(capped, capped.sample(N, seed=30), cells)


@pytest.fixture(scope="module")
def fresh(photo_world: PhotoWorld) -> HeldOutQueries:
    return photo_world.sample(1500, seed=31)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits that try little."""
    monkeypatch.setattr(photo_fit, "_GRIDS", {"similarity": (0.02, 0.08), "near": (20, 50), "growth": (0.0, 1.0)})
    monkeypatch.setattr(photo_fit, "_TEMPERATURES", np.ones(1))
    monkeypatch.setattr(photo_fit, "_WIDTHS", np.array([0.25, 1.0]))
    monkeypatch.setattr(photo_fit, "_ROUNDS", 1)
    monkeypatch.setattr(photo_numbers, "_POINT_WIDTHS", np.array([0.5, 1.0]))
    monkeypatch.setattr(photo_numbers, "LISTS", (16,))
    monkeypatch.setattr(reranker_fit, "_STEPS", 10)


@pytest.fixture(scope="module")
def engine_of(photo_world: PhotoWorld, cells: Calibration, made: PhotoCalibration) -> Callable[[SearchOptions], Engine]:
    both = replace(cells, with_photos=made.fitted.calibration)
    return lambda options: Engine(replace(photo_world.bundle, calibrations={"one": both}), options=options)


def km_off(engine: Engine, sample: HeldOutQueries) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How far answers are from the truth, and their radii."""
    answers = engine.answer(sample.queries, k=1)
    assert answers.calibrated
    assert answers.radius_50_km is not None
    assert answers.radius_90_km is not None
    off = haversine_km(answers.at.lat_deg, answers.at.lng_deg, sample.lat_deg, sample.lng_deg)
    return off, answers.radius_50_km, answers.radius_90_km


@pytest.mark.parametrize("gallery", ["lists", "off"])
@pytest.mark.parametrize("point", ["density", "cell", "medoid", "mass"])
def test_radii_hold_what_they_promise_of_fresh_photos(
    engine_of: Callable[[SearchOptions], Engine], fresh: HeldOutQueries, gallery: str, point: PointName
) -> None:
    if (gallery, point) == ("off", "density"):
        return
    engine = engine_of(SearchOptions(gallery=gallery, point=point))  # type: ignore[arg-type]
    off, half, most = km_off(engine, fresh)
    for radius, promised in ((half, 0.5), (most, 0.9)):
        # Four standard deviations of what is promised by half of the held-out photos, and of what is counted here.
        allowed = 4 * np.sqrt(promised * (1 - promised) * (2 / N + 1 / len(fresh)))
        assert (off <= radius).mean() == pytest.approx(promised, abs=allowed)


@pytest.mark.parametrize("gallery", ["lists", "off"])
def test_true_claims_are_doubted_no_more_often_than_is_promised_and_false_ones_are(
    photo_world: PhotoWorld,
    cells: Calibration,
    made: PhotoCalibration,
    fresh: HeldOutQueries,
    gallery: GalleryName,
) -> None:
    both = replace(cells, with_photos=made.fitted.calibration)
    bundle = replace(photo_world.bundle, calibrations={"one": both})
    known = both if gallery == "off" else made.fitted.calibration
    assert len(known.nonconformities) == N // 2
    check = ClaimCheck(bundle, options=SearchOptions(gallery=gallery))
    true = [Claim(*each) for each in zip(fresh.lat_deg.tolist(), fresh.lng_deg.tolist(), strict=True)]
    values = check.p_values(fresh.queries, true)
    for level in (0.01, 0.05, 0.1, 0.2, 0.5):
        told = np.floor(level * (N // 2 + 1)) / (N // 2 + 1)  # the p-values that there are
        # Four standard deviations of what is promised by half of the held-out photos, and of what is counted here.
        allowed = 4 * np.sqrt(told * (1 - told) * (2 / N + 1 / len(fresh)))
        assert (values <= level).mean() == pytest.approx(told, abs=allowed)
    # Claims that are another photo's place, at least 1,000 km away.
    others = np.roll(np.arange(len(fresh)), 1)
    far = haversine_km(fresh.lat_deg, fresh.lng_deg, fresh.lat_deg[others], fresh.lng_deg[others]) > 1000
    doubted = check.p_values(fresh.queries[far], [true[other] for other in others[far]]) <= 0.05
    assert doubted.mean() > 0.9


@pytest.mark.parametrize("gallery", ["lists", "off"])
def test_under_the_bundles_own_cap_radii_hold_what_they_promise(
    capped: PhotoWorld, cells: Calibration, made: PhotoCalibration, fresh: HeldOutQueries, gallery: GalleryName
) -> None:
    both = replace(cells, with_photos=made.fitted.calibration)
    assert (cells.cap_km, made.fitted.calibration.cap_km) == (CAP_KM, CAP_KM)
    bundle = replace(capped.bundle, calibrations={"one": both})
    answers = Engine(bundle, options=SearchOptions(gallery=gallery, radii=True)).answer(fresh.queries, k=1)
    assert not answers.calibrated  # the probability of a cap cell was fitted to nothing
    off = haversine_km(answers.at.lat_deg, answers.at.lng_deg, fresh.lat_deg, fresh.lng_deg)
    for radius, promised in ((answers.radius_50_km, 0.5), (answers.radius_90_km, 0.9)):
        assert radius is not None
        allowed = 4 * np.sqrt(promised * (1 - promised) * (2 / N + 1 / len(fresh)))
        assert (off <= radius).mean() == pytest.approx(promised, abs=allowed)


def test_photos_bring_answers_nearer_and_make_radii_smaller(
    engine_of: Callable[[SearchOptions], Engine], fresh: HeldOutQueries
) -> None:
    (photos, _, most), (cells, _, most_of_cells) = (
        km_off(engine_of(options), fresh) for options in (SearchOptions(), SearchOptions(gallery="off"))
    )
    gained = np.log1p(cells) - np.log1p(photos)
    assert gained.mean() > 4 * gained.std() / np.sqrt(len(gained))
    assert np.median(most) < np.median(most_of_cells)


def test_probabilities_mean_what_they_say(
    engine_of: Callable[[SearchOptions], Engine], made: PhotoCalibration, fresh: HeldOutQueries
) -> None:
    hits = engine_of(SearchOptions()).answer(fresh.queries, k=1).hits
    right = hits.leaf[:, 0] == fresh.leaf
    assert hits.probability[:, 0].mean() == pytest.approx(right.mean(), abs=0.06)
    assert made.fitted.calibration.inside == pytest.approx((fresh.leaf >= 0).mean(), abs=0.06)
    assert made.fitted.after.error <= made.fitted.before.error + 0.02
    # Photos near to a query say whether its place lies in a leaf at all, better than one share for all does.
    known = engine_of(SearchOptions())
    evidence = known.find(fresh.queries).evidence
    assert evidence is not None
    each, there = known.inside_by_photos(evidence), fresh.leaf >= 0
    assert each.mean() == pytest.approx(there.mean(), abs=0.06)

    def log_loss(probability: np.ndarray) -> float:
        return float(-np.log(np.where(there, probability, 1 - probability).clip(1e-3)).mean())

    assert log_loss(each) < log_loss(np.full(len(there), there.mean())) - 0.01


def test_the_fit_is_likelier_than_its_start_on_fresh_photos(
    photo_world: PhotoWorld, made: PhotoCalibration, cells: Calibration, fresh: HeldOutQueries
) -> None:
    some = fresh.take(np.arange(100))
    places, fitted = unit_vectors(some.lat_deg, some.lng_deg), made.fitted.calibration
    start = usual_photo_fit(float(np.median(photo_world.bundle.hierarchy.leaves.width_km)))
    assert fitted.fit is not None
    logs = []
    for fit, temperature in ((start, cells.temperature), (fitted.fit, fitted.temperature)):
        truth = brute_force(photo_world.bundle, fit, some.queries, temperature=temperature)
        density = np.array([truth.density(row, places[[row]])[0] for row in range(len(some))])
        inside = some.leaf >= 0
        right = truth.posterior[inside, some.leaf[inside]]
        logs.append(np.log(density + 1e-12).mean() + np.log(right + 1e-5).mean())
    assert logs[1] > logs[0]


def test_what_was_fitted_is_sound_and_says_so(made: PhotoCalibration, cells: Calibration) -> None:
    found = made.fitted.calibration
    assert (found.queries, found.approximate, made.left_out) == (N, False, 0)
    assert set(found.masses) == {"cell", "medoid", "mass", "density", "cap"}  # the last as its bundle has one
    assert found.growth == cells.growth
    assert found.with_photos is None
    assert found.fit is not None
    assert found.fit.growth == 0.5  # single photos say nothing of it


def test_the_lists_that_were_chosen_hold_what_all_photos_do(
    engine_of: Callable[[SearchOptions], Engine], made: PhotoCalibration, fresh: HeldOutQueries
) -> None:
    fit, found = made.fitted.calibration.fit, []
    assert fit is not None
    for how in ("lists", "all"):
        evidence = engine_of(SearchOptions(gallery=how)).find(fresh.queries).evidence  # type: ignore[arg-type]
        assert evidence is not None
        found.append(evidence)
    lists, everything = found
    shared = (everything.near.row[:, :, None] == lists.near.row[:, None, :]).any(axis=2)
    assert np.where(shared, everything.weight, 0).sum(axis=1).mean() > 0.985
    moved = np.linalg.norm(lists.points - everything.points, axis=1) * 6371
    assert (moved <= fit.width_km / 10).mean() > 0.975


def with_copies(world: PhotoWorld, sample: HeldOutQueries, n: int, *, by_name: bool) -> HeldOutQueries:
    """The first n are photos of the gallery: by name, or at most 500 m aside with nearly the same vector."""
    gallery = world.bundle.gallery
    assert gallery is not None
    rows = np.arange(n)
    queries, names, lat, lng = sample.queries.copy(), sample.names.copy(), sample.lat_deg.copy(), sample.lng_deg.copy()
    if by_name:
        names[rows] = named((name,) for name in gallery.names(rows))
    else:
        queries[rows], lat[rows], lng[rows] = gallery.vectors(0, n), gallery.lat_deg[rows], gallery.lng_deg[rows]
        lat[rows] -= np.sign(lat[rows]) * 0.004
    return replace(sample, queries=queries, names=names, lat_deg=lat, lng_deg=lng)


@pytest.mark.parametrize("by_name", [True, False])
@pytest.mark.usefixtures("quick")
def test_photos_of_the_gallery_are_left_out_and_counted(
    photo_world: PhotoWorld, cells: Calibration, by_name: bool
) -> None:
    sample = photo_world.sample(420, seed=32)
    copies = with_copies(photo_world, sample, 20, by_name=by_name)
    found = calibrate(photo_world, copies, cells)
    without = calibrate(photo_world, copies.take(np.arange(20, 420)), cells)
    assert (found.left_out, without.left_out) == (20, 0)
    assert found.fitted.calibration == without.fitted.calibration
    assert (found.fitted.calibration.queries, found.fitted.calibration.approximate) == (400, False)
    with pytest.raises(InputError, match="22 of 420 held-out photos are in the gallery, by name or by vector"):
        calibrate(photo_world, with_copies(photo_world, sample, 22, by_name=by_name), cells)


@pytest.mark.usefixtures("quick")
def test_albums_with_a_photo_of_the_gallery_are_left_out_whichever_it_is(
    photo_world: PhotoWorld, cells: Calibration
) -> None:
    sample, gallery = photo_world.sample(150, seed=36), photo_world.bundle.gallery
    assert gallery is not None
    names = sample.names.copy()
    names[:6] = named(
        ("new.jpg",) * place + (name,) + ("newer.jpg",) * (2 - place)
        for place, name in zip([0, 1, 2, 0, 1, 2], gallery.names(np.arange(6)), strict=True)
    )
    albums = replace(sample, names=names)
    assert calibrate(photo_world, albums, cells, protocol="album").left_out == 6


@pytest.mark.usefixtures("quick")
def test_photos_that_are_alike_elsewhere_are_no_copies(photo_world: PhotoWorld, cells: Calibration) -> None:
    sample = with_copies(photo_world, photo_world.sample(120, seed=33), 100, by_name=False)
    far = replace(sample, lat_deg=sample.lat_deg - np.sign(sample.lat_deg))
    assert calibrate(photo_world, far, cells).left_out == 0


@pytest.mark.usefixtures("quick")
def test_few_queries_take_turns_and_their_order_is_nothing(photo_world: PhotoWorld, cells: Calibration) -> None:
    sample = photo_world.sample(120, seed=34)
    found = calibrate(photo_world, sample, cells)
    assert found.fitted.calibration.approximate
    assert found.fitted.calibration.queries == 120
    assert calibrate(photo_world, sample, cells).fitted.calibration == found.fitted.calibration
    shuffled = calibrate(photo_world, sample.take(np.random.default_rng(0).permutation(120)), cells)
    assert shuffled.fitted.calibration.fit == found.fitted.calibration.fit
    masses = (each.fitted.calibration.masses["density"] for each in (shuffled, found))
    assert next(masses) == pytest.approx(next(masses), abs=1e-6)


@pytest.mark.usefixtures("quick")
def test_albums_are_calibrated_with_growth(photo_world: PhotoWorld) -> None:
    sample = photo_world.sample(150, seed=35)
    n_photos = np.arange(150) % 5 + 1
    album = replace(sample, queries=(sample.queries * n_photos[:, None]).astype(np.float32), n_photos=n_photos)
    cells = cells_of(photo_world, album)
    found = calibrate(photo_world, album, cells, protocol="album").fitted.calibration
    assert cells.growth == found.growth == 1
    assert found.fit is not None
    assert found.fit.growth in (0.5, 1.0)  # the start's, or what is tried above it
    assert found.masses["density"][0] < found.masses["density"][1] < 1
