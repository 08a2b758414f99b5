"""Reference photos of answers against a search by hand, with leaves that have few or none."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from indexer.bundles.bundle import Bundle, build_bundle, open_bundle
from indexer.bundles.references import references_table
from indexer.cells.hierarchy import Hierarchy
from indexer.errors import InputError
from indexer.vectors.features import open_features
from search.answers.engine import Engine
from search.answers.options import SearchOptions
from search.answers.references import ReferencePhotos
from search.runs.local_run import run_here
from search.runs.run_spec import RunConfig
from search.runs.vectors import StoredVectors
from tests.conftest import random_geocells, unit_rows
from tests.search.conftest import WIDTH, features

COUNTS = (3, 0, 1, 5)  # reference photos of leaf 0, 1, 2, 3, and again


@pytest.fixture(scope="module")
def bundle(hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    geocells = random_geocells(hierarchy, WIDTH, seed=0)
    counts = [COUNTS[leaf % 4] for leaf in range(len(hierarchy.leaves))]
    leaf = np.repeat(np.arange(len(counts)), counts)
    rank = np.concatenate([np.arange(count) for count in counts])
    vectors = unit_rows(len(leaf), WIDTH, seed=1)
    names = np.array([f"{each}-{place}.jpg" for each, place in zip(leaf, rank, strict=True)])
    lat, lng = hierarchy.leaves.lat_deg[leaf] * 0.99, hierarchy.leaves.lng_deg[leaf] * 0.99
    table = references_table(leaf, rank, names, lat, lng, vectors)
    versions = tmp_path_factory.mktemp("versions")
    return open_bundle(build_bundle(hierarchy_folder, geocells, versions, config={}, inputs={}, references=table))


@pytest.mark.parametrize("k", [1, 2, 9])
def test_the_most_similar_photos_of_the_leaf_come_first(
    bundle: Bundle, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.answers.references._VECTORS", 5 * WIDTH * 7)
    queries, leaves = unit_rows(60, WIDTH, seed=2), np.arange(60) % bundle.model.n_leaves
    photos = ReferencePhotos(bundle)
    found = photos.most_similar(queries, leaves, k)
    assert bundle.references is not None
    rows = bundle.references.to_pylist()
    for number, (query, leaf) in enumerate(zip(queries, leaves, strict=True)):
        own = [row for row in rows if row["leaf"] == leaf]
        cosine = [float(np.dot(query, row["vector"]) / np.linalg.norm(row["vector"])) for row in own]
        order = np.argsort(-np.array(cosine), kind="stable")[:k]
        n = len(order)
        assert found.photo[number].tolist() == [own[place]["photo"] for place in order] + [None] * (k - n)
        np.testing.assert_allclose(found.cosine[number, :n], np.array(cosine)[order], atol=1e-6)
        np.testing.assert_allclose(found.lat_deg[number, :n], [own[place]["lat"] for place in order])
        assert np.isnan(found.cosine[number, n:]).all()


def test_rows_tell_them_and_may_point_at_the_first(bundle: Bundle, tmp_path: Path) -> None:
    source = features(tmp_path / "F", [40], bad={3})

    def run(name: str, **options: object) -> list[dict[str, object]]:
        engine = Engine(bundle, options=SearchOptions(**options))  # type: ignore[arg-type]
        stored = StoredVectors(engine, open_features(source), shard_rows=7)
        run_here(engine, stored, tmp_path / name, RunConfig())
        return list(pa.parquet.read_table(tmp_path / name).to_pylist())

    plain, pointed = run("plain"), run("pointed", point="reference", references=2)
    leaves = bundle.hierarchy.leaves
    for row, (one, other) in enumerate(zip(plain, pointed, strict=True)):
        assert one["key"] == other["key"]
        if row == 3:
            assert other["reference_photo"] is None
            continue
        photos = other["reference_photo"]
        assert isinstance(photos, list)
        leaf = int(np.flatnonzero(leaves.keys == other["key"])[0])
        assert len(photos) == min(2, COUNTS[leaf % 4])
        if photos:
            assert [other["lat"], other["lng"]] == [other["reference_lat"][0], other["reference_lng"][0]]  # type: ignore[index]
        else:
            assert (other["lat"], other["lng"]) == (one["lat"], one["lng"])


def test_a_bundle_without_them_says_how_to_get_some(engine: Engine) -> None:
    for options in (SearchOptions(references=1), SearchOptions(point="reference")):
        with pytest.raises(InputError, match="refit --references 5"):
            Engine(engine.bundle, options=options)
    with pytest.raises(InputError, match="at least 0"):
        SearchOptions(references=-1)
