"""Near-duplicates: hashes that survive what people do to photos, and searches against plain loops."""

import io
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image, ImageEnhance

from indexer.errors import BundleMismatch, InputError
from indexer.vectors.features import FeatureSource, open_features, read_features
from search.evaluation import duplicates
from search.evaluation.duplicates import (
    ReferenceSet,
    check_encoders,
    nearest_by_embedding,
    nearest_by_hash,
    perceptual_hash,
)
from tests.photo_files import jpeg, picture


def hash_of(image: Image.Image) -> np.ndarray:
    value = perceptual_hash(image)
    assert value is not None
    return value


def bits(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.unpackbits(one ^ other).sum())


@pytest.mark.parametrize("seed", range(4))
def test_hashes_survive_size_quality_and_brightness(seed: int) -> None:
    original = picture(seed, 200)
    own = hash_of(original)
    changed = [
        original.resize((90, 90)),
        Image.open(io.BytesIO(jpeg(original, quality=40))),
        ImageEnhance.Brightness(original).enhance(0.8),
    ]
    assert all(bits(own, hash_of(image)) <= 6 for image in changed)
    assert bits(own, hash_of(picture(seed + 100, 200))) > 12


def test_plain_photos_have_no_hash() -> None:
    assert perceptual_hash(Image.new("RGB", (50, 50), (9, 9, 9))) is None


def block(names: list[str], values: np.ndarray) -> ReferenceSet:
    return ReferenceSet(names, np.arange(len(names), dtype=float), np.zeros(len(names)), values)


def test_hash_search_is_the_plain_loop() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 256, (30, 8), dtype=np.uint8)
    references = rng.integers(0, 256, (200, 8), dtype=np.uint8)
    references[::3] = hashes[rng.integers(0, 30, len(references[::3]))]
    references[::6, 0] ^= 1  # one bit
    blocks = [block([f"{first}-{i}" for i in range(50)], references[first : first + 50]) for first in range(0, 200, 50)]
    nearest = nearest_by_hash(hashes, [*blocks, block([], np.empty((0, 8), np.uint8))], max_bits=2)
    for row, value in enumerate(hashes):
        apart = [bits(value, reference) for reference in references]
        near = [d for d in apart if d <= 2]
        assert nearest.n_references[row] == len(near)
        assert nearest.distance[row] == (min(near) if near else np.inf)
        if near:
            first = int(np.argmin(apart))
            assert nearest.reference[row] == f"{first // 50 * 50}-{first % 50}"
            assert nearest.lat_deg[row] == first % 50
    assert nearest.found.any()


def features(folder: Path, vectors: np.ndarray, status: list[str] | None = None) -> FeatureSource:
    table = {"photo": [f"{folder.name}{row}" for row in range(len(vectors))], "embedding": vectors.tolist()}
    if status is not None:
        table["status"] = status
    folder.mkdir()
    pyarrow.parquet.write_table(pa.table(table), folder / "a.parquet")
    return open_features(folder)


def test_embedding_search_is_the_plain_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_BLOCK", 16)
    rng = np.random.default_rng(1)
    mine = rng.normal(size=(40, 6)).astype(np.float32)
    theirs = rng.normal(size=(90, 6)).astype(np.float32)
    theirs[:20] = mine[:20] * 0.5  # shorter, as means of crops are
    theirs[50] = 0
    ok = ["ok"] * 90
    ok[50] = "damaged"
    photos = read_features(features(tmp_path / "q", mine).location)
    nearest = nearest_by_embedding(photos, features(tmp_path / "r", theirs, ok), min_cosine=0.8)
    with np.errstate(invalid="ignore"):
        unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (mine.astype(float), theirs.astype(float))]
    cosine = np.nan_to_num(unit[0] @ unit[1].T, nan=-1)
    np.testing.assert_array_equal(nearest.n_references, (cosine >= 0.8).sum(axis=1))
    for row in np.flatnonzero(nearest.found):
        assert nearest.reference[row] == f"r{cosine[row].argmax()}"
        assert nearest.distance[row] == pytest.approx(1 - cosine[row].max(), abs=1e-6)
    exact = nearest_by_embedding(photos, open_features(tmp_path / "r"), min_cosine=1.0)
    assert np.flatnonzero(exact.found).tolist() == list(range(20))


def test_what_cannot_be_compared_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    photos = features(tmp_path / "q", np.eye(3))
    with pytest.raises(InputError, match="embeddings of 4 values; the photos' have 3"):
        nearest_by_embedding(read_features(photos.location), features(tmp_path / "r", np.eye(4)), min_cosine=0.9)
    with pytest.raises(InputError, match="`min_cosine`"):
        nearest_by_embedding(read_features(photos.location), photos, min_cosine=1.5)
    with pytest.raises(InputError, match="`max_bits`"):
        nearest_by_hash(np.empty((0, 8), np.uint8), [], max_bits=40)
    one, other = (FeatureSource(tmp_path, [], digest * 64, "d") for digest in "ab")
    with pytest.raises(BundleMismatch, match="two encoders"):
        check_encoders(one, other)
    check_encoders(one, photos)  # nobody recorded that one's
