"""Which photos become a gallery, against brute force; whose repeat; what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from indexer.bundles.build_config import GalleryConfig
from indexer.bundles.gallery import FILES, Gallery
from indexer.bundles.gallery_builds import write_gallery
from indexer.bundles.typical_photos import ALIKE_COSINE, different
from indexer.cells.hierarchy import Hierarchy
from indexer.errors import InputError
from tests.conftest import unit_rows
from tests.indexer.bundles.gallery_worlds import WIDTH, Photos, all_names, photos, write

EXACT = GalleryConfig(gallery_precision="fp32")


def expected(world: Photos, *, per_leaf: int | None = None, keep_duplicates: bool = False) -> dict[int, list[str]]:
    """By brute force: for each leaf the photos that are kept, the most typical first."""
    kept: dict[int, list[str]] = {}
    vectors = world.placed.vectors.astype(np.float64)
    for leaf in np.unique(world.leaf):
        rows = np.flatnonzero(world.leaf == leaf)
        typical = vectors[rows] @ world.geocells.vectors[-1][leaf].astype(np.float64)
        chosen: list[int] = []
        for row in sorted(rows, key=lambda row: (-typical[list(rows).index(row)], world.placed.photo[row])):
            alike = [vectors[row] @ vectors[other] > ALIKE_COSINE for other in chosen]
            same = [
                (vectors[row] == vectors[other]).all()
                and world.placed.lat_deg[row] == world.placed.lat_deg[other]
                and world.placed.lng_deg[row] == world.placed.lng_deg[other]
                for other in chosen
            ]
            if not any(same if keep_duplicates else alike):
                chosen.append(row)
        kept[int(leaf)] = [world.placed.photo[row] for row in chosen[:per_leaf]]
    return kept


def listed(gallery: Gallery) -> dict[int, list[str]]:
    names = all_names(gallery)
    lists = {leaf: names[gallery.begins[leaf] : gallery.begins[leaf + 1]] for leaf in range(gallery.n_leaves)}
    return {leaf: photos for leaf, photos in lists.items() if photos}


@pytest.mark.parametrize("per_leaf", [None, 1, 3, 1000])
@pytest.mark.parametrize("keep_duplicates", [False, True])
def test_the_photos_kept_are_those_of_brute_force(
    hierarchy: Hierarchy, tmp_path: Path, per_leaf: int | None, keep_duplicates: bool
) -> None:
    world = photos(hierarchy)
    copies = np.array([5, 30, 31, 200])  # the same photos under other names
    twice = world.placed.take(np.concatenate([np.arange(len(world.leaf)), copies, copies]))
    twice.photo[-8:] = [f"copy {number}" for number in range(8)]
    world = Photos(world.geocells, twice, np.concatenate([world.leaf, world.leaf[copies], world.leaf[copies]]))
    config = replace(EXACT, gallery_per_leaf=per_leaf or "all", keep_duplicates=keep_duplicates)
    written, gallery = write(tmp_path, world, hierarchy, config)
    kept = expected(world, per_leaf=per_leaf, keep_duplicates=keep_duplicates)
    assert listed(gallery) == kept
    n_kept = sum(map(len, kept.values()))
    assert (written.given, written.added, written.dropped) == (len(world.leaf), n_kept, 0)
    assert (written.facts.photos, written.facts.per_leaf) == (n_kept, per_leaf)
    share = [np.sum(world.leaf == leaf) / len(kept[leaf]) for leaf in gallery.leaf]
    np.testing.assert_allclose(gallery.stands_for, share, rtol=1e-6)
    np.testing.assert_allclose(gallery.stands_for.sum(), len(world.leaf), rtol=1e-5)


def test_no_two_photos_of_a_list_are_alike_as_they_are_stored(hierarchy: Hierarchy, tmp_path: Path) -> None:
    _, gallery = write(tmp_path, photos(hierarchy), hierarchy)
    for begin, end in zip(gallery.begins, gallery.begins[1:], strict=False):
        vectors = gallery.vectors(begin, end)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        assert (np.triu(vectors @ vectors.T, 1) <= ALIKE_COSINE).all()


@pytest.mark.parametrize("limit", [None, 5, 2000])
@pytest.mark.parametrize("settled", [0, 300])
def test_near_duplicates_of_many_blocks_are_found_as_one_by_one(limit: int | None, settled: int) -> None:
    rows = unit_rows(1600, 4, 0)
    kept: list[int] = list(range(settled))
    for row in range(settled, len(rows)):
        if (rows[kept] @ rows[row] <= ALIKE_COSINE).all() and (limit is None or len(kept) < limit):
            kept.append(row)
    found = np.flatnonzero(different(rows, settled=settled, limit=None if settled else limit))
    if settled == 0 or limit is None:
        np.testing.assert_array_equal(found, kept if limit is None or limit > len(kept) else kept[:limit])


def test_photos_in_any_order_and_batches_give_one_gallery(hierarchy: Hierarchy, tmp_path: Path) -> None:
    world = photos(hierarchy)
    digests = []
    for number, batches in enumerate((1, 7, 7)):
        order = np.random.default_rng(number).permutation(len(world.leaf))
        shuffled = Photos(world.geocells, world.placed.take(order), world.leaf[order])
        write(tmp_path / str(number), shuffled, hierarchy, batches=batches)
        digests.append([(tmp_path / str(number) / file).read_bytes() for file in FILES])
    assert digests[0] == digests[1] == digests[2]


def test_a_photo_that_comes_twice_is_one_photo(hierarchy: Hierarchy, tmp_path: Path) -> None:
    world = photos(hierarchy)
    for number, precision in enumerate(("int8", "fp32")):
        config = GalleryConfig(gallery_precision=precision, keep_duplicates=True)
        rows = np.concatenate([np.arange(len(world.leaf)), [3, 70, 3]])
        again = Photos(world.geocells, world.placed.take(rows), world.leaf[rows])
        write(tmp_path / f"{number} once", world, hierarchy, config)
        write(tmp_path / f"{number} twice", again, hierarchy, config)
        for file in FILES:
            once, twice = (tmp_path / f"{number} {times}" / file for times in ("once", "twice"))
            assert once.read_bytes() == twice.read_bytes()


@pytest.mark.parametrize("column", ["vectors", "lat_deg", "lng_deg"])
def test_a_name_that_repeats_for_another_photo_is_refused(hierarchy: Hierarchy, tmp_path: Path, column: str) -> None:
    world = photos(hierarchy)
    rows = np.concatenate([np.arange(len(world.leaf)), [3, 70, 71, 72, 73]])
    placed = world.placed.take(rows)
    values = getattr(placed, column)
    values[-5:] = unit_rows(5, WIDTH, 9) if column == "vectors" else np.round(values[-5:], 2)
    again = Photos(world.geocells, placed, world.leaf[rows])
    first = re_quoted(world.placed.photo[3])
    with pytest.raises(InputError, match=f"5 names of photos repeat .*{first}"):
        write(tmp_path, again, hierarchy)


def re_quoted(name: str) -> str:
    return name.replace(".", r"\.")


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_vectors_that_are_none_are_refused(hierarchy: Hierarchy, tmp_path: Path, value: float) -> None:
    world = photos(hierarchy)
    world.placed.vectors[70] = value
    with pytest.raises(InputError, match="zero or not finite"):
        write_gallery(tmp_path, [world.placed], world.geocells, hierarchy, GalleryConfig())


def test_vectors_of_another_width_are_refused(hierarchy: Hierarchy, tmp_path: Path) -> None:
    world = photos(hierarchy)
    wide = replace(world.placed, vectors=unit_rows(len(world.leaf), WIDTH + 1, 0))
    with pytest.raises(InputError, match=f"{WIDTH}\\) is needed"):
        write_gallery(tmp_path, [wide], world.geocells, hierarchy, GalleryConfig())


@pytest.mark.parametrize("per_leaf", [-1, -5])
def test_a_negative_number_of_photos_is_refused(per_leaf: int) -> None:
    with pytest.raises(InputError, match="`gallery_per_leaf` must be all, or at least 0"):
        GalleryConfig(gallery_per_leaf=per_leaf).check_gallery()
