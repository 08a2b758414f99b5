"""Densities over places: bells against their integral over the sphere, against Rice's distribution and by rotation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rice

from indexer.earth import s2
from indexer.earth.areas import Area, CellArea, Disc
from indexer.earth.geo import EARTH_RADIUS_KM, FARTHEST_KM, bell_density, haversine_km, unit_vectors
from search.answers import place_density
from search.answers.place_density import PlaceDensity, share_of_bell

CLOSE = 1e-4  # of itself, that a radius may be too large
RICE = 6e-4  # what shares may be off from Rice's distribution: a table up to 12 widths, then a normal distribution
SEEDS = st.integers(0, 10_000)


def some(seed: int, *, n_queries: int = 3, most: int = 9, widths: tuple[float, float] = (0.05, 900)) -> PlaceDensity:
    """Bells on poles and on both sides of the antimeridian, and anywhere else."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, most, n_queries)
    n = int(lengths.sum())
    lat, lng = rng.choice([90, -90, 3, 60, 60.001], n), rng.choice([180, -180, 179.99, -179.99, 0], n)
    anywhere = rng.random(n) < 0.4
    lat, lng = np.where(anywhere, rng.uniform(-90, 90, n), lat), np.where(anywhere, rng.uniform(-180, 180, n), lng)
    begins = np.concatenate([[0], np.cumsum(lengths)])
    weight = rng.exponential(size=n)
    weight /= np.add.reduceat(weight, begins[:-1])[np.repeat(np.arange(n_queries), lengths)]
    width = np.exp(rng.uniform(*np.log(widths), n))
    return PlaceDensity(begins, unit_vectors(lat, lng), width, weight)


def by_hand(density: PlaceDensity, point: np.ndarray, query: int) -> float:
    """The sum of the formula, in chords that do not lose small distances."""
    total = 0.0
    for bell in range(density.begins[query], density.begins[query + 1]):
        k = (EARTH_RADIUS_KM / density.width_km[bell]) ** 2
        apart = float(np.square(density.points[bell] - point).sum())
        total += density.weight[bell] * k / (2 * np.pi * (1 - np.exp(-2 * k))) * np.exp(-k * apart / 2)
    return total / EARTH_RADIUS_KM**2


@pytest.mark.parametrize("width_km", [0.05, 5.0, 140.0, 3000.0, 20_000.0])
def test_a_bell_holds_1_over_the_whole_sphere(width_km: float) -> None:
    angle = np.concatenate([np.linspace(0, min(40 * width_km / EARTH_RADIUS_KM, np.pi), 20_001)])
    chord = 2 * np.sin(angle / 2)
    around = bell_density(chord**2, width_km) * 2 * np.pi * np.sin(angle) * EARTH_RADIUS_KM**2
    assert np.trapezoid(around, angle) == pytest.approx(1, abs=1e-5)


def test_a_narrow_bell_is_the_normal_distribution_of_the_plane() -> None:
    km = np.array([0.0, 1.0, 5.0, 12.0])
    chord = 2 * np.sin(km / EARTH_RADIUS_KM / 2)
    expected = np.exp(-((km / 5) ** 2) / 2) / (2 * np.pi * 5**2)
    np.testing.assert_allclose(bell_density(chord**2, 5.0), expected, rtol=1e-5)


def test_bells_at_the_antipode_and_of_no_width_to_speak_of_are_0_there_and_finite() -> None:
    with np.errstate(all="raise", under="ignore"):
        assert bell_density(np.array([4.0]), 140.0) == 0
        assert bell_density(np.array([4.0]), 1e-3) == 0
        assert np.isfinite(bell_density(np.array([0.0]), 1e-3))
        assert bell_density(np.array([4.0]), 50_000.0) == pytest.approx(1 / (4 * np.pi * EARTH_RADIUS_KM**2), rel=0.05)


@settings(max_examples=40)
@given(SEEDS)
def test_densities_are_the_sum_of_bells_by_hand(seed: int) -> None:
    density = some(seed)
    rng = np.random.default_rng(seed + 1)
    query = np.sort(rng.integers(0, len(density), 8))
    lat, lng = rng.choice([90, -90, 3, 60, 60.0005], 8), rng.choice([180, -180, -179.995, 5], 8)
    places = unit_vectors(lat, lng)
    own = density.points[density.begins[query]]  # where a bell is highest
    for points in (places, own):
        found = density.at(points, query)
        expected = [by_hand(density, point, number) for point, number in zip(points, query, strict=True)]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-15)


def test_a_bell_does_not_end_at_the_antimeridian_or_a_pole() -> None:
    one = PlaceDensity(
        np.array([0, 1]), unit_vectors(np.array([0.0]), np.array([179.99])), np.array([20.0]), np.ones(1)
    )
    both = unit_vectors(np.zeros(2), np.array([-179.99, 179.97]))
    east, west = one.at(both, np.zeros(2, np.int64))
    assert east == pytest.approx(west, rel=1e-9)
    assert east > 0.98 * one.at(one.points, np.zeros(1, np.int64))[0]
    pole = PlaceDensity(
        np.array([0, 1]), unit_vectors(np.array([90.0]), np.array([12.0])), np.array([20.0]), np.ones(1)
    )
    around = pole.at(unit_vectors(np.full(5, 89.9), np.array([-180.0, -90, 0, 90, 180])), np.zeros(5, np.int64))
    np.testing.assert_allclose(around, around[0], rtol=1e-9)
    across = pole.within(unit_vectors(np.array([89.9]), np.array([-33.0])), np.array([11.2]))
    assert across == pytest.approx(rice.cdf(11.2 / 20, 0.1 * np.radians(1) * EARTH_RADIUS_KM / 20), abs=RICE)


@settings(max_examples=25)
@given(SEEDS)
def test_what_turns_with_the_earth_stays_as_it_is(seed: int) -> None:
    """So places near poles and the antimeridian are places like all others."""
    density, rng = some(seed), np.random.default_rng(seed + 1)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turned = PlaceDensity(density.begins, density.points @ turn.T, density.width_km, density.weight)
    points = density.points[density.begins[:-1]]
    query, km = np.arange(len(density)), np.exp(rng.uniform(-2, 9, len(density)))
    np.testing.assert_allclose(turned.at(points @ turn.T, query), density.at(points, query), rtol=2e-5)
    np.testing.assert_allclose(turned.within(points @ turn.T, km), density.within(points, km), atol=1e-6)
    shares = (0.2, 0.9)
    for share, radius in zip(shares, turned.radii_km(points @ turn.T, shares).T, strict=True):
        assert (density.within(points, radius * (1 + CLOSE)) >= share - 1e-5).all()
        assert (density.within(points, radius * (1 - 2 * CLOSE)) <= share + 1e-5).all()


@settings(max_examples=100)
@given(st.floats(0, 60), st.floats(-6, 6))
def test_shares_of_bells_are_those_of_rices_distribution(apart: float, beyond: float) -> None:
    km = max(apart + beyond, 0.0)
    for width in (0.02, 1.0, 30.0):
        found = share_of_bell(np.array([apart * width]), np.array([km * width]), np.array([width]))
        assert found[0] == pytest.approx(rice.cdf(km, apart), abs=RICE)


def test_shares_of_bells_are_those_of_places_that_are_drawn() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.normal(0, 30.0, (100_000, 2))
    for apart in (0.0, 20.0, 90.0):
        away = np.hypot(drawn[:, 0] - apart, drawn[:, 1])
        for km in (10.0, 40.0, 100.0):
            found = share_of_bell(np.array([apart]), np.array([km]), np.array([30.0]))[0]
            assert found == pytest.approx((away <= km).mean(), abs=0.006)


@pytest.mark.parametrize(("width_km", "off"), [(20.0, 0.001), (140.0, 0.003), (500.0, 0.03)])
def test_the_plane_is_near_enough_to_the_sphere(width_km: float, off: float) -> None:
    """What a disc of the sphere holds of a bell, by quadrature, against what is promised."""
    k, turn = (EARTH_RADIUS_KM / width_km) ** 2, np.linspace(0, np.pi, 401)
    highest = k / (2 * np.pi * -np.expm1(-2 * k))
    for apart in np.array([0.0, 0.5, 1.5, 3.0, 8.0]) * width_km / EARTH_RADIUS_KM:
        for radius in np.array([0.3, 1.0, 2.0, 4.0, 9.0]) * width_km / EARTH_RADIUS_KM:
            angle = np.linspace(0, radius, 401)
            cosine = np.cos(angle) * np.cos(apart) + np.sin(angle) * np.sin(apart) * np.cos(turn)[:, None]
            ring = 2 * np.trapezoid(highest * np.exp(k * (cosine - 1)), turn, axis=0) * np.sin(angle)
            expected = np.trapezoid(ring, angle)
            km = [np.array([each * EARTH_RADIUS_KM]) for each in (apart, radius)]
            assert share_of_bell(*km, np.array([width_km]))[0] == pytest.approx(expected, abs=off)


def test_limits_of_shares() -> None:
    apart, km, width = np.array([0, 0, 5, 5, 5, FARTHEST_KM]), np.array([0, 9, 4.9, 5.1, 0, 30]), np.full(6, 1e-3)
    with np.errstate(all="raise", under="ignore"):
        np.testing.assert_array_equal(share_of_bell(apart, km, width), [0, 1, 0, 1, 0, 0])


@pytest.mark.parametrize("width_km", [1e-3, 10.0, 900.0])
def test_the_whole_earth_holds_a_bell_at_the_antipode(width_km: float) -> None:
    apart, km = np.full(3, FARTHEST_KM), np.array([FARTHEST_KM, FARTHEST_KM + 9, FARTHEST_KM - width_km])
    found = share_of_bell(apart, km, np.full(3, width_km))
    np.testing.assert_allclose(found, [1, 1, 1 - rice.cdf(1, 0)], atol=RICE)
    assert not share_of_bell(apart[:1], np.array([FARTHEST_KM / 2]), np.full(1, width_km)).any()


@settings(max_examples=40)
@given(SEEDS)
def test_a_disc_holds_what_its_bells_have_in_it(seed: int) -> None:
    density, rng = some(seed), np.random.default_rng(seed + 1)
    lat, lng = rng.uniform(-90, 90, len(density)), rng.choice([180, -179.9, 3], len(density))
    km = np.exp(rng.uniform(-2, np.log(FARTHEST_KM), len(density)))
    points = unit_vectors(lat, lng)
    found = density.within(points, km)
    for query in range(len(density)):
        bells = slice(*density.begins[query : query + 2])
        cosine = np.clip(density.points[bells] @ points[query], -1, 1)
        apart, width = np.arccos(cosine) * EARTH_RADIUS_KM, density.width_km[bells]
        across = 1 - rice.cdf(max(FARTHEST_KM - km[query], 0) / width, (FARTHEST_KM - apart) / width)
        held = np.where(apart > FARTHEST_KM / 2, across, rice.cdf(km[query] / width, apart / width))
        assert found[query] == pytest.approx(density.weight[bells] @ held, abs=2 * RICE)
    nowhere, anywhere = (
        density.within(points, np.zeros(len(density))),
        density.within(points, np.full(len(density), 4e4)),
    )
    np.testing.assert_allclose(nowhere, 0, atol=1e-12)
    np.testing.assert_allclose(anywhere, 1, atol=1e-9)


@settings(max_examples=40)
@given(SEEDS)
def test_radii_hold_the_shares_that_discs_hold(seed: int) -> None:
    """A place is within a radius exactly where the disc up to it holds no more than the share."""
    density, rng = some(seed), np.random.default_rng(seed + 1)
    points = density.points[density.begins[:-1]]
    shares = (0.1, 0.5, 0.9, 0.99)
    radii = density.radii_km(points, shares)
    assert (np.diff(radii, axis=1) >= 0).all()
    for share, km in zip(shares, radii.T, strict=True):
        held = density.within(points, km)
        assert (held >= share - 1e-6).all()
        assert (density.within(points, km * (1 - CLOSE)) <= share + 1e-6).all()
        true_km = km * np.exp(rng.normal(0, 0.5, len(km)))
        away = (np.abs(density.within(points, true_km) - share) > 2e-6) & (np.abs(true_km / km - 1) > CLOSE)
        inside = density.within(points, true_km) <= share
        np.testing.assert_array_equal((true_km <= km)[away], inside[away])


def test_radii_of_places_that_are_drawn_hold_their_share_of_these() -> None:
    rng = np.random.default_rng(0)
    lat, lng = np.array([0.0, 0.5, -3.0]), np.array([179.8, -179.9, 178.0])
    weight, width = np.array([0.5, 0.3, 0.2]), np.array([15.0, 60.0, 5.0])
    density = PlaceDensity(np.array([0, 3]), unit_vectors(lat, lng), width, weight)
    bell = rng.choice(3, 60_000, p=weight)
    aside = np.degrees(rng.normal(0, 1, (60_000, 2)) * width[bell, None] / EARTH_RADIUS_KM)
    north, east = lat[bell] + aside[:, 0], lng[bell] + aside[:, 1] / np.cos(np.radians(lat[bell]))
    away = haversine_km(north, east, np.zeros(60_000), np.full(60_000, 180.0))
    for share, km in zip(
        (0.3, 0.5, 0.9), density.radii_km(unit_vectors(np.zeros(1), np.full(1, 180.0)), (0.3, 0.5, 0.9))[0], strict=True
    ):
        assert (away <= km).mean() == pytest.approx(share, abs=0.006)


def test_a_share_that_is_never_held_is_the_farthest_there_is() -> None:
    one = PlaceDensity(np.array([0, 1]), unit_vectors(np.zeros(1), np.zeros(1)), np.array([1.0]), np.ones(1))
    assert one.radii_km(one.points, (1.5,))[0, 0] == pytest.approx(FARTHEST_KM)
    assert one.radii_km(one.points, (0.0,))[0, 0] == pytest.approx(0, abs=2e-3)
    assert one.radii_km(-one.points, (0.99,))[0, 0] == pytest.approx(FARTHEST_KM, abs=4)


def test_how_many_are_looked_at_together_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    density = some(5, n_queries=40)
    points, km = density.points[density.begins[:-1]], np.linspace(1, 900, 40)
    held, radii = density.within(points, km), density.radii_km(points, (0.5,))
    at = density.at(density.points, density.query)
    for pairs in (1, 7, 50):
        monkeypatch.setattr(place_density, "_PAIRS", pairs)
        np.testing.assert_allclose(density.at(density.points, density.query), at, rtol=1e-5)
        np.testing.assert_allclose(density.within(points, km), held, atol=1e-12)
        np.testing.assert_allclose(density.radii_km(points, (0.5,)), radii, rtol=1e-9)


def test_no_query_has_no_density() -> None:
    nothing = PlaceDensity(np.zeros(1, np.int64), np.empty((0, 3)), np.empty(0), np.empty(0))
    assert len(nothing) == 0
    assert nothing.at(np.empty((0, 3)), np.empty(0, np.int64)).shape == (0,)
    assert nothing.within(np.empty((0, 3)), np.empty(0)).shape == (0,)
    assert nothing.radii_km(np.empty((0, 3)), (0.5, 0.9)).shape == (0, 2)
    assert nothing.nonconformity(np.empty(0)).shape == (0,)


def nonconformity_by_hand(density: PlaceDensity, point: np.ndarray, query: int) -> float:
    """Of each bell the part where it is denser, were it as dense as all of them are in its middle."""
    bells = range(density.begins[query], density.begins[query + 1])
    own = by_hand(density, point, query)
    middle = {bell: by_hand(density, density.points[bell], query) for bell in bells}
    return float(sum(density.weight[bell] * max(0.0, 1 - own / middle[bell]) for bell in bells))


@settings(max_examples=20)
@given(SEEDS)
def test_nonconformities_are_the_sum_over_bells_by_hand(seed: int) -> None:
    density, rng = some(seed), np.random.default_rng(seed + 1)
    first = density.points[density.begins[:-1]]
    aside = first + rng.normal(0, 0.01, first.shape)
    for places in (first, aside / np.linalg.norm(aside, axis=1, keepdims=True)):
        found = density.nonconformity(density.at(places, np.arange(len(density))))
        expected = [nonconformity_by_hand(density, place, query) for query, place in enumerate(places)]
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert ((found >= 0) & (found <= 1)).all()


def test_a_nonconformity_is_the_mass_of_denser_places_where_bells_are_apart() -> None:
    """Counted over places that are drawn from the bells themselves."""
    rng = np.random.default_rng(0)
    weight, width, lng = np.array([0.6, 0.3, 0.1]), np.array([30.0, 40.0, 10.0]), np.array([0.0, 20.0, 179.9])
    density = PlaceDensity(np.array([0, 3]), unit_vectors(np.zeros(3), lng), width, weight)
    bell = rng.choice(3, 20_000, p=weight)
    aside = np.degrees(rng.normal(0, 1, (20_000, 2)) * width[bell, None] / EARTH_RADIUS_KM)
    drawn = density.at(unit_vectors(aside[:, 0], lng[bell] + aside[:, 1]), np.zeros(20_000, np.int64))
    for lat, place in ((0.0, 0.0), (0.3, 0.1), (0.0, 20.5), (0.05, -180.0), (-0.9, 0.0)):
        own = density.at(unit_vectors(np.array([lat]), np.array([place])), np.zeros(1, np.int64))
        assert density.nonconformity(own)[0] == pytest.approx((drawn > own).mean(), abs=0.012)


def test_the_densest_place_conforms_and_a_place_of_no_density_does_not() -> None:
    density = some(3, n_queries=30)
    highest = np.array([density.at(density.points, np.full(len(density.points), q)).max() for q in range(30)])
    np.testing.assert_array_equal(density.nonconformity(2 * highest), np.zeros(30))
    np.testing.assert_array_equal(density.nonconformity(np.zeros(30)), np.ones(30))
    nothing = PlaceDensity(np.zeros(2, np.int64), np.empty((0, 3)), np.empty(0), np.empty(0))
    assert nothing.nonconformity(np.zeros(1)) == [1]


def places_in(area: Disc, rng: np.random.Generator, n: int) -> np.ndarray:
    turn, far = rng.uniform(0, 2 * np.pi, n), area.reach_rad * np.sqrt(rng.random(n))
    one = np.cross(area.middle, [0.3, -0.5, 0.8])
    one /= np.linalg.norm(one)
    aside = np.cos(turn)[:, None] * one + np.sin(turn)[:, None] * np.cross(area.middle, one)
    return np.asarray(np.cos(far)[:, None] * area.middle + np.sin(far)[:, None] * aside)


@settings(max_examples=80)
@given(SEEDS)
def test_no_place_of_a_disc_conforms_better_than_the_disc(seed: int) -> None:
    """Places that are drawn, and those between bells, where what they have adds up."""
    rng = np.random.default_rng(seed)
    density = some(seed, n_queries=1, most=14, widths=(80, 900))
    lat, lng = rng.choice([89.0, 3.0, 60.0, -40.0]), rng.choice([180.0, -178.0, 1.0])
    disc = Disc.around(lat, lng, float(np.exp(rng.uniform(np.log(20), np.log(6000)))))
    between = rng.dirichlet(np.full(len(density.points), 0.5), 200) @ density.points
    between /= np.linalg.norm(between, axis=1, keepdims=True)
    inside = np.concatenate([places_in(disc, rng, 400), disc.nearest(between)])
    largest = density.largest_in([disc], 0)
    at = density.at(inside, np.zeros(len(inside), np.int64))
    assert largest >= at.max() * (1 - 1e-6)
    assert largest <= density.at(density.points, np.zeros(len(density.points), np.int64)).sum()  # it is a density there
    own, others = (density.nonconformity(np.array([each])) for each in (largest, at.max()))
    assert own <= others + 1e-6


def test_the_largest_density_lies_between_two_bells_that_add_up() -> None:
    two = PlaceDensity(
        np.array([0, 2]), unit_vectors(np.zeros(2), np.array([-0.5, 0.5])), np.full(2, 100.0), np.full(2, 0.5)
    )
    middle = two.at(unit_vectors(np.zeros(1), np.zeros(1)), np.zeros(1, np.int64))[0]
    assert two.largest_in([Disc.around(0.02, 0.3, 500.0)], 0) == pytest.approx(middle, rel=1e-9)
    assert two.largest_in([Disc.around(0.0, 0.0, 0.0)], 0) == pytest.approx(middle, rel=1e-9)


@settings(max_examples=4)
@given(SEEDS)
def test_of_many_areas_it_is_the_largest_of_each(seed: int) -> None:
    rng = np.random.default_rng(seed)
    density = some(seed, n_queries=2, most=14, widths=(30, 900))
    cells = CellArea.of(rng.choice(s2.cells_of_level(3), 6, replace=False))
    places = rng.uniform((-90, -180, 1), (90, 180, 3000), (6, 3))
    discs = [Disc.around(*each) for each in places.tolist()]
    areas: list[Area] = [*cells, *discs]
    for query in range(2):
        expected = max(density.largest_in([area], query) for area in areas)
        assert density.largest_in(areas, query) == pytest.approx(expected, rel=1e-9)


def test_no_place_of_a_cell_is_denser_than_the_cell() -> None:
    rng = np.random.default_rng(4)
    density = some(9, n_queries=1, most=40, widths=(80, 900))
    for area in CellArea.of(rng.choice(s2.cells_of_level(2), 20, replace=False)):
        mixed = rng.dirichlet(np.ones(4), 800) @ area.corners
        inside = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
        at = density.at(inside, np.zeros(800, np.int64))
        assert density.largest_in([area], 0) >= at.max() * (1 - 1e-6)
