"""Which geocells are kept: only ones that are better by more than chance; weights are judged by the other half."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from indexer.cells.hierarchy import Hierarchy
from indexer.errors import InputError
from indexer.vectors.level_weights import Unseen, fit_level_weights
from indexer.vectors.prototypes import Placed
from indexer.vectors.scoring import ScoringModel
from tests.conftest import random_geocells
from training.cells import candidates
from training.cells.candidates import (
    FITTED,
    START,
    TEMPERED,
    WEIGHTED,
    check_enough_to_weigh,
    choose,
    errors_km,
    weighted,
    with_weights,
)

ERRORS = np.random.default_rng(0).lognormal(5, 1.5, 400)
CHANCE = np.random.default_rng(1).permutation(ERRORS)  # as good but for chance


@pytest.mark.parametrize(
    ("others", "kept"),
    [
        ({TEMPERED: ERRORS}, START),
        ({TEMPERED: CHANCE}, START),
        ({TEMPERED: 2 * ERRORS}, START),
        ({TEMPERED: 0.9 * ERRORS}, TEMPERED),
        ({TEMPERED: ERRORS, FITTED: ERRORS}, START),
        ({TEMPERED: 0.9 * ERRORS, FITTED: 0.9 * ERRORS}, TEMPERED),
        ({TEMPERED: ERRORS, FITTED: 0.9 * ERRORS}, FITTED),
        ({TEMPERED: 2 * ERRORS, FITTED: 0.9 * ERRORS}, FITTED),
        ({TEMPERED: 2 * ERRORS, FITTED: 1.1 * ERRORS}, START),
        ({TEMPERED: ERRORS, FITTED: 0.8 * ERRORS, WEIGHTED: 0.9 * ERRORS}, FITTED),
        ({TEMPERED: ERRORS, FITTED: 0.8 * ERRORS, WEIGHTED: 0.7 * ERRORS}, WEIGHTED),
    ],
)
def test_a_candidate_is_kept_where_it_is_better_than_the_one_before_it(
    others: dict[str, np.ndarray], kept: str
) -> None:
    assert choose({START: ERRORS, **others}) == kept


def test_gains_no_larger_than_chance_are_none() -> None:
    noisy = ERRORS * np.random.default_rng(2).lognormal(-0.01, 1.0, len(ERRORS))
    assert choose({START: ERRORS, TEMPERED: ERRORS, FITTED: noisy}) == START


def test_what_is_as_good_as_the_start_is_taken_once_in_twenty() -> None:
    rng = np.random.default_rng(3)
    taken = [choose({START: ERRORS, FITTED: ERRORS * rng.lognormal(0, 0.02, len(ERRORS))}) for _ in range(1000)]
    assert taken.count(FITTED) / 1000 == pytest.approx(0.05, abs=0.02)


def some_photos(hierarchy: Hierarchy, n: int, width: int = 8) -> Placed:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(hierarchy.leaves), n)
    lat, lng = hierarchy.leaves.lat_deg[rows].copy(), hierarchy.leaves.lng_deg[rows].copy()
    lat[: n // 10], lng[: n // 10] = -80.0, 0.0  # in no cell
    vectors = random_geocells(hierarchy, width, seed=0).vectors[-1][rows] + rng.normal(0, 0.3, (n, width))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    names = np.array([str(row) for row in rows], object)
    return Placed(vectors, hierarchy.locate(lat, lng), lat, lng, names, np.full(len(lat), -1))


@pytest.mark.parametrize("n_folds", [1, 3])
def test_each_half_is_answered_with_weights_of_the_other(
    hierarchy: Hierarchy, monkeypatch: pytest.MonkeyPatch, n_folds: int
) -> None:
    photos, geocells = some_photos(hierarchy, 901), random_geocells(hierarchy, 8, seed=0)
    held_out = [photos.take(rows) for rows in np.array_split(np.arange(901), n_folds)]
    of_folds = [replace(geocells, temperatures=geocells.temperatures * (1 + n)) for n in range(n_folds)]
    fits: list[set[bytes]] = []
    answers: list[set[bytes]] = []
    fit, answer = candidates.common_weights, candidates.errors_km

    def watched_fit(parts: Sequence[Unseen]) -> object:
        assert [part.model.geocells for part in parts] == of_folds  # each photo meets the geocells of its own fold
        fits.append({row.tobytes() for part in parts for row in part.vectors})
        return fit(parts)

    def watched_answer(these: object, opened: Hierarchy, photos: Sequence[Placed]) -> np.ndarray:
        answers.append({row.tobytes() for part in photos for row in part.vectors})
        return answer(these, opened, photos)  # type: ignore[arg-type]

    monkeypatch.setattr(candidates, "common_weights", watched_fit)
    monkeypatch.setattr(candidates, "errors_km", watched_answer)
    found, errors = weighted(of_folds, hierarchy, held_out)
    first, second, everything = fits
    assert set.union(*answers[:n_folds]) == second  # in the order of fits: of the other half, then of this one
    assert set.union(*answers[n_folds:]) == first
    assert not first & second
    assert first | second == everything
    assert abs(len(first) - len(second)) <= n_folds
    if n_folds == 1:
        model = ScoringModel(geocells, hierarchy.ancestors, hierarchy.leaves.n_photos)
        expected = fit_level_weights(model, photos.vectors, photos.cells[:, -1])
        np.testing.assert_array_equal(with_weights(geocells, found).level_weights, expected.level_weights)
        assert found[1] == expected.prior_exponent
    assert errors.shape == (901,)
    other = random_geocells(hierarchy, 8, seed=1)
    assert np.median(errors) < np.median(errors_km([other], hierarchy, [photos]))


def test_errors_of_folds_are_in_their_order(hierarchy: Hierarchy) -> None:
    photos = some_photos(hierarchy, 50)
    geocells = [random_geocells(hierarchy, 8, seed=seed) for seed in range(2)]
    parts = [photos.take(np.arange(20)), photos.take(np.arange(20, 50))]
    alone = [errors_km([each], hierarchy, [part]) for each, part in zip(geocells, parts, strict=True)]
    np.testing.assert_array_equal(errors_km(geocells, hierarchy, parts), np.concatenate(alone))


def test_halves_that_are_too_small_are_refused(hierarchy: Hierarchy) -> None:
    levels = len(hierarchy.levels)
    enough = 2 * 25 * (levels + 1)
    check_enough_to_weigh([some_photos(hierarchy, int(enough / 0.9) + 2)])
    with pytest.raises(InputError, match="level weights and the prior's need"):
        check_enough_to_weigh([some_photos(hierarchy, enough - 10)])
