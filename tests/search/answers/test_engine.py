"""The engine's answers: probabilities that sum to one, paths, refusals, and staying with one version."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from indexer.bundles.bundle import build_bundle, open_bundle
from indexer.bundles.registry import Registry
from indexer.cells.hierarchy import Hierarchy
from indexer.errors import BundleMismatch, InputError
from indexer.vectors.scoring import leaf_vectors, level_log_probabilities, log_product, log_softmax
from search.answers.engine import Engine
from search.answers.options import SearchOptions
from tests.conftest import random_classes, random_geocells, unit_rows
from tests.search.conftest import MODES, WIDTH, opened


def test_probability_is_the_softmax_over_all_leaves(engine: Engine) -> None:
    queries = unit_rows(40, WIDTH, seed=1)
    n_leaves = engine.bundle.model.n_leaves
    hits = engine.search(queries, k=n_leaves)
    np.testing.assert_allclose(hits.probability.sum(axis=1), 1, atol=1e-5)
    expected = np.exp(log_softmax(log_product(engine.bundle.model, queries)))
    np.testing.assert_allclose(hits.probability, np.take_along_axis(expected, hits.leaf, axis=1), atol=1e-6)
    assert (np.diff(hits.score) <= 0).all()
    assert set(hits.mode) == {"exact"}


def test_no_probability_exceeds_one_and_a_sure_answer_says_how_sure(
    hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path: Path
) -> None:
    home = Registry(tmp_path)
    cold = replace(random_geocells(hierarchy, WIDTH, seed=0), temperatures=np.full(3, 0.012))
    home.publish(build_bundle(hierarchy_folder, cold, home.versions_folder, config={}, inputs={}).name)
    engine = Engine.open(home.path)
    # The direction of each leaf vector: a query as near to its own leaf as can be.
    leaf = leaf_vectors(engine.bundle.model)
    queries = (leaf / np.linalg.norm(leaf, axis=1, keepdims=True)).astype(np.float32)
    probability = engine.search(queries, k=2).probability
    assert (probability <= 1).all()
    assert probability[:, 0].max() > 0.999
    logs = log_product(engine.bundle.model, queries)
    sure = log_softmax(logs)
    missing = 1 - np.exp(sure.max(axis=1))
    np.testing.assert_allclose(1 - probability[:, 0], missing, rtol=1e-3, atol=1e-13)


def test_classes_of_a_classifier_are_found_in_every_mode_but_have_no_cosines(
    hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path: Path
) -> None:
    classes = random_classes(hierarchy, WIDTH, seed=2)
    bundle = open_bundle(build_bundle(hierarchy_folder, classes, tmp_path, config={}, inputs={}))
    queries = unit_rows(60, WIDTH, seed=4)
    logs = log_product(bundle.model, queries)
    for mode in MODES:
        every = {} if mode == "exact" else {"probes": len(hierarchy.levels[bundle.beam.level])}
        hits = opened(bundle, mode, **every).search(queries, k=3)
        np.testing.assert_array_equal(hits.leaf, np.argsort(-logs, axis=1, kind="stable")[:, :3])
    exact = Engine(bundle).search(queries, k=3)
    expected = np.take_along_axis(np.exp(log_softmax(logs)), exact.leaf, axis=1)
    np.testing.assert_allclose(exact.probability, expected, atol=1e-5)
    with pytest.raises(InputError, match="classes of a classifier"):
        Engine(bundle, options=SearchOptions(score="cosine-affine")).search(queries, k=1)


def test_a_prefix_of_the_answers_is_the_answer_to_a_smaller_k(engine: Engine) -> None:
    queries = unit_rows(30, WIDTH, seed=2)
    many, few = engine.search(queries, k=9), engine.search(queries, k=2)
    np.testing.assert_array_equal(many.leaf[:, :2], few.leaf)
    np.testing.assert_allclose(many.probability[:, :2], few.probability)


def test_answers_do_not_depend_on_the_batch(engine: Engine) -> None:
    queries = unit_rows(25, WIDTH, seed=3)
    whole = engine.search(queries, k=3)
    for row in (0, 7, 24):
        single = engine.search(queries[row : row + 1], k=3)
        np.testing.assert_array_equal(single.leaf[0], whole.leaf[row])
        np.testing.assert_allclose(single.probability[0], whole.probability[row], rtol=1e-5)


def test_paths_lead_to_the_leaf_with_the_papers_probabilities(engine: Engine, hierarchy: Hierarchy) -> None:
    queries = unit_rows(10, WIDTH, seed=4)
    leaves = engine.search(queries).leaf[:, 0]
    cell, probability = engine.paths(engine.prepared(queries), leaves)
    np.testing.assert_array_equal(cell, hierarchy.ancestors[leaves])
    for level in range(3):
        expected = np.exp(level_log_probabilities(engine.bundle.model, queries, level=level))
        np.testing.assert_allclose(probability[:, level], expected[np.arange(10), cell[:, level]])
    np.testing.assert_allclose(
        np.log(probability).sum(axis=1), log_product(engine.bundle.model, queries)[np.arange(10), leaves]
    )


def test_another_encoders_vectors_are_refused(engine: Engine) -> None:
    engine.check_encoder("e" * 64, source="C")
    engine.check_encoder(None, source="C")
    with pytest.raises(BundleMismatch, match=r"built for eeeeeeee.*python -m indexer build"):
        engine.check_encoder("f" * 64, source="C")


def test_a_bundle_of_an_unknown_encoder_takes_any(hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path: Path) -> None:
    home = Registry(tmp_path)
    geocells = random_geocells(hierarchy, WIDTH, seed=0, encoder=None)
    home.publish(build_bundle(hierarchy_folder, geocells, home.versions_folder, config={}, inputs={}).name)
    Engine.open(home.path).check_encoder("f" * 64, source="C")


def test_an_open_engine_stays_with_its_version(hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path: Path) -> None:
    home = Registry(tmp_path)
    for seed in (0, 1):
        geocells = random_geocells(hierarchy, WIDTH, seed)
        home.publish(build_bundle(hierarchy_folder, geocells, home.versions_folder, config={}, inputs={}).name)
        if seed == 0:
            first = Engine.open(home.path)
            before = first.search(unit_rows(5, WIDTH, 0))
    second = Engine.open(home.path)
    assert second.bundle.version != first.bundle.version
    np.testing.assert_array_equal(first.search(unit_rows(5, WIDTH, 0)).score, before.score)
    by_name = Engine.open(home.path, version=first.bundle.version[:12])
    np.testing.assert_array_equal(by_name.search(unit_rows(5, WIDTH, 0)).score, before.score)


def test_level_weights_change_the_answer_as_exponents(
    hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path: Path
) -> None:
    home = Registry(tmp_path)
    geocells = replace(random_geocells(hierarchy, WIDTH, seed=0), level_weights=np.array([0.0, 0.0, 1.0]))
    home.publish(build_bundle(hierarchy_folder, geocells, home.versions_folder, config={}, inputs={}).name)
    queries = unit_rows(20, WIDTH, seed=5)
    finest = queries.astype(float) @ geocells.vectors[2].T.astype(float)
    np.testing.assert_array_equal(Engine.open(home.path).search(queries).leaf[:, 0], finest.argmax(axis=1))


def test_a_reader_keeps_answering_from_a_version_that_was_retired(
    hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path: Path
) -> None:
    home = Registry(tmp_path / "R")
    old, new = (
        build_bundle(
            hierarchy_folder, random_geocells(hierarchy, WIDTH, seed), home.versions_folder, config={}, inputs={}
        ).name
        for seed in (0, 1)
    )
    home.publish(old)
    engine = Engine.open(home.path)
    queries = unit_rows(30, WIDTH, seed=4)
    before = engine.search(queries, k=5)
    cell, _ = engine.paths(queries, before.leaf[:, 0])
    home.publish(new)
    home.retire(old)
    assert not engine.bundle.path.exists()
    after = engine.search(queries, k=5)
    np.testing.assert_array_equal(after.leaf, before.leaf)
    np.testing.assert_array_equal(after.score, before.score)
    np.testing.assert_array_equal(engine.paths(queries, after.leaf[:, 0])[0], cell)
    assert engine.bundle.version == old
    assert Engine.open(home.path).bundle.version == new
    with pytest.raises(InputError, match="retired"):
        Engine.open(home.path, version=old)
