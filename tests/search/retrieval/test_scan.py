"""The exhaustive first look: the best of all rows whatever the blocks, honest ceilings, and the sum over all others."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search.retrieval import scan
from search.retrieval.scan import LeafScan
from tests.conftest import unit_rows


@pytest.fixture(params=[(64, 1 << 16, 1 << 10), (4, 40, 16), (3, 7, 2)], ids=str)
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(("_COLUMN", "_PASS", "_PRODUCT"), request.param, strict=True):
        monkeypatch.setattr(scan, name, value)


def world(n_rows: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return unit_rows(n_rows, width, seed) * rng.uniform(5, 40, (n_rows, 1)).astype(np.float32), unit_rows(
        7, width, seed + 1
    )


KINDS = [(torch.float32, False), (torch.float32, True), (torch.float16, False)]


@pytest.mark.parametrize(("kind", "low"), KINDS, ids=["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("n_rows", [1, 2, 63, 64, 65, 200])
@pytest.mark.parametrize("n", [1, 5, 200])
@pytest.mark.usefixtures("blocks")
def test_candidates_hold_the_best_and_others_are_below_the_ceiling(
    kind: torch.dtype, low: bool, n_rows: int, n: int
) -> None:
    rows, queries = world(n_rows, 12, seed=n_rows)
    n = min(n, n_rows)
    truth = queries.astype(float) @ rows.astype(float).T
    found = LeafScan(torch.from_numpy(rows).to(kind), low_precision=low).best(torch.from_numpy(queries), n)
    for row in range(len(queries)):
        leaf = found.leaf[row].numpy()
        leaf = leaf[leaf >= 0]
        score = found.score[row].numpy()[: len(leaf)]
        assert len(set(leaf)) == len(leaf) >= n
        assert (np.diff(found.score[row].numpy()[: len(leaf)]) <= 0).all()
        assert (np.abs(score - truth[row, leaf]) <= found.error[row].item()).all()
        others = np.delete(truth[row], leaf)
        reach = np.sort(truth[row])[::-1][n - 1]
        # What is left out is below the ceiling, or too low to be among the n best.
        assert (others <= max(found.ceiling[row].item(), reach)).all()


@pytest.mark.parametrize(("kind", "low"), KINDS, ids=["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("n_rows", [1, 64, 65, 200])
@pytest.mark.parametrize("held", [1, 1 << 23])
@pytest.mark.usefixtures("blocks")
def test_all_scores_come_with_the_best_of_them(
    kind: torch.dtype, low: bool, n_rows: int, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, queries = (torch.from_numpy(each) for each in world(n_rows, 12, seed=n_rows))
    looking = LeafScan(rows.to(kind), low_precision=low)
    monkeypatch.setattr(looking, "_held", held)
    truth = queries.double() @ rows.to(kind).double().T
    n, seen = min(9, n_rows), []
    for block, scores in looking.scores(queries):
        assert bool((scores[:, n_rows:] == -torch.inf).all())
        torch.testing.assert_close(scores[:, :n_rows].double(), truth[block], rtol=1e-5, atol=1e-4)
        found = looking.best_of(queries[block], scores, n)
        torch.testing.assert_close(found.score.double(), truth[block].topk(n).values, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(found.score, scores.gather(1, found.leaf))
        others = truth[block].scatter(1, found.leaf, -torch.inf).amax(dim=1)
        assert bool((others <= found.ceiling).all())
        seen.append(len(scores))
    assert sum(seen) == len(queries)
    assert len(seen) == (len(queries) if held == 1 else 1)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 50.0])
@pytest.mark.parametrize("n_rows", [1, 2, 65, 200])
@pytest.mark.usefixtures("blocks")
def test_others_add_up_to_all_but_the_first(temperature: float, n_rows: int) -> None:
    rows, queries = world(n_rows, 12, seed=n_rows)
    looking = LeafScan(torch.from_numpy(rows), low_precision=False)
    found, others = looking.best_and_others(torch.from_numpy(queries), min(9, n_rows), temperature)
    truth = queries.astype(float) @ rows.astype(float).T / temperature
    for row in range(len(queries)):
        rest = np.delete(truth[row], found.leaf[row, 0].item())
        want = np.logaddexp.reduce(rest) if rest.size else -np.inf
        assert others[row].item() == pytest.approx(want, abs=1e-4 / temperature + 1e-6)


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 300), st.floats(0.01, 1000), st.integers(1, 40))
def test_no_score_is_further_off_than_said(seed: int, width: int, scale: float, n: int) -> None:
    rows, queries = (unit_rows(40, width, seed) * np.float32(scale)), unit_rows(3, width, seed + 1)
    truth = queries.astype(float) @ rows.astype(float).T
    for kind, low in KINDS:
        if kind == torch.float16 and scale * 1.0 > 60_000:
            continue
        found = LeafScan(torch.from_numpy(rows).to(kind), low_precision=low).best(torch.from_numpy(queries), n)
        known = found.leaf >= 0
        exact = np.take_along_axis(truth, found.leaf.clamp(min=0).numpy(), axis=1)
        off = (found.score.double() - torch.from_numpy(exact)).abs()
        assert bool((off <= found.error[:, None])[known].all())


def test_bfloat16_leaves_most_candidates_out_before_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, queries = world(500, 64, seed=0)
    found = LeafScan(torch.from_numpy(rows), low_precision=True).best(torch.from_numpy(queries), 1)
    assert (found.leaf >= 0).sum() < found.leaf.numel()
    truth = queries.astype(float) @ rows.astype(float).T
    assert found.leaf[:, 0].tolist() == truth.argmax(axis=1).tolist()
