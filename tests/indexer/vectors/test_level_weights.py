"""Level weights and the prior against torch's derivatives, and against what made the photos."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from indexer.cells.hierarchy import Hierarchy
from indexer.errors import InputError
from indexer.vectors.geocells import Geocells
from indexer.vectors.level_weights import _conditional_logit, fit_level_weights
from indexer.vectors.scoring import ScoringModel, log_product, log_softmax
from tests.conftest import random_classes, random_geocells, unit_rows

WIDTH = 12


def test_derivatives_are_those_of_autograd() -> None:
    rng = np.random.default_rng(0)
    features = [rng.normal(size=(7, 20)), rng.normal(size=(7, 20)), rng.normal(size=(1, 20))]
    truth, weights = rng.integers(0, 20, 7), rng.normal(size=3)
    loss, slope = _conditional_logit(features, truth, weights)
    free = torch.tensor(weights, requires_grad=True)
    scores = sum(weight * torch.from_numpy(feature) for weight, feature in zip(free, features, strict=True))
    expected = torch.nn.functional.cross_entropy(scores, torch.from_numpy(truth), reduction="sum")  # type: ignore[arg-type]
    expected.backward()  # type: ignore[no-untyped-call]
    assert loss == pytest.approx(expected.item())
    assert free.grad is not None
    np.testing.assert_allclose(slope, free.grad.numpy())


def model_of(hierarchy: Hierarchy, geocells: Geocells) -> ScoringModel:
    return ScoringModel(geocells, hierarchy.ancestors, hierarchy.leaves.n_photos)


def drawn(model: ScoringModel, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of photos, and their leaves, drawn from what the model's own posterior says."""
    vectors = unit_rows(n, WIDTH, seed=1)
    share = np.exp(log_softmax(log_product(model, vectors)))
    rng = np.random.default_rng(2)
    leaf = np.array([rng.choice(model.n_leaves, p=row) for row in share])
    return vectors, leaf


def test_the_weights_that_made_the_photos_are_found(hierarchy: Hierarchy) -> None:
    plain = random_geocells(hierarchy, WIDTH, seed=0)
    made = replace(plain, level_weights=np.array([0.2, 0.7, 0.4]), prior_exponent=0.6)
    fitted = fit_level_weights(model_of(hierarchy, plain), *drawn(model_of(hierarchy, made), 3000))
    np.testing.assert_allclose(fitted.level_weights, made.level_weights, atol=0.12)
    assert fitted.prior_exponent == pytest.approx(0.6, abs=0.12)
    assert (plain.level_weights == 1).all()  # the geocells that were given stay as they are


def test_biases_of_classes_are_weighed_with_their_level(hierarchy: Hierarchy) -> None:
    classes = random_classes(hierarchy, WIDTH, seed=0)
    plain = replace(classes, vectors=[level / 8 for level in classes.vectors])  # nothing is certain
    made = replace(plain, level_weights=np.array([0.9, 0.3, 0.6]))
    fitted = fit_level_weights(model_of(hierarchy, plain), *drawn(model_of(hierarchy, made), 3000))
    np.testing.assert_allclose(fitted.level_weights, made.level_weights, atol=0.12)


def test_no_level_counts_against_itself(hierarchy: Hierarchy) -> None:
    plain = random_geocells(hierarchy, WIDTH, seed=0)
    made = replace(plain, level_weights=np.array([-0.5, 1.0, 1.0]))
    fitted = fit_level_weights(model_of(hierarchy, plain), *drawn(model_of(hierarchy, made), 1500))
    assert fitted.level_weights[0] == 0


def test_too_few_photos_are_refused(hierarchy: Hierarchy) -> None:
    plain = random_geocells(hierarchy, WIDTH, seed=0)
    with pytest.raises(
        InputError, match="99 held-out photos lie in a finest cell; 3 level weights and the prior's need 100"
    ):
        fit_level_weights(model_of(hierarchy, plain), *drawn(model_of(hierarchy, plain), 99))
