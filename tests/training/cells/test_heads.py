"""Heads against plain references: what they rank by, what they learn, what is stored."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax, normalize

from indexer.cells.hierarchy import Hierarchy
from indexer.earth.geo import haversine_km
from indexer.vectors.scoring import ScoringModel, leaf_vectors, log_product
from tests.conftest import clustered_points, unit_rows
from training.cells.heads import ClassifierHead, GeocellHead, Head, best_rows
from training.config import OptimizerConfig
from training.photos.batches import Truth

WIDTH = 24


@pytest.fixture
def geocells(hierarchy: Hierarchy) -> GeocellHead:
    head = GeocellHead(hierarchy, WIDTH, negatives="all", seed=0)
    with torch.no_grad():  # levels that weigh differently, as after training
        head.log_temperatures.copy_(torch.linspace(0.03, 0.12, len(hierarchy.levels)).log())
    return head


@pytest.fixture
def classes(hierarchy: Hierarchy) -> ClassifierHead:
    return ClassifierHead(hierarchy, WIDTH, seed=0)


def scoring(head: GeocellHead, hierarchy: Hierarchy) -> ScoringModel:
    return ScoringModel(head.geocells(), hierarchy.ancestors, hierarchy.leaves.n_photos)


def learnt(head: Head, vectors: torch.Tensor, truth: Truth, *, steps: int) -> tuple[float, float]:
    """Loss at the beginning and at the end of some steps on the same vectors."""
    optimizer = torch.optim.AdamW(list(head.groups(OptimizerConfig(geocell_lr=0.03, weight_decay=0.0))))
    losses = []
    for _ in range(steps):
        loss = head.loss(vectors, truth)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        head.end_step()
        head.end_batch(truth)
        losses.append(float(loss.detach()))
    return losses[0], losses[-1]


def toy(hierarchy: Hierarchy, n: int = 300) -> tuple[torch.Tensor, Truth, np.ndarray, np.ndarray]:
    """Vectors that say where photos are, up to a fixed turn and their length, with the truth."""
    lat, lng = (column[:n] for column in clustered_points(3000, seed=7))  # whose cells these are
    truth = Truth.alone(torch.from_numpy(hierarchy.locate(lat, lng)), lat, lng)
    turn = torch.randn((3, WIDTH), generator=torch.Generator().manual_seed(1))
    waves = truth.places @ (3 * turn)
    return 5 * torch.cat([waves.sin()[:, : WIDTH // 2], waves.cos()[:, WIDTH // 2 :]], dim=1), truth, lat, lng


def test_geocells_rank_by_the_product_of_similarities(geocells: GeocellHead, hierarchy: Hierarchy) -> None:
    queries = unit_rows(200, WIDTH, seed=1)
    with torch.no_grad():
        best = best_rows(geocells.queries(3 * torch.from_numpy(queries)), geocells.rows(), block=64).numpy()
    expected = log_product(scoring(geocells, hierarchy), queries)
    chosen = np.take_along_axis(expected, best[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(chosen, expected.max(axis=1), atol=1e-4)
    assert np.mean(best == expected.argmax(axis=1)) > 0.99


def test_rows_of_geocells_are_those_of_the_index(geocells: GeocellHead, hierarchy: Hierarchy) -> None:
    ours = geocells.rows().detach().numpy()
    np.testing.assert_allclose(ours, leaf_vectors(scoring(geocells, hierarchy)), rtol=1e-5, atol=1e-5)


def test_stored_vectors_are_unit_rows_in_cell_order(geocells: GeocellHead, hierarchy: Hierarchy) -> None:
    stored = geocells.geocells()
    assert stored.hierarchy == hierarchy.digest
    assert [len(level) for level in stored.vectors] == [len(level) for level in hierarchy.levels]
    for rows, ours in zip(stored.vectors, geocells.cells, strict=True):
        np.testing.assert_allclose(np.linalg.norm(rows.astype(np.float64), axis=1), 1, atol=1e-6)
        assert ((rows * ours.detach().numpy()).sum(axis=1) > 0).all()
    np.testing.assert_allclose(stored.temperatures, [0.03, 0.075, 0.12], rtol=1e-6)


def test_temperatures_begin_as_in_the_paper(hierarchy: Hierarchy) -> None:
    fresh = GeocellHead(hierarchy, WIDTH, negatives="all", seed=0)
    assert fresh.temperatures.tolist() == pytest.approx([0.07] * len(hierarchy.levels))


def test_a_temperature_that_fell_too_far_is_stopped_and_can_rise_again(geocells: GeocellHead) -> None:
    with torch.no_grad():
        geocells.log_temperatures.fill_(math.log(0.001))
    geocells.end_step()
    assert geocells.temperatures.tolist() == pytest.approx([0.01] * 3)
    # Random vectors are far from their cells: a softer distribution would cost less, so the gradient must say so.
    targets = torch.zeros((8, 3), dtype=torch.int64)
    vectors = torch.from_numpy(unit_rows(8, WIDTH, seed=2))
    geocells.loss(vectors, Truth.alone(targets, np.zeros(8), np.zeros(8))).backward()
    assert geocells.log_temperatures.grad is not None
    assert (geocells.log_temperatures.grad < 0).all()


def test_temperatures_have_a_rate_of_their_own_that_bounds_them(hierarchy: Hierarchy) -> None:
    """By AdamW's first steps, each of which changes a weight by its rate."""
    vectors, truth, *_ = toy(hierarchy)
    moved = {}
    for rate in (None, 0.0, 1e-3):
        options = OptimizerConfig(geocell_lr=1e-4, temperature_lr=rate)
        head = GeocellHead(hierarchy, WIDTH, negatives="all", seed=0)
        before = [cells.detach().clone() for cells in head.cells]
        optimizer = torch.optim.AdamW(list(head.groups(options)))
        head.loss(vectors, truth).backward()
        optimizer.step()
        moved[rate] = (head.log_temperatures.detach() - math.log(0.07)).abs().tolist()
        assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(head.parameters()))
        for old, new in zip(before, head.cells, strict=True):
            assert float((new.detach() - old).abs().max()) == pytest.approx(1e-4, rel=0.01)
    for rate, expected in ((None, 1e-4), (0.0, 0.0), (1e-3, 1e-3)):
        assert moved[rate] == pytest.approx([expected] * len(hierarchy.levels), rel=0.01)


def test_the_length_of_a_vector_means_nothing_to_geocells(geocells: GeocellHead, hierarchy: Hierarchy) -> None:
    vectors, truth, *_ = toy(hierarchy)
    torch.testing.assert_close(geocells.loss(vectors, truth), geocells.loss(normalize(vectors, dim=-1), truth))


def test_the_classifier_searches_the_product_of_its_levels(classes: ClassifierHead, hierarchy: Hierarchy) -> None:
    """Against multiplying out the probabilities of the cells above each leaf, and as a bundle searches them."""
    vectors, *_ = toy(hierarchy)
    unit = normalize(vectors.double(), dim=-1)
    with torch.no_grad():
        logs = [
            log_softmax(unit @ weight.double().T / 0.07 + bias.double(), dim=1)[:, hierarchy.ancestors[:, level]]
            for level, (weight, bias) in enumerate(zip(classes.weights, classes.biases, strict=True))
        ]
        best = best_rows(classes.queries(vectors), classes.rows())
    product = torch.stack(logs).sum(dim=0)
    chosen = product.gather(1, best[:, None])[:, 0]
    torch.testing.assert_close(chosen, product.max(dim=1).values, atol=1e-4, rtol=0)
    stored = ScoringModel(classes.geocells(), hierarchy.ancestors, hierarchy.leaves.n_photos)
    np.testing.assert_allclose(log_product(stored, unit.float().numpy()), product.detach().numpy(), atol=1e-3)
    np.testing.assert_allclose(leaf_vectors(stored), classes.rows().detach().numpy(), rtol=1e-4, atol=1e-5)


def test_the_classifiers_loss_is_the_cross_entropy_of_each_level(classes: ClassifierHead, hierarchy: Hierarchy) -> None:
    vectors, truth, *_ = toy(hierarchy)
    expected = []
    for level, (weight, bias) in enumerate(zip(classes.weights, classes.biases, strict=True)):
        there = truth.targets[:, level] >= 0
        assert not there.all()
        unit = normalize(vectors[there], dim=-1)
        expected.append(cross_entropy(unit @ weight.T / 0.07 + bias, truth.targets[there, level]))
    sums = classes.validation_sums(vectors, truth)
    torch.testing.assert_close(sums[:, 0] / sums[:, 1], torch.stack(expected))
    torch.testing.assert_close(classes.loss(vectors, truth), torch.stack(expected).sum())


def test_a_classifier_begins_as_torchs_linear_maps_do(classes: ClassifierHead) -> None:
    torch.manual_seed(0)
    theirs = torch.nn.Linear(WIDTH, 4000)
    for ours, expected in ((classes.weights[-1], theirs.weight), (classes.biases[-1], theirs.bias)):
        assert float(ours.detach().std()) == pytest.approx(float(expected.detach().std()), rel=0.2)
        assert float(ours.detach().abs().max()) <= WIDTH**-0.5


@pytest.mark.parametrize("kind", ["geocells", "classes"])
def test_what_can_be_learnt_is_learnt(hierarchy: Hierarchy, request: pytest.FixtureRequest, kind: str) -> None:
    head: Head = request.getfixturevalue(kind)
    vectors, truth, lat, lng = toy(hierarchy)
    begin, end = learnt(head, vectors, truth, steps=120)
    assert end < begin / 2
    with torch.no_grad():
        best = best_rows(head.queries(vectors), head.rows()).numpy()
    assert np.median(haversine_km(lat, lng, head.lat_deg[best], head.lng_deg[best])) < 100
