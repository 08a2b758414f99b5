"""Equation 1 against a loop that spells it out, and gradients against finite differences."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from training.cells.losses import classification_losses, hierarchy_loss, level_loss
from training.config import Negatives
from training.photos.batches import Truth

NEGATIVES: tuple[Negatives, ...] = ("batch", "batch_distinct", "all")


def sample(batch: int, cells: int, width: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    vectors = normalize(torch.randn(batch, width, generator=g, dtype=torch.float64), dim=-1)
    geocells = torch.randn(cells, width, generator=g, dtype=torch.float64)
    return vectors, geocells, torch.randint(0, cells, (batch,), generator=g)


def alone(targets: torch.Tensor) -> Truth:
    return Truth(targets, targets, torch.zeros((len(targets), 3)), 0)


def by_the_book(
    vectors: torch.Tensor, geocells: torch.Tensor, tau: float, targets: torch.Tensor, negatives: Negatives
) -> float:
    unit = normalize(geocells, dim=-1)
    photos = [row for row, target in enumerate(targets.tolist()) if target >= 0]
    losses = []
    for i in photos:
        own = int(targets[i])
        others = [int(targets[j]) for j in photos if j != i]
        if negatives == "batch_distinct":
            others = [cell for cell in others if cell != own]
        if negatives == "all":
            others = [cell for cell in range(len(geocells)) if cell != own]
        terms = [math.exp(float(vectors[i] @ unit[cell]) / tau) for cell in [own, *others]]
        losses.append(-math.log(terms[0] / sum(terms)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize("missing", [False, True])
def test_the_loss_is_equation_one(negatives: Negatives, missing: bool) -> None:
    vectors, geocells, targets = sample(12, 5, 6, seed=0)
    if missing:
        targets[[2, 7]] = -1
    ours = level_loss(vectors, geocells, torch.tensor(0.07), targets, negatives=negatives)
    assert float(ours) == pytest.approx(by_the_book(vectors, geocells, 0.07, targets, negatives), rel=1e-6)


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_gradients_are_those_of_finite_differences(negatives: Negatives) -> None:
    vectors, geocells, targets = sample(5, 4, 3, seed=1)
    targets[3] = -1
    tau = torch.tensor(0.5, dtype=torch.float64)
    inputs = [tensor.requires_grad_() for tensor in (vectors, geocells, tau)]
    assert torch.autograd.gradcheck(lambda v, g, t: level_loss(v, g, t, targets, negatives=negatives), inputs)


def test_repeated_cells_are_what_batch_and_batch_distinct_differ_in() -> None:
    vectors, geocells, _ = sample(4, 6, 5, seed=2)
    tau = torch.tensor(0.07)

    def loss(targets: list[int], negatives: Negatives) -> float:
        return float(level_loss(vectors, geocells, tau, torch.tensor(targets), negatives=negatives))

    assert loss([0, 1, 2, 3], "batch") == pytest.approx(loss([0, 1, 2, 3], "batch_distinct"))
    assert loss([0, 0, 2, 3], "batch") > loss([0, 0, 2, 3], "batch_distinct")


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_a_photo_without_a_cell_trains_the_other_levels_alone(negatives: Negatives) -> None:
    vectors, coarse, targets = sample(6, 4, 5, seed=3)
    vectors.requires_grad_()
    fine = sample(6, 8, 5, seed=4)[1]
    both = torch.stack([targets, torch.tensor([1, 2, -1, 3, 0, 1])], dim=1)
    taus = torch.tensor([0.07, 0.07])
    hierarchy_loss(vectors, [coarse, fine], taus, alone(both), negatives=negatives).backward()
    assert vectors.grad is not None
    first = vectors.grad[2].clone()
    vectors.grad = None
    level_loss(vectors, coarse, taus[0], targets, negatives=negatives).backward()
    torch.testing.assert_close(first, vectors.grad[2])
    assert first.abs().sum() > 0


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_a_batch_without_any_cell_costs_nothing(negatives: Negatives) -> None:
    vectors, geocells, _ = sample(3, 4, 5, seed=5)
    vectors.requires_grad_()
    loss = level_loss(vectors, geocells, torch.tensor(0.07), torch.full((3,), -1), negatives=negatives)
    loss.backward()
    assert loss.item() == 0
    assert vectors.grad is not None
    assert not vectors.grad.any()


def test_the_objective_is_the_sum_over_levels() -> None:
    vectors, coarse, targets = sample(6, 4, 5, seed=6)
    fine = sample(6, 8, 5, seed=7)[1]
    taus = torch.tensor([0.05, 0.1])
    both = alone(torch.stack([targets, targets], dim=1))
    whole = hierarchy_loss(vectors, [coarse, fine], taus, both, negatives="all")
    parts = [
        level_loss(vectors, cells, tau, targets, negatives="all")
        for cells, tau in zip([coarse, fine], taus, strict=True)
    ]
    torch.testing.assert_close(whole, sum(parts))


@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize("n_parts", [2, 3, 6])
def test_losses_and_gradients_of_the_parts_add_up_to_those_of_the_batch(negatives: Negatives, n_parts: int) -> None:
    """As by several processes, or one after another: with the cells of everyone known, nothing else is needed."""
    vectors, coarse, targets = sample(12, 4, 5, seed=8)
    fine = sample(12, 9, 5, seed=9)[1]
    both = torch.stack([targets, torch.arange(12) % 9], dim=1)
    both[[0, 1, 7], 1] = -1  # a part may have photos without a cell only
    taus = torch.tensor([0.07, 0.1], dtype=torch.float64)
    inputs = [tensor.requires_grad_() for tensor in (vectors, coarse, fine, taus)]

    def gradients(loss: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(loss, inputs))

    whole = hierarchy_loss(vectors, [coarse, fine], taus, alone(both), negatives=negatives)
    parts = [
        hierarchy_loss(
            vectors[first : first + 12 // n_parts],
            [coarse, fine],
            taus,
            alone(both)._replace(targets=both[first : first + 12 // n_parts], first=first),
            negatives=negatives,
        )
        for first in range(0, 12, 12 // n_parts)
    ]
    torch.testing.assert_close(sum(parts), whole)
    for one, other in zip(gradients(sum(parts)), gradients(whole), strict=True):  # type: ignore[arg-type]
        torch.testing.assert_close(one, other)


def test_the_loss_of_classes_is_the_cross_entropy_of_each_level_and_its_gradients_are_right() -> None:
    vectors, coarse, targets = sample(6, 4, 5, seed=10)
    fine = sample(6, 7, 5, seed=11)[1]
    both = torch.stack([targets, torch.tensor([1, 2, -1, 3, 0, -1])], dim=1)
    biases = [torch.linspace(-1, 1, len(cells), dtype=torch.float64) for cells in (coarse, fine)]
    inputs = [tensor.requires_grad_() for tensor in (vectors, coarse, fine, *biases)]

    def loss(*given: torch.Tensor) -> torch.Tensor:
        return classification_losses(given[0], given[1:3], given[3:], alone(both)).sum()

    assert torch.autograd.gradcheck(loss, inputs)
    expected = 0.0
    for level, (weight, bias) in enumerate(((coarse, biases[0]), (fine, biases[1]))):
        photos = [row for row in range(6) if both[row, level] >= 0]
        logs = (vectors @ weight.T + bias).log_softmax(dim=1).detach()
        expected -= sum(float(logs[row, both[row, level]]) for row in photos) / len(photos)
    assert loss(*inputs).item() == pytest.approx(expected, rel=1e-12)
