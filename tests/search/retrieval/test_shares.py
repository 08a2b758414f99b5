"""Shares of a softmax are those of float64, and nothing where there is nothing."""

import numpy as np
import torch

from search.retrieval.shares import shares


def test_shares_are_exponentials_of_what_scores_lack_to_the_best() -> None:
    score = np.random.default_rng(0).normal(-150, 60, (5, 1003))
    score[:, 7] = -np.inf
    score[3] = -np.inf
    score[3, 2] = 4.0
    best = score.max(axis=1, keepdims=True)
    given = torch.from_numpy(score.astype(np.float32))
    found = shares(given, torch.from_numpy(best.astype(np.float32)), 1.5).numpy()
    expected = np.exp((score - best) / 1.5)
    large = expected > 1e-30
    np.testing.assert_allclose(found[large], expected[large], rtol=1e-4)
    assert (found[expected < 1.9e-38] == 0).all()
    assert (found[:, 7] == 0).all()
    assert found.max(axis=1).tolist() == [1.0] * 5
    assert (found[3] > 0).sum() == 1
