"""Scores of single leaves in float64, as numpy has them, in any company."""

import numpy as np
import pytest
import torch

from indexer.bundles.bundle import Bundle
from indexer.vectors.scoring import scores_of
from search.retrieval import leaf_scores
from search.retrieval.leaf_scores import LeafScores
from tests.conftest import unit_rows
from tests.search.conftest import WIDTH


def test_pairs_have_the_scores_that_numpy_gives(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = unit_rows(6, WIDTH, seed=0)
    leaves = np.random.default_rng(1).integers(0, bundle.model.n_leaves, (6, 9))
    want = scores_of(bundle.model, queries, leaves)
    scores = LeafScores(bundle.model, torch.device("cpu"))
    row = torch.arange(6).repeat_interleave(9)
    pairs = torch.from_numpy(queries), row, torch.from_numpy(leaves.ravel())
    found = scores(*pairs)
    np.testing.assert_allclose(found.numpy().reshape(6, 9), want, rtol=1e-13)
    monkeypatch.setitem(leaf_scores._NUMBERS, "cpu", 4 * WIDTH)
    torch.testing.assert_close(scores(*pairs), found, rtol=0, atol=0)
