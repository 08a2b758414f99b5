"""Claims against brute force over bells in float64; what is refused; under a cap nothing finer than its cells."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from indexer.bundles.bundle import Bundle, build_bundle, open_bundle
from indexer.cells.hierarchy import Hierarchy
from indexer.earth import s2
from indexer.earth.areas import CellArea, cells_around
from indexer.earth.geo import EARTH_RADIUS_KM, haversine_km, unit_vectors
from indexer.errors import InputError
from indexer.vectors.calibration import Calibration
from indexer.vectors.features import FeatureBatch
from search.answers.claims import CITY_KM, CheckedClaim, Claim, ClaimCheck, claim_of
from search.answers.engine import Engine
from search.answers.options import SearchOptions
from tests.conftest import random_geocells, unit_rows
from tests.search.conftest import WIDTH
from tests.search.gallery_oracle import FIT, Truth, brute_force, calibrated

KNOWN = tuple(np.linspace(0, 1, 1001).round(6).tolist())  # so that p-values tell nonconformities
CAP_KM = 300.0


def with_known(calibration: Calibration, known: tuple[float, ...] = KNOWN) -> Calibration:
    photos = calibration.with_photos
    return replace(
        calibration,
        nonconformities=known,
        with_photos=None if photos is None else replace(photos, nonconformities=known),
    )


@pytest.fixture(scope="module")
def bundle(photo_bundle: Bundle) -> Bundle:
    """One whose photos count by FIT, and whose true places have every nonconformity alike."""
    made = calibrated(photo_bundle, FIT, temperature=2.0)
    return replace(made, calibrations={"one": with_known(made.calibrations["one"])})


@pytest.fixture(scope="module")
def queries(bundle: Bundle) -> np.ndarray:
    return bundle.model.geocells.compared(unit_rows(12, WIDTH, seed=5))


def batch_of(n: int, *, bad: int | None = None) -> FeatureBatch:
    status = ["damaged" if row == bad else "ok" for row in range(n)]
    reason = ["ends early" if row == bad else "" for row in range(n)]
    nowhere = np.full(n, np.nan)
    names = [f"{row}.jpg" for row in range(n)]
    return FeatureBatch(names, unit_rows(n, WIDTH, seed=5), status, reason, nowhere, nowhere)


def nonconformity_by_hand(bundle: Bundle, truth: Truth, query: int, point: np.ndarray) -> float:
    """Of all photos and all leaves, in float64, straight from the formulas."""
    gallery, leaves = bundle.gallery, bundle.hierarchy.leaves
    assert gallery is not None
    photos = unit_vectors(gallery.lat_deg, gallery.lng_deg)
    middles = np.concatenate([photos, unit_vectors(leaves.lat_deg, leaves.lng_deg)])
    by_photo = (1 - FIT.cells) * truth.share[query] * truth.weight[query]
    lists = np.bincount(gallery.leaf, minlength=len(leaves)) > 0
    by_cells = np.where(lists, FIT.cells, 1.0) * truth.cells[query]
    weight = np.concatenate([by_photo, by_cells])
    at, own = truth.density(query, middles), truth.density(query, point[None])[0]
    return float((weight * np.maximum(1 - own / np.where(weight > 0, at, np.inf), 0)).sum() / weight.sum())


def test_p_values_are_those_of_brute_force(bundle: Bundle, queries: np.ndarray) -> None:
    leaves, truth = bundle.hierarchy.leaves, brute_force(bundle, FIT, queries, temperature=2.0)
    leaf = np.random.default_rng(0).integers(0, len(leaves), len(queries))
    best = Engine(bundle).find(queries).hits.leaf[:, 0]
    for which, aside in ((leaf, 0.0), (best, 0.0), (best, 0.4)):
        places = np.clip(leaves.lat_deg[which] + aside, -90, 90), leaves.lng_deg[which]
        claims = [Claim(*each) for each in zip(*(deg.tolist() for deg in places), strict=True)]
        found = ClaimCheck(bundle).p_values(queries, claims)
        for query, point in enumerate(unit_vectors(*places)):
            expected = nonconformity_by_hand(bundle, truth, query, point)
            # A thousandth of the leaves' mass is not listed; and known nonconformities are a thousandth apart.
            assert found[query] == pytest.approx(1 - expected, abs=0.005)


def test_a_claim_with_a_radius_has_no_smaller_p_value_than_a_place_in_it(bundle: Bundle, queries: np.ndarray) -> None:
    rng, check = np.random.default_rng(1), ClaimCheck(bundle)
    leaves = bundle.hierarchy.leaves
    for leaf in rng.integers(0, len(leaves), 3).tolist():
        lat, lng = float(np.clip(leaves.lat_deg[leaf], -80, 80)), float(leaves.lng_deg[leaf])
        wide = check.p_values(queries, [Claim(lat, lng, 400.0)] * len(queries))
        for _ in range(12):
            near = lat + rng.uniform(-3, 3), (lng + rng.uniform(-3, 3) + 180) % 360 - 180
            if haversine_km(*map(np.array, (lat, lng, *near))) <= 400:
                assert (check.p_values(queries, [Claim(*near)] * len(queries)) <= wide + 1e-9).all()


def test_what_is_told_of_a_claim(bundle: Bundle) -> None:
    check, batch = ClaimCheck(bundle), batch_of(3, bad=1)
    engine = Engine(bundle, options=SearchOptions(mode="exact"))
    found = engine.find(engine.prepared(batch.embedding[[0, 2]]), left_out=0.0)
    assert found.posterior is not None
    leaves, posterior = bundle.hierarchy.leaves, found.posterior.take(np.array([0]))
    likely, share = posterior.likeliest(4)
    claim = Claim(float(leaves.lat_deg[likely[0, 2]]), float(leaves.lng_deg[likely[0, 2]]), 50.0)
    first, bad, third = check(batch, claim)
    assert (first.rank, first.key, first.cells) == (3, str(leaves.keys[likely[0, 2]]), len(leaves))
    assert first.mass is not None
    assert first.mass > 0.3 * share[0, 2]
    assert (first.mass_km, first.within_km, first.held_out, first.approximate) == (50.0, 50.0, 1001, False)
    assert first.evidence == "cells+photos (lists)"
    assert (bad.status, bad.reason, bad.p_value, bad.text, bad.ok) == ("damaged", "ends early", None, None, False)
    assert third.ok
    values = check.p_values(engine.prepared(batch.embedding[[0, 2]]), [claim, claim])
    assert [first.p_value, third.p_value] == values.tolist()
    row = first.to_dict()
    assert (row["lat"], row["lng"], row["within_km"]) == (claim.lat_deg, claim.lng_deg, 50.0)
    # The place alone: what lies around it is told for half the width of the median cell.
    assert bundle.calibrations["one"].with_photos is not None
    (alone,) = check(batch_of(1), replace(claim, within_km=None))
    assert (alone.within_km, alone.mass_km) == (None, bundle.calibrations["one"].with_photos.mass_km)
    # In no cell at all.
    nowhere = np.random.default_rng(0).uniform((-80, -180), (80, 180), (400, 2))
    lat, lng = nowhere[bundle.hierarchy.locate(*nowhere.T)[:, -1] < 0][0].tolist()
    (lost,) = check(batch_of(1), Claim(lat, lng))
    assert (lost.key, lost.rank) == (None, None)
    assert check(batch_of(0), claim) == []


def test_a_photo_without_its_class_map_is_told_so(bundle: Bundle) -> None:
    check, claim = ClaimCheck(bundle), Claim(10.0, 20.0)
    plain = check(batch_of(3), claim)
    told = check(replace(batch_of(3), class_map=[True, False, None]), claim)
    assert [each.class_map for each in told] == [True, False, None]
    assert [each.p_value for each in told] == [each.p_value for each in plain]
    added = " It has no class map: that holds only if the photos of the calibration had none either."
    assert [each.text for each in told] == [plain[0].text, f"{plain[1].text}{added}", plain[2].text]
    assert told[1].to_dict()["class_map"] is False


def test_a_sentence_says_what_may_and_may_not_be_concluded(bundle: Bundle) -> None:
    rare = {"one": with_known(bundle.calibrations["one"], (0.0,) * 30)}
    (doubted,) = ClaimCheck(replace(bundle, calibrations=rare))(batch_of(1), Claim(-60.0, 100.0, 20.0))
    assert doubted.p_value == pytest.approx(1 / 31)
    assert doubted.text == (
        "There is reason to doubt that it was taken within 20 km of -60.0000, 100.0000: of photos like those of the "
        "calibration no more than 3.3 % fit the place they are really from so badly; but such photos exist, so the "
        "claim is not shown to be false."
    )
    photos = bundle.calibrations["one"].with_photos
    assert photos is not None
    common = replace(photos, nonconformities=(1.0,) * 30, approximate=True)
    made = replace(bundle, calibrations={"one": replace(bundle.calibrations["one"], with_photos=common)})
    (allowed,) = ClaimCheck(made)(batch_of(1), claim_of("Lyon"))
    assert (allowed.p_value, allowed.approximate, allowed.name) == (1.0, True, "Lyon, FR")
    assert allowed.text == (
        "Nothing here speaks against its being taken within 25 km of Lyon, FR: up to 100 % (roughly, for few photos "
        "were held out) of photos like those of the calibration fit the place they are really from no better; but it "
        "may fit other places as well, so the claim is not shown to be true."
    )


def test_places_are_numbers_or_names() -> None:
    assert claim_of("48.8584, 2.2945", within_km=5) == Claim(48.8584, 2.2945, 5)
    assert claim_of((48.8584, 2.2945)) == claim_of("48.8584,2.2945") == Claim(48.8584, 2.2945)
    lyon = claim_of("lyon, france", within_km=3.0)
    assert (lyon.name, lyon.within_km) == ("Lyon, FR", 3.0)
    assert (lyon.lat_deg, lyon.lng_deg) == pytest.approx((45.75, 4.85), abs=0.1)


@pytest.mark.parametrize(
    ("place", "within_km", "message"),
    [
        ("95,2", None, "`claim`: its latitude is 95; it must be a number from -90 to 90"),
        ("5,-200", None, "its longitude is -200"),
        ("nan,2", None, "its latitude is nan"),
        ("1,2,3", None, "No city"),
        ("Qwerville", None, "No city .* is called 'Qwerville'"),
        ((1.0, 2.0, 3.0), None, "`claim` must be latitude and longitude"),
        (7, None, "`claim` must be latitude and longitude"),
        ("1,2", 0.0, "`within_km` must be a distance above 0"),
        ("1,2", -3.0, "`within_km` must be a distance above 0"),
        ("1,2", float("nan"), "`within_km` must be a distance above 0"),
        ("1,2", 21_000.0, "`within_km` must be a distance above 0 and up to 20,015 km"),
    ],
)
def test_what_is_no_claim_is_refused(place: str, within_km: float | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        claim_of(place, within_km=within_km)


@pytest.mark.parametrize(
    "options",
    [
        SearchOptions(region="FR"),
        SearchOptions(not_region="FR"),
        SearchOptions(prior_exponent=0.0),
        SearchOptions(score="cosine-affine"),
    ],
)
def test_other_searches_than_calibrations_have_are_refused(bundle: Bundle, options: SearchOptions) -> None:
    with pytest.raises(InputError, match="leave out `region`, `not_region`, `prior_exponent` and `score`"):
        ClaimCheck(bundle, options=options)


def test_a_check_is_exact_however_places_are_searched(bundle: Bundle, queries: np.ndarray) -> None:
    leaves = bundle.hierarchy.leaves
    claims = [Claim(float(leaves.lat_deg[4]), float(leaves.lng_deg[4]), 500.0)] * len(queries)
    known = ClaimCheck(bundle).p_values(queries, claims)
    for options in (SearchOptions(mode="beam", probes=1), SearchOptions(gallery="all"), SearchOptions(point="mass")):
        np.testing.assert_array_equal(ClaimCheck(bundle, options=options).p_values(queries, claims), known)
    by_cells = ClaimCheck(bundle, options=SearchOptions(gallery="off"))
    assert (by_cells.p_values(queries, claims) != known).any()
    assert by_cells(batch_of(1), claims[0])[0].evidence == "cells"


def test_a_bundle_that_was_not_calibrated_for_it_is_refused(
    bundle: Bundle, hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"was not calibrated for ten crops\. Claims"):
        ClaimCheck(bundle, protocol="ten")
    by_cells = {"one": replace(bundle.calibrations["one"], with_photos=None)}
    with pytest.raises(InputError, match=r"was not calibrated for one crop, with photos of a gallery\. Claims"):
        ClaimCheck(replace(bundle, calibrations=by_cells))
    geocells = random_geocells(hierarchy, WIDTH, seed=0)
    plain = open_bundle(build_bundle(hierarchy_folder, geocells, tmp_path, config={}, inputs={}))
    with pytest.raises(InputError, match=r"was not calibrated for one crop\..*python -m search calibrate"):
        ClaimCheck(plain)
    assert bundle.gallery is not None
    changed = replace(bundle.gallery, facts=replace(bundle.gallery.facts, changed=0.5))
    with pytest.raises(InputError, match="with its gallery as it is now"):
        ClaimCheck(replace(bundle, gallery=changed))
    ClaimCheck(replace(bundle, gallery=changed), options=SearchOptions(gallery="off"))  # cells are as they were
    before = {"one": with_known(bundle.calibrations["one"], ())}
    with pytest.raises(InputError, match="Calibrate again: python -m search calibrate"):
        ClaimCheck(replace(bundle, calibrations=before))


def capped(bundle: Bundle) -> ClaimCheck:
    return ClaimCheck(bundle, options=SearchOptions(precision_cap=CAP_KM))


def without_place(checked: CheckedClaim) -> CheckedClaim:
    return replace(checked, lat_deg=0.0, lng_deg=0.0, text=None)


@pytest.mark.parametrize("within_km", [None, CAP_KM, 1500.0])
def test_under_a_cap_all_places_of_a_cell_are_the_same_claim(bundle: Bundle, within_km: float | None) -> None:
    rng, check, batch = np.random.default_rng(2), capped(bundle), batch_of(2)
    level = s2.level_of_width(CAP_KM)
    leaves = bundle.hierarchy.leaves
    told = set()
    for leaf in rng.choice(len(leaves), 3, replace=False):
        own = s2.point_ids(leaves.lat_deg[[leaf]], leaves.lng_deg[[leaf]])
        cell = s2.parents(own, level)
        (area,) = CellArea.of(cell)
        mixed = rng.dirichlet(np.ones(4), 3) @ area.corners
        ids = s2.point_ids(np.degrees(np.arcsin(mixed[:, 2] / np.linalg.norm(mixed, axis=1))),
                           np.degrees(np.arctan2(mixed[:, 1], mixed[:, 0])))  # fmt: skip
        assert (s2.parents(ids, level) == cell).all()
        places = [Claim(*(float(deg[0]) for deg in s2.centres(each[None])), within_km) for each in ids]
        answers = [[without_place(each) for each in check(batch, claim)] for claim in places]
        assert answers[0] == answers[1] == answers[2]
        told.add(str(answers[0]))
    assert len(told) > 1


def test_under_a_cap_the_p_value_is_the_largest_of_its_cells_and_mass_that_of_all(bundle: Bundle) -> None:
    check, batch = capped(bundle), batch_of(3)
    leaves = bundle.hierarchy.leaves
    lat, lng = float(leaves.lat_deg[7]), float(leaves.lng_deg[7])
    wide = check(batch, Claim(lat, lng, 1000.0))
    level = s2.level_of_width(CAP_KM)
    own = s2.parents(s2.point_ids(np.array([lat]), np.array([lng])), level)
    (area,) = CellArea.of(own)
    around = cells_around(area.middle, 1000 + area.reach_rad * EARTH_RADIUS_KM, s2_level=level)
    centres = s2.centres(around)
    alone = [check(batch, Claim(*each)) for each in zip(*(deg.tolist() for deg in centres), strict=True)]
    for number, each in enumerate(wide):
        assert each.p_value == pytest.approx(max(one[number].p_value or 0 for one in alone), abs=1e-9)
        assert each.mass == pytest.approx(sum(one[number].mass or 0 for one in alone), abs=1e-9)
        assert each.mass_km is None
    # The cell is no less likely to hold the photo than any place of it.
    fine = ClaimCheck(bundle).p_values(bundle.model.geocells.compared(batch.embedding), [Claim(lat, lng)] * len(batch))
    coarse = [each.p_value or 0 for each in check(batch, Claim(lat, lng))]
    assert (np.array(coarse) >= fine - 1e-9).all()
    # Nor are these cells less likely than any place that is so near.
    near = ClaimCheck(bundle).p_values(bundle.model.geocells.compared(batch.embedding), [Claim(lat, lng, 1000.0)] * 3)
    assert ([each.p_value or 0 for each in wide] >= near - 1e-9).all()


def test_under_a_cap_a_smaller_radius_is_refused(bundle: Bundle) -> None:
    check = capped(bundle)
    with pytest.raises(InputError, match="`within_km`: 299 km is less than the precision cap of 300 km"):
        check(batch_of(1), Claim(10.0, 10.0, 299.0))
    with pytest.raises(InputError, match="is less than the precision cap"):
        check.refuse(claim_of("Lyon", within_km=CITY_KM))
    (city,) = check(batch_of(1), claim_of("Lyon"))
    assert city.within_km == CAP_KM
    assert city.text is not None
    assert "within 300 km of Lyon, FR, in whole cells of the precision cap" in city.text
    own = replace(bundle, precision_cap_km=CAP_KM)
    with pytest.raises(InputError, match="is less than the precision cap"):
        ClaimCheck(own).refuse(Claim(10.0, 10.0, 25.0))
    (place,) = ClaimCheck(own)(batch_of(1), Claim(10.0, 10.0))
    assert "in the precision cap's cell around 10.0000, 10.0000" in (place.text or "")
