"""The gallery on disk: FAISS reads it to the last bit, it is mapped, and damage is found."""

import re
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from indexer.bundles import gallery as gallery_module
from indexer.bundles.build_config import GalleryConfig
from indexer.bundles.gallery import PHOTOS_FILE, VECTORS_FILE, Gallery, gallery_facts, open_gallery
from indexer.bundles.gallery_builds import write_gallery
from indexer.bundles.list_file import Codec
from indexer.cells.hierarchy import Hierarchy
from indexer.errors import ArtifactError
from indexer.vectors.prototypes import Placed
from tests.conftest import random_geocells, unit_rows
from tests.indexer.bundles.gallery_worlds import WIDTH, all_names, photos, write

PRECISIONS = ("int8", "fp16", "fp32")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_faiss_opens_it_and_decodes_the_same_bits(hierarchy: Hierarchy, tmp_path: Path, precision: str) -> None:
    _, gallery = write(tmp_path, photos(hierarchy), hierarchy, GalleryConfig(gallery_precision=precision))
    rows = gallery.vectors(0, len(gallery))
    for flags in (0, faiss.IO_FLAG_MMAP):
        index = faiss.read_index(str(tmp_path / VECTORS_FILE), flags)
        assert (index.ntotal, index.d, index.nlist) == (len(gallery), WIDTH, len(hierarchy.leaves))
        assert index.metric_type == faiss.METRIC_INNER_PRODUCT
        for leaf in range(index.nlist):
            begin, end = gallery.begins[leaf : leaf + 2].tolist()
            assert index.invlists.list_size(leaf) == end - begin
            if begin == end:
                continue
            ids = faiss.rev_swig_ptr(index.invlists.get_ids(leaf), end - begin)
            np.testing.assert_array_equal(ids, np.arange(begin, end))
            codes = faiss.rev_swig_ptr(index.invlists.get_codes(leaf), (end - begin) * index.code_size)
            np.testing.assert_array_equal(codes.reshape(end - begin, -1), gallery.codes(leaf))
        index.make_direct_map()
        np.testing.assert_array_equal(np.stack([index.reconstruct(row) for row in range(len(gallery))]), rows)
    if precision == "int8":
        codes = np.concatenate([gallery.codes(leaf) for leaf in range(gallery.n_leaves)])
        np.testing.assert_array_equal(index.sq.decode(codes), rows)
        offset, step = gallery.scale()
        np.testing.assert_allclose(offset + step * codes, rows, atol=1e-6)
    else:
        assert gallery.scale() is None


def test_faiss_searches_its_lists(hierarchy: Hierarchy, tmp_path: Path) -> None:
    _, gallery = write(tmp_path, photos(hierarchy), hierarchy)
    index = faiss.read_index(str(tmp_path / VECTORS_FILE), faiss.IO_FLAG_MMAP)
    query = unit_rows(4, WIDTH, 5)
    best = np.argmax(query @ gallery.vectors(0, len(gallery)).T, axis=1)
    lists = gallery.leaf[best].astype(np.int64)[:, None]
    _, found = index.search_preassigned(query, 1, lists, np.zeros((4, 1), np.float32))
    np.testing.assert_array_equal(found[:, 0], best)


def test_names_are_found_in_any_order_over_row_groups(
    hierarchy: Hierarchy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery_module, "_ROWS", 7)
    _, gallery = write(tmp_path, photos(hierarchy, alike=0), hierarchy, GalleryConfig(keep_duplicates=True))
    assert gallery.texts("photo").num_chunks > 2
    names = np.array(pa.parquet.read_table(tmp_path / PHOTOS_FILE)["photo"].to_pylist(), object)
    rows = np.random.default_rng(0).integers(0, len(gallery), (3 * len(gallery),))
    np.testing.assert_array_equal(gallery.names(rows), names[rows])
    assert gallery.names(rows[:0]).tolist() == []


@pytest.mark.parametrize(("precision", "error"), [("int8", 5e-3), ("fp16", 1e-3), ("fp32", 1e-6)])
def test_every_row_is_its_photo(hierarchy: Hierarchy, tmp_path: Path, precision: str, error: float) -> None:
    world = photos(hierarchy, alike=0)
    config = GalleryConfig(gallery_precision=precision, keep_duplicates=True)
    _, gallery = write(tmp_path, world, hierarchy, config)
    row_of = {name: row for row, name in enumerate(world.placed.photo)}
    rows = [row_of[name] for name in all_names(gallery)]
    assert sorted(rows) == list(range(len(world.leaf)))
    np.testing.assert_allclose(gallery.vectors(0, len(gallery)), world.placed.vectors[rows], atol=error)
    np.testing.assert_array_equal(gallery.leaf, world.leaf[rows])
    np.testing.assert_array_equal(gallery.lat_deg, world.placed.lat_deg[rows])
    np.testing.assert_array_equal(gallery.lng_deg, world.placed.lng_deg[rows])
    np.testing.assert_array_equal(gallery.stands_for, 1)
    assert (np.diff(gallery.begins) == 0).any()
    begin, end = 7, 41  # of several lists
    np.testing.assert_array_equal(gallery.vectors(begin, end), gallery.vectors(0, len(gallery))[begin:end])
    assert gallery.vectors(5, 5).shape == (0, WIDTH)
    assert gallery.owners(np.arange(3)) is None


def test_vectors_are_mapped_and_cannot_be_written(hierarchy: Hierarchy, tmp_path: Path) -> None:
    _, gallery = write(tmp_path, photos(hierarchy), hierarchy)
    codes = gallery.codes(int(np.argmax(np.diff(gallery.begins))))
    base = codes
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        codes[0] = 0
    before = gallery.vectors(0, len(gallery))
    (tmp_path / VECTORS_FILE).unlink()  # a version that is retired stays with who has it open
    np.testing.assert_array_equal(gallery.vectors(0, len(gallery)), before)


def test_memory_is_bounded_while_it_is_written_and_read(hierarchy: Hierarchy, tmp_path: Path) -> None:
    width, n, batches = 1024, 100, 40
    leaves = hierarchy.leaves
    geocells = random_geocells(hierarchy, width, seed=0)

    def stream() -> "object":
        for number in range(batches):
            rng = np.random.default_rng(number)
            near = rng.integers(0, len(leaves), n)
            lat, lng = leaves.lat_deg[near], leaves.lng_deg[near]
            names = np.array([f"{number}/{row}" for row in range(n)], object)
            yield Placed(unit_rows(n, width, number), hierarchy.locate(lat, lng), lat, lng, names, np.full(n, -1))

    list(stream())  # what the batches themselves take, once
    (tmp_path / "first").mkdir()  # and imports
    write_gallery(tmp_path / "first", islice(stream(), 1), geocells, hierarchy, GalleryConfig())
    tracemalloc.start()
    written = write_gallery(tmp_path, stream(), geocells, hierarchy, GalleryConfig())
    made = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    gallery = open_gallery(tmp_path, asdict(written.facts), n_leaves=len(leaves), width=width)
    opened = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(gallery) == n * batches
    whole = n * batches * width * 4
    assert made < whole / 3
    assert opened < whole / 8


def damaged(folder: Path, file: str, content: bytes) -> None:
    (folder / file).write_bytes(content)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("file", [VECTORS_FILE, PHOTOS_FILE])
def test_cut_and_damaged_files_are_clean_errors(
    hierarchy: Hierarchy, tmp_path: Path, file: str, precision: str
) -> None:
    config = GalleryConfig(gallery_precision=precision)
    written, _ = write(tmp_path, photos(hierarchy, n=120, alike=0), hierarchy, config)
    content = (tmp_path / file).read_bytes()
    for cut in (0, 3, 40, len(content) // 2, len(content) - 1):
        damaged(tmp_path, file, content[:cut])
        with pytest.raises(ArtifactError, match=re.escape(file)):
            reopened(tmp_path, asdict(written.facts), hierarchy)
    for other in (b"\0" * len(content), content[::-1], b"PAR1" * 100):
        damaged(tmp_path, file, other)
        with pytest.raises(ArtifactError, match=re.escape(file)):
            reopened(tmp_path, asdict(written.facts), hierarchy)
    (tmp_path / file).unlink()
    with pytest.raises(ArtifactError, match=re.escape(file)):
        reopened(tmp_path, asdict(written.facts), hierarchy)


def reopened(folder: Path, facts: dict | None, hierarchy: Hierarchy, *, leaves: int = 0, width: int = WIDTH) -> Gallery:
    gallery = open_gallery(folder, facts, n_leaves=len(hierarchy.leaves) + leaves, width=width)
    assert gallery is not None
    return gallery


def test_another_number_of_leaves_or_width_is_refused(hierarchy: Hierarchy, tmp_path: Path) -> None:
    written, _ = write(tmp_path, photos(hierarchy), hierarchy)
    facts = asdict(written.facts)
    for wrong in ({"leaves": 1}, {"width": WIDTH + 1}):
        with pytest.raises(ArtifactError, match="are expected"):
            reopened(tmp_path, facts, hierarchy, **wrong)
    for change in ({"photos": 3}, {"precision": "fp16"}, {"owners": True}, {"width": 3}):
        with pytest.raises(ArtifactError, match="not about the photos"):
            reopened(tmp_path, facts | change, hierarchy)
    for change in ({"photos": "many"}, {"precision": "pq"}, {"unknown": 1}):
        with pytest.raises(ArtifactError, match="nothing usable of its GalleryFacts"):
            reopened(tmp_path, facts | change, hierarchy)
    assert open_gallery(tmp_path, None, n_leaves=1, width=1) is None
    assert gallery_facts(None) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.slice(1),
        lambda table: table.take(np.arange(table.num_rows)[::-1]),
        lambda table: table.set_column(0, "leaf", pa.array(np.full(table.num_rows, -1, np.int32))),
        lambda table: table.set_column(2, "lat", pa.array(np.full(table.num_rows, 91.0))),
        lambda table: table.set_column(3, "lng", pa.array(np.full(table.num_rows, np.nan))),
        lambda table: table.set_column(4, "stands_for", pa.array(np.zeros(table.num_rows, np.float32))),
        lambda table: table.drop_columns(["photo"]),
        lambda table: table.drop_columns(["lat"]),
    ],
)
def test_a_table_of_other_photos_is_refused(
    hierarchy: Hierarchy, tmp_path: Path, change: Callable[[pa.Table], pa.Table]
) -> None:
    written, _ = write(tmp_path, photos(hierarchy), hierarchy)
    table = pyarrow.parquet.read_table(tmp_path / PHOTOS_FILE)
    pyarrow.parquet.write_table(change(table), tmp_path / PHOTOS_FILE)
    with pytest.raises(ArtifactError, match=re.escape(PHOTOS_FILE)):
        reopened(tmp_path, asdict(written.facts), hierarchy)


def test_another_kind_of_index_is_refused(hierarchy: Hierarchy, tmp_path: Path) -> None:
    written, _ = write(tmp_path, photos(hierarchy), hierarchy)
    other = faiss.IndexFlatIP(WIDTH)
    residual = faiss.IndexIVFScalarQuantizer(
        other, WIDTH, len(hierarchy.leaves), faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    for index in (other, residual):
        faiss.write_index(index, str(tmp_path / VECTORS_FILE))
        with pytest.raises(ArtifactError, match="not inverted lists of a known kind"):
            reopened(tmp_path, asdict(written.facts), hierarchy)


def test_a_gallery_of_no_photo_is_a_gallery(hierarchy: Hierarchy, tmp_path: Path) -> None:
    world = photos(hierarchy)
    none = replace(world, placed=world.placed.take(np.arange(0)), leaf=world.leaf[:0])
    for precision in PRECISIONS:
        written, gallery = write(tmp_path, none, hierarchy, GalleryConfig(gallery_precision=precision))
        assert (written.facts.photos, len(gallery)) == (0, 0)
        assert gallery.codes(0).shape[0] == 0
        assert all_names(gallery) == []


def test_eight_bits_cut_off_what_lies_outside_their_range() -> None:
    codec = Codec.of_range(2, "int8", np.array([-1, 0], np.float32), np.array([2, 0], np.float32))
    rows = np.array([[-7, 5], [-1, 0], [0.999, 0], [9, -3]], np.float32)
    np.testing.assert_array_equal(codec.encode(rows)[:, 0], [0, 0, 254, 255])
    np.testing.assert_allclose(codec.decode(codec.encode(rows))[:, 0], [-1, -1, 1, 1], atol=0.012)
    np.testing.assert_array_equal(codec.decode(codec.encode(rows))[:, 1], 0)
    np.testing.assert_array_equal(codec.encode(codec.decode(codec.encode(rows))), codec.encode(rows))
