"""Which geocells are kept: never ones that are worse by more than chance; weights are judged by the other half."""

import numpy as np
import pytest

from indexer.cells.hierarchy import Hierarchy
from indexer.errors import InputError
from indexer.vectors.prototypes import Placed
from indexer.vectors.scoring import ScoringModel
from tests.conftest import random_geocells
from training import candidates
from training.candidates import FITTED, START, TEMPERED, WEIGHTED, check_enough_to_weigh, choose, errors_km, weighted

ERRORS = np.random.default_rng(0).lognormal(5, 1.5, 400)
CHANCE = np.random.default_rng(1).permutation(ERRORS)  # as good but for chance


@pytest.mark.parametrize(
    ("others", "kept"),
    [
        ({TEMPERED: ERRORS}, TEMPERED),
        ({TEMPERED: CHANCE}, TEMPERED),
        ({TEMPERED: 2 * ERRORS}, START),
        ({TEMPERED: ERRORS, FITTED: ERRORS}, TEMPERED),
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
    assert choose({START: ERRORS, TEMPERED: ERRORS, FITTED: noisy}) == TEMPERED


def some_photos(hierarchy: Hierarchy, n: int, width: int = 8) -> Placed:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(hierarchy.leaves), n)
    lat, lng = hierarchy.leaves.lat_deg[rows].copy(), hierarchy.leaves.lng_deg[rows].copy()
    lat[: n // 10], lng[: n // 10] = -80.0, 0.0  # in no cell
    vectors = random_geocells(hierarchy, width, seed=0).vectors[-1][rows] + rng.normal(0, 0.3, (n, width))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    names = np.array([str(row) for row in rows], object)
    return Placed(vectors, hierarchy.locate(lat, lng), lat, lng, names, np.full(len(lat), -1))


def test_each_half_is_answered_with_weights_of_the_other(hierarchy: Hierarchy, monkeypatch: pytest.MonkeyPatch) -> None:
    held_out, geocells = some_photos(hierarchy, 901), random_geocells(hierarchy, 8, seed=0)
    fits, answers = [], []
    fit, answer = candidates.fit_level_weights, candidates.errors_km

    def watched_fit(model: ScoringModel, vectors: np.ndarray, leaf: np.ndarray) -> object:
        fits.append({row.tobytes() for row in vectors})
        return fit(model, vectors, leaf)

    def watched_answer(these: object, opened: Hierarchy, photos: Placed) -> np.ndarray:
        answers.append({row.tobytes() for row in photos.vectors})
        return answer(these, opened, photos)  # type: ignore[arg-type]

    monkeypatch.setattr(candidates, "fit_level_weights", watched_fit)
    monkeypatch.setattr(candidates, "errors_km", watched_answer)
    found, errors = weighted(geocells, hierarchy, held_out)
    first, second, everything = fits
    assert answers == [second, first]
    assert not first & second
    assert first | second == everything
    assert abs(len(first) - len(second)) <= 1
    np.testing.assert_array_equal(
        found.level_weights,
        fit(
            ScoringModel(geocells, hierarchy.ancestors, hierarchy.leaves.n_photos),
            held_out.vectors,
            held_out.cells[:, -1],
        ).level_weights,
    )
    assert errors.shape == (901,)
    assert np.median(errors) < np.median(errors_km(random_geocells(hierarchy, 8, seed=1), hierarchy, held_out))


def test_halves_that_are_too_small_are_refused(hierarchy: Hierarchy) -> None:
    levels = len(hierarchy.levels)
    enough = 2 * 25 * (levels + 1)
    check_enough_to_weigh(some_photos(hierarchy, int(enough / 0.9) + 2))
    with pytest.raises(InputError, match="level weights and the prior's need"):
        check_enough_to_weigh(some_photos(hierarchy, enough - 10))
