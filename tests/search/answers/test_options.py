"""Bundles with every kind of leaf index in every mode: right scores, honest names, few misses, clear refusals."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder import device as devices
from indexer.bundles.bundle import Bundle
from indexer.bundles.faiss_index import flat_index, list_count
from indexer.bundles.leaf_index import IndexChoice, list_index, stand_ins
from indexer.cells.hierarchy import Hierarchy
from indexer.errors import InputError
from indexer.vectors.geocells import Geocells
from indexer.vectors.scoring import ScoringModel, leaf_vectors, log_product, log_softmax, scores_of
from search.answers.engine import Engine
from search.answers.options import ModeName, ScoreName, SearchOptions
from search.retrieval.adaptive import PROVED, SPENT, AdaptiveSearch
from search.retrieval.beam import BeamSearch
from search.retrieval.exact import ExactSearch
from search.retrieval.lists import TreeLists
from search.retrieval.searched import Searched
from tests.conftest import unit_rows
from tests.search.conftest import WIDTH, make_bundle

KINDS = [
    IndexChoice("flat", "fp32"),
    IndexChoice("flat", "fp16"),
    IndexChoice("flat", "int8"),
    IndexChoice("ivf", "fp32"),
    IndexChoice("ivf", "fp16"),
    IndexChoice("ivf", "int8"),
]
CASES = [(choice, prior) for prior in (0.0, 1.5) for choice in KINDS]
MODES: list[ModeName] = ["exact", "beam", "adaptive"]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0].kind}-{case[0].precision}-{case[1]:g}")
def bundle(
    request: pytest.FixtureRequest,
    hierarchy: Hierarchy,
    hierarchy_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Bundle:
    choice, prior = request.param
    return make_bundle(hierarchy, hierarchy_folder, tmp_path_factory.mktemp("versions"), index=choice, prior=prior)


def opened(bundle: Bundle, mode: ModeName, **options: int) -> Engine:
    return Engine(bundle, options=SearchOptions(mode, **options))


def best_of(model: ScoringModel, queries: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-log_product(model, queries), axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("mode", MODES)
def test_answers_are_nearly_always_the_best_and_scores_are_right(bundle: Bundle, mode: ModeName) -> None:
    queries = unit_rows(300, WIDTH, seed=1)
    engine = opened(bundle, mode)
    hits = engine.search(queries, k=3)
    product = log_product(bundle.model, queries)
    assert (hits.leaf[:, 0] == product.argmax(axis=1)).mean() > 0.95
    np.testing.assert_allclose(hits.score, scores_of(bundle.model, queries, hits.leaf), rtol=1e-13)
    assert (np.diff(hits.score) <= 0).all()
    assert (np.diff(hits.probability) <= 0).all()
    expected = np.take_along_axis(np.exp(log_softmax(product)), hits.leaf, axis=1)
    if mode == "exact":
        assert engine.counts == "all leaves"
        np.testing.assert_array_equal(hits.leaf, best_of(bundle.model, queries, 3))
        np.testing.assert_allclose(hits.probability, expected, rtol=1e-4)
    else:
        assert engine.counts == "visited leaves"
        exact = (bundle.index_facts.kind, bundle.index_facts.precision) != ("ivf", "int8")
        assert (hits.probability >= (1 - 1e-2 if exact else 0.9) * expected).all()  # shares of fewer leaves are larger
        assert (hits.probability.sum(axis=1) <= 1 + 1e-9).all()


@pytest.mark.parametrize("mode", MODES)
def test_every_leaf_can_be_asked_for_though_few_lists_are_visited(bundle: Bundle, mode: ModeName) -> None:
    options = {"beam": {"probes": 1}, "adaptive": {"probes": 1, "max_probes": 1}}.get(mode, {})
    n_leaves = bundle.model.n_leaves
    queries = unit_rows(20, WIDTH, seed=2)
    engine = opened(bundle, mode, **options)
    for probability in (True, False):
        hits = engine.search(queries, k=n_leaves, probability=probability)
        np.testing.assert_array_equal(hits.leaf, best_of(bundle.model, queries, n_leaves))
    assert hits.mode.tolist() == ["adaptive-proved" if mode == "adaptive" else mode] * 20


def test_auto_searches_as_the_bundle_was_built_to_be(bundle: Bundle) -> None:
    mode = "beam" if list_count(bundle.leaf_index) else "exact"
    hits = Engine(bundle).search(unit_rows(3, WIDTH, seed=0))
    assert hits.mode.tolist() == [mode] * 3
    assert Engine(bundle).search_facts["mode"] == mode


def test_a_proven_answer_is_the_answer_and_an_unproven_one_says_so(bundle: Bundle) -> None:
    queries = np.concatenate([unit_rows(200, WIDTH, seed=3), stand_ins(bundle.model, n=200, seed=4)])
    want = best_of(bundle.model, queries, 1)
    shares = []
    for budget in (1, 4, 10**9):
        hits = opened(bundle, "adaptive", probes=1, max_probes=budget).search(queries)
        proved = hits.mode == PROVED
        assert set(hits.mode) <= {PROVED, SPENT}
        np.testing.assert_array_equal(hits.leaf[proved], want[proved])
        shares.append(proved.mean())
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_a_beam_visits_what_it_is_told_to(bundle: Bundle) -> None:
    queries = unit_rows(100, WIDTH, seed=5)
    want = best_of(bundle.model, queries, 1)
    found = [(opened(bundle, "beam", probes=n).search(queries).leaf == want).mean() for n in (1, 3, 10**9)]
    assert found == sorted(found)
    assert found[0] < found[-1] == 1
    assert opened(bundle, "beam").search_facts["probes"] == bundle.beam.probes


@pytest.mark.parametrize("mode", MODES)
def test_answers_do_not_depend_on_the_batch(bundle: Bundle, mode: ModeName) -> None:
    queries = unit_rows(25, WIDTH, seed=6)
    engine = opened(bundle, mode)
    whole = engine.search(queries, k=3)
    for row in (0, 7, 24):
        single = engine.search(queries[row : row + 1], k=3)
        np.testing.assert_array_equal(single.leaf[0], whole.leaf[row])
        np.testing.assert_array_equal(single.score[0], whole.score[row])
        np.testing.assert_allclose(single.probability[0], whole.probability[row], rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("vectors", "k", "message"),
    [
        (unit_rows(2, WIDTH + 1, 0), 1, "another encoder"),
        (unit_rows(2, WIDTH, 0)[0], 1, "shape"),
        (np.full((2, WIDTH), np.nan, np.float32), 1, "not finite, the first in row 0"),
        (unit_rows(2, WIDTH, 0), 0, "top-k"),
        (unit_rows(2, WIDTH, 0), 10**6, "top-k"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_every_mode(
    engine: Engine, mode: ModeName, vectors: np.ndarray, k: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        opened(engine.bundle, mode).search(vectors, k=k)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("probability", [True, False])
def test_no_query_gives_no_answer_in_every_mode(engine: Engine, mode: ModeName, probability: bool) -> None:
    hits = opened(engine.bundle, mode).search(np.empty((0, WIDTH), np.float32), k=2, probability=probability)
    assert hits.leaf.shape == hits.score.shape == hits.probability.shape == (0, 2)
    assert hits.mode.shape == (0,)


def test_a_beam_that_was_not_measured_is_chosen_when_it_is_searched(bundle: Bundle) -> None:
    measured = Searched.of(bundle)
    chosen = TreeLists.of(Searched(bundle.model, flat_index(measured.leaf_vectors), None, "fp32"))
    assert (chosen.level, chosen.probes) == (bundle.beam.level, bundle.beam.probes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "beam", "probes": 0}, "`probes` must be at least 1"),
        ({"mode": "adaptive", "max_probes": -1}, "`max_probes` must be at least 1"),
        ({"mode": "exact", "probes": 3}, "`probes` goes with"),
        ({"probes": 3}, "`probes` goes with"),
        ({"mode": "beam", "max_probes": 3}, "`max_probes` goes with"),
        ({"mode": "adaptive", "probes": 4, "max_probes": 3}, "must not be below"),
        ({"mode": "beam", "score": "cosine-clamped"}, "leave `mode` out"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SearchOptions(**options)  # type: ignore[arg-type]


def small_model(seed: int, *, n_leaves: int = 60, n_levels: int = 3, width: int = 8) -> ScoringModel:
    """A random tree with random unit vectors; leaves of a cell are next to each other."""
    rng = np.random.default_rng(seed)
    sizes = [*sorted(rng.integers(2, n_leaves, n_levels - 1).tolist()), n_leaves]
    ancestors = np.arange(n_leaves)[:, None]
    for size in reversed(sizes[:-1]):
        _, grouped = np.unique(ancestors[:, 0] * size // ancestors[-1, 0].clip(1), return_inverse=True)
        ancestors = np.concatenate([grouped[:, None], ancestors], axis=1)
    sizes = [int(column.max()) + 1 for column in ancestors.T]
    vectors = [unit_rows(size, width, seed + number) for number, size in enumerate(sizes)]
    weights = rng.uniform(0.2, 1.5, n_levels)
    geocells = Geocells(vectors, rng.uniform(0.03, 0.2, n_levels), weights, "h", None)
    return ScoringModel(geocells, ancestors, rng.integers(1, 50, n_leaves))


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 20), st.integers(1, 60))
def test_a_proof_holds_for_any_tree_and_any_budget(seed: int, k: int, probes: int, more: int) -> None:
    model = small_model(seed)
    rows, queries = leaf_vectors(model), unit_rows(10, 8, seed + 99)
    lists = TreeLists(model, list_index(model, rows, 1), level=1, probes=1)
    searching = AdaptiveSearch(model, lists, rows, probes=probes, max_probes=probes + more)
    found = searching(queries, k, temperature=1.0)
    proved = found.mode == PROVED
    np.testing.assert_array_equal(found.leaf[proved], best_of(model, queries, k)[proved])
    assert (np.diff(found.score) <= 0).all()


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
        ExactSearch(each, torch.from_numpy(leaf_vectors(each)), low_precision=False)(queries, k, temperature=1.0)
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
    lists = TreeLists(model, list_index(model, leaf_vectors(model), 0), level=0, probes=10**6)
    scan = ExactSearch(model, torch.from_numpy(leaf_vectors(model)), low_precision=False)
    for searching in (scan, BeamSearch(model, lists)):
        found = searching(mean, k, temperature=1.0)
        np.testing.assert_array_equal(found.leaf[0], np.argsort(-product, kind="stable")[:k])


@pytest.mark.parametrize("score", ["cosine-clamped", "cosine-affine"])
def test_raw_cosines_are_multiplied_by_brute_force(bundle: Bundle, score: ScoreName) -> None:
    engine = Engine(bundle, options=SearchOptions(score=score))
    queries = unit_rows(30, WIDTH, seed=8)
    hits = engine.search(queries, k=4)
    model = bundle.model
    products = np.ones((30, model.n_leaves))
    for level, vectors in enumerate(model.geocells.vectors):
        cosine = queries.astype(float) @ vectors.T.astype(float)
        factor = cosine.clip(0) if score == "cosine-clamped" else (1 + cosine) / 2
        products *= factor[:, model.ancestors[:, level]]
    if model.bias is not None:
        products *= np.exp(model.bias)
    np.testing.assert_allclose(hits.score, -np.sort(-products, axis=1)[:, :4], rtol=1e-9)
    np.testing.assert_allclose(hits.probability, hits.score / products.sum(axis=1, keepdims=True), rtol=1e-9)
    assert hits.mode.tolist() == [score] * 30
    assert engine.search_facts["score"] == score


def test_clamped_cosines_that_are_all_zero_make_all_leaves_alike(bundle: Bundle) -> None:
    model = bundle.model
    lost = Engine(bundle, options=SearchOptions(score="cosine-clamped")).search(np.zeros((1, WIDTH), np.float32), k=3)
    assert lost.leaf[0].tolist() == [0, 1, 2]
    assert lost.score[0].tolist() == [0, 0, 0]
    np.testing.assert_allclose(lost.probability[0], 1 / model.n_leaves)


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
    cpu, gpu = (Engine(bundle, options=SearchOptions(mode), device=device) for device in ("cpu", "cuda"))
    for probability in (True, False):
        one, two = (engine.search(queries, k=5, probability=probability) for engine in (cpu, gpu))
        np.testing.assert_array_equal(one.leaf, two.leaf)
        np.testing.assert_allclose(one.score, two.score, rtol=1e-12)
        np.testing.assert_allclose(one.probability, two.probability, rtol=1e-4)
