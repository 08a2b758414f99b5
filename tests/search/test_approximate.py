"""Bundles with every kind of leaf index: right scores, few misses, and modes that do not claim too much."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from indexer.bundle import build_bundle, open_bundle
from indexer.faiss_index import list_count, set_probes
from indexer.hierarchy import Hierarchy
from indexer.leaf_index import IndexChoice
from indexer.scoring import log_product, log_softmax, scores_of
from search.engine import Engine
from tests.conftest import random_geocells, unit_rows
from tests.search.conftest import WIDTH

KINDS = [
    IndexChoice("flat", "fp16"),
    IndexChoice("flat", "int8"),
    IndexChoice("ivf", "fp32"),
    IndexChoice("ivf", "fp16"),
    IndexChoice("ivf", "int8"),
]
CASES = [(choice, prior) for prior in (0.0, 1.5) for choice in KINDS]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0].kind}-{case[0].precision}-{case[1]:g}")
def engine(
    request: pytest.FixtureRequest,
    hierarchy: Hierarchy,
    hierarchy_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Engine:
    choice, prior = request.param
    versions = tmp_path_factory.mktemp("versions")
    geocells = replace(random_geocells(hierarchy, WIDTH, seed=0), prior_exponent=prior)
    return Engine(open_bundle(build_bundle(hierarchy_folder, geocells, versions, config={}, inputs={}, index=choice)))


def test_answers_are_nearly_always_the_best_and_scores_are_right(engine: Engine) -> None:
    queries = unit_rows(300, WIDTH, seed=1)
    hits = engine.search(queries, k=3)
    product = log_product(engine.bundle.model, queries)
    assert (hits.leaf[:, 0] == product.argmax(axis=1)).mean() > 0.95
    np.testing.assert_allclose(hits.score, scores_of(engine.bundle.model, queries, hits.leaf), rtol=1e-13)
    assert (np.diff(hits.score) <= 0).all()
    expected = np.exp(log_softmax(product))
    np.testing.assert_allclose(hits.probability, np.take_along_axis(expected, hits.leaf, axis=1), rtol=1e-4)


def test_the_mode_names_the_index(engine: Engine) -> None:
    facts = engine.bundle.manifest.facts["leaf_index"]
    assert engine.search(unit_rows(1, WIDTH, seed=0)).mode == f"{facts['kind']}-{facts['precision']}"
    assert engine.mode != "exact"


def test_every_leaf_can_be_asked_for_though_few_lists_are_visited(engine: Engine) -> None:
    if list_count(engine.bundle.leaf_index):
        set_probes(engine.bundle.leaf_index, 1)
    n_leaves = engine.bundle.model.n_leaves
    hits = engine.search(unit_rows(20, WIDTH, seed=2), k=n_leaves)
    np.testing.assert_array_equal(np.sort(hits.leaf, axis=1), np.tile(np.arange(n_leaves), (20, 1)))


def test_full_width_lists_are_exact(hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path: Path) -> None:
    geocells = random_geocells(hierarchy, WIDTH, seed=0)
    choice = IndexChoice("ivf")
    opened = open_bundle(build_bundle(hierarchy_folder, geocells, tmp_path, config={}, inputs={}, index=choice))
    set_probes(opened.leaf_index, list_count(opened.leaf_index))
    queries = unit_rows(200, WIDTH, seed=3)
    want = log_product(opened.model, queries).argmax(axis=1)
    np.testing.assert_array_equal(Engine(opened).search(queries).leaf[:, 0], want)
