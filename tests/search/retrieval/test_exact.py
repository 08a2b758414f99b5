"""Exact search: what may be done to queries and levels, and other processors, without another answer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.models import device as devices
from indexer.bundles.bundle import Bundle
from indexer.bundles.leaf_index import list_index
from indexer.vectors.scoring import leaf_vectors, log_softmax
from search.answers.engine import Engine
from search.answers.options import ModeName, SearchOptions
from search.retrieval.exact import ExactSearch
from search.retrieval.found import Wanted
from search.retrieval.lists import BeamSearch, HierarchyLists
from tests.conftest import unit_rows
from tests.search.conftest import MODES, WIDTH, opened, small_model


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.permutations(range(3)), st.integers(1, 60))
def test_the_order_of_levels_changes_nothing(seed: int, order: list[int], k: int) -> None:
    model = small_model(seed)
    geocells = model.geocells
    swapped = replace(
        model,
        ancestors=np.ascontiguousarray(model.ancestors[:, order]),
        geocells=replace(
            geocells,
            vectors=[geocells.vectors[level] for level in order],
            temperatures=geocells.temperatures[order],
            level_weights=geocells.level_weights[order],
        ),
    )
    queries = unit_rows(10, 8, seed + 99)
    one, two = (
        ExactSearch(each, torch.from_numpy(leaf_vectors(each)), low_precision=False)(
            queries, k, Wanted(temperature=1.0)
        )
        for each in (model, swapped)
    )
    np.testing.assert_array_equal(one.leaf, two.leaf)
    np.testing.assert_allclose(one.score, two.score, rtol=1e-12)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(2, 12), st.integers(1, 5))
def test_crops_are_one_query_with_the_mean_of_their_logits(seed: int, n_crops: int, k: int) -> None:
    model = small_model(seed)
    crops = unit_rows(n_crops, 8, seed + 99)
    product = np.zeros(model.n_leaves)
    for level, vectors in enumerate(model.geocells.vectors):
        logits = (crops.astype(float) @ vectors.T.astype(float)).mean(axis=0) / model.geocells.temperatures[level]
        product += model.geocells.level_weights[level] * log_softmax(logits)[model.ancestors[:, level]]
    mean = crops.mean(axis=0, keepdims=True)
    lists = HierarchyLists(model, list_index(model, leaf_vectors(model), 0), level=0, probes=10**6)
    scan = ExactSearch(model, torch.from_numpy(leaf_vectors(model)), low_precision=False)
    for searching in (scan, BeamSearch(model, lists)):
        found = searching(mean, k, Wanted(temperature=1.0))
        np.testing.assert_array_equal(found.leaf[0], np.argsort(-product, kind="stable")[:k])


def test_a_processor_with_bfloat16_gives_the_same_answers(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = unit_rows(100, WIDTH, seed=9)
    plain = opened(bundle, "exact").search(queries, k=5, probability=False)
    monkeypatch.setattr(devices.torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    quick = opened(bundle, "exact").search(queries, k=5, probability=False)
    np.testing.assert_array_equal(quick.leaf, plain.leaf)
    np.testing.assert_array_equal(quick.score, plain.score)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", MODES)
def test_a_gpu_answers_as_the_cpu_does(bundle: Bundle, mode: ModeName) -> None:
    queries = unit_rows(500, WIDTH, seed=10)
    cpu, gpu = (Engine(bundle, options=SearchOptions(mode=mode), device=device) for device in ("cpu", "cuda"))
    for probability in (True, False):
        one, two = (engine.search(queries, k=5, probability=probability) for engine in (cpu, gpu))
        np.testing.assert_array_equal(one.leaf, two.leaf)
        np.testing.assert_allclose(one.score, two.score, rtol=1e-12)
        np.testing.assert_allclose(one.probability, two.probability, rtol=1e-4)
