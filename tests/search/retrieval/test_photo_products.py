"""Fast products of queries and photos against float64: never farther off than they say, and none is left out."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.models import device as devices
from indexer.bundles.build_config import GalleryConfig
from indexer.bundles.gallery import Gallery
from indexer.bundles.list_file import Codec, ListFile, ListWriter
from indexer.cells.hierarchy import Hierarchy
from search.retrieval import photo_products
from search.retrieval.photo_products import ByteProducts, FloatProducts, PhotoProducts, products_of
from tests.conftest import random_geocells, unit_rows
from tests.search.conftest import WIDTH
from tests.search.gallery_oracle import bundle_with_photos, photos_near_cells


@pytest.fixture(scope="module", params=["int8", "fp16", "fp32"])
def gallery(
    request: pytest.FixtureRequest,
    hierarchy: Hierarchy,
    hierarchy_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Gallery:
    geocells = random_geocells(hierarchy, WIDTH, seed=0)
    config = GalleryConfig(keep_duplicates=True, gallery_precision=request.param)
    placed = photos_near_cells(hierarchy, geocells, 300, seed=3)
    versions = tmp_path_factory.mktemp("versions")
    made = bundle_with_photos(hierarchy, hierarchy_folder, geocells, placed, versions, config=config).gallery
    assert made is not None
    return made


def ways(gallery: Gallery, queries: np.ndarray) -> list[PhotoProducts]:
    """Both, where photos are bytes."""
    scale = gallery.scale()
    plain = FloatProducts(gallery, queries)
    return [plain] if scale is None else [plain, ByteProducts(gallery, queries, *scale)]


def all_ranges(gallery: Gallery) -> tuple[np.ndarray, np.ndarray]:
    held = np.flatnonzero(np.diff(gallery.begins))
    return gallery.begins[held], gallery.begins[held + 1]


def many_kinds(seed: int) -> np.ndarray:
    """Unit vectors, means of crops, sums over albums, nothing, and vectors with a few large numbers."""
    rows = unit_rows(40, WIDTH, seed)
    spiky = np.where(np.arange(WIDTH) % 5 == 0, rows[:8], rows[:8] / 1000).astype(np.float32)
    return np.concatenate([rows, rows[:8] * 0.3, rows[:8] * 40, spiky, np.zeros((1, WIDTH), np.float32)])


@settings(max_examples=15)
@given(st.integers(0, 10**6))
def test_no_product_is_farther_off_than_it_says(gallery: Gallery, seed: int) -> None:
    queries = many_kinds(seed)
    true = queries.astype(np.float64) @ gallery.vectors(0, len(gallery)).astype(np.float64).T
    everybody = np.arange(len(queries))
    for way in ways(gallery, queries):
        photo, query, similarity = way.above(everybody, *all_ranges(gallery), np.full(len(queries), -np.inf))
        assert len(photo) == true.size  # ranges are of all rows, in order
        off = np.abs(similarity - true[query, photo])
        assert (off <= way.error[query]).all()
        np.testing.assert_array_equal(np.sort(photo * len(queries) + query), np.arange(true.size))


def test_bytes_are_near_enough_to_leave_few_photos_in_doubt(gallery: Gallery) -> None:
    for way in ways(gallery, unit_rows(50, WIDTH, seed=1)):
        assert (way.error > 0).all()
        assert way.error.max() < (0.03 if isinstance(way, ByteProducts) else 1e-5)


@settings(max_examples=15)
@given(st.integers(0, 10**6))
def test_what_reaches_the_least_is_told_and_nothing_that_surely_does_not(gallery: Gallery, seed: int) -> None:
    rng = np.random.default_rng(seed)
    queries, begins, ends = many_kinds(seed), *all_ranges(gallery)
    own = np.sort(rng.permutation(len(queries))[:17])
    ranges = np.sort(rng.permutation(len(begins))[:5])
    rows = np.concatenate([np.arange(begins[each], ends[each]) for each in ranges])
    true = (queries[own].astype(np.float64) @ gallery.vectors(0, len(gallery)).astype(np.float64).T)[:, rows]
    least = np.quantile(true, rng.random(), axis=1)
    for way in ways(gallery, queries):
        photo, query, _ = way.above(own, begins[ranges], ends[ranges], least)
        told = np.zeros(true.shape, bool)
        told[query, photo] = True
        error = way.error[own][:, None]
        assert told[true >= least[:, None] + error].all()
        # A unit of a product of bytes more: the least is rounded down to one.
        assert not told[true < least[:, None] - 2 * error - 1e-6].any()


def test_photos_in_bytes_are_multiplied_so_where_that_is_fast(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = unit_rows(3, WIDTH, seed=0)
    monkeypatch.setattr(devices.torch.cpu, "get_capabilities", lambda: {"avx512_vnni": True})
    kind = ByteProducts if gallery.facts.precision == "int8" else FloatProducts
    assert isinstance(products_of(gallery, queries), kind)
    monkeypatch.setattr(devices.torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert isinstance(products_of(gallery, queries), FloatProducts)


def test_ranges_and_rows_of_a_file_are_what_was_written(tmp_path: Path) -> None:
    """Codes of any width, also one that is no multiple of the size of an id; lists of no, one and many rows."""
    rng = np.random.default_rng(0)
    width, sizes = 7, [3, 0, 1, 40, 0, 5]
    codec = Codec.of_range(width, "int8", np.zeros(width, np.float32), np.ones(width, np.float32))
    lists = [rng.integers(0, 256, (size, width), np.uint8) for size in sizes]
    with ListWriter(tmp_path / "lists", codec, n_lists=len(sizes)) as writer:
        for codes in lists:
            writer.add([codes])
        writer.end()
    file, written = ListFile.open(tmp_path / "lists"), np.concatenate(lists)
    rows = rng.permutation(len(written))
    np.testing.assert_array_equal(file.take(rows), written[rows])
    np.testing.assert_array_equal(file.take(rows[:1]), written[rows[:1]])
    begins, ends = np.array([0, 3, 10, 44]), np.array([2, 4, 44, 49])
    for piece, begin, end in zip(file.pieces(begins, ends), begins, ends, strict=True):
        np.testing.assert_array_equal(piece, written[begin:end])
        assert not piece.flags.writeable


def test_extreme_bytes_multiply_exactly() -> None:
    """A product of bytes that saturated on the way would be wrong where queries and photos are extreme."""
    torch = photo_products.torch
    for low, high in ((-127, -128), (127, -128), (127, 127), (-127, 127)):
        queries, codes = torch.full((32, 768), low, dtype=torch.int8), torch.full((64, 768), high, dtype=torch.int8)
        assert (torch._int_mm(codes, queries.T) == 768 * low * high).all()
