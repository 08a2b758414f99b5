"""The reranker: what it adds against float64 by hand, its file, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from indexer.errors import ArtifactError
from indexer.vectors.reranker import N_PROPERTIES, Reranker
from tests.search.gallery_oracle import random_reranker, reranked_by_hand


def test_what_is_added_is_that_of_float64_photo_by_photo() -> None:
    reranker = random_reranker(9, 8, seed=0)
    properties = np.random.default_rng(1).normal(1, 3, (4, 6, 9)).astype(np.float32)
    properties[0, 0, 3] = properties[2, 5] = np.nan
    added = reranker(properties)
    assert added.shape == (4, 6)
    assert added.dtype == np.float64
    np.testing.assert_allclose(added, reranked_by_hand(reranker, properties), atol=1e-5)
    for query, photo in ((0, 0), (3, 2)):  # of each photo alone
        np.testing.assert_allclose(reranker(properties[query, photo]), added[query, photo], atol=1e-6)


def test_what_is_not_known_counts_as_the_mean() -> None:
    reranker = random_reranker(5, 4, seed=2)
    unknown, usual = np.full((1, 5), np.nan, np.float32), reranker.mean[None]
    np.testing.assert_allclose(reranker(unknown), reranker(usual), atol=1e-6)
    assert np.isfinite(reranker(unknown)).all()


@given(st.integers(1, 16), st.integers(0, 100))
def test_saved_and_read_again_it_is_the_same(tmp_path_factory: pytest.TempPathFactory, hidden: int, seed: int) -> None:
    reranker = random_reranker(N_PROPERTIES, hidden, seed=seed)
    path = tmp_path_factory.mktemp("reranker") / "reranker_one.safetensors"
    reranker.save(path)
    assert Reranker.load(path) == reranker
    assert random_reranker(N_PROPERTIES, hidden, seed=seed + 1) != reranker
    assert reranker != "a reranker"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mean", np.zeros(4, np.float32)),
        ("first", np.zeros((4, 3), np.float32)),
        ("first", np.zeros(5, np.float32)),
        ("second", np.zeros((3, 4), np.float32)),
        ("last", np.zeros((3, 1), np.float32)),
        ("last", np.zeros(3, np.float64)),
        ("spread", np.zeros(5, np.float32)),
        ("first_bias", np.array([0, np.nan, 0], np.float32)),
        ("second_bias", None),
        ("third", np.zeros(3, np.float32)),
    ],
)
def test_what_is_no_reranker_is_refused(tmp_path: Path, name: str, value: np.ndarray | None) -> None:
    path = tmp_path / "reranker_one.safetensors"
    random_reranker(5, 3, seed=0).save(path)
    arrays = load_file(path)
    if value is None:
        del arrays[name]
    else:
        arrays[name] = value
    save_file(arrays, path)
    with pytest.raises(ArtifactError, match=r"reranker_one.safetensors.*(Restore it|Fit it again)"):
        Reranker.load(path)


def test_one_that_sees_other_properties_is_refused(tmp_path: Path) -> None:
    random_reranker(N_PROPERTIES - 1, 3, seed=0).save(tmp_path / "reranker_one.safetensors")
    with pytest.raises(ArtifactError, match=r"reranker_one.safetensors: .* sees 8 properties .* knows 9"):
        Reranker.load(tmp_path / "reranker_one.safetensors")


@pytest.mark.parametrize("damage", ["cut", "other", "gone"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "reranker_one.safetensors"
    random_reranker(5, 3, seed=0).save(path)
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-5] if damage == "cut" else b"no tensors")
    with pytest.raises(ArtifactError, match=r"reranker_one.safetensors: cannot be read as a reranker"):
        Reranker.load(path)
