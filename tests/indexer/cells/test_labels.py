"""Trees of labels: the same artefact from other people's cells, against plain dictionaries."""

from collections import defaultdict
from random import Random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.cells.hierarchy import Hierarchy
from indexer.cells.labels import build_label_hierarchy, label_columns, locate_labels
from indexer.earth import geo, s2
from indexer.errors import InputError

COLUMNS = ("continent", "country", "city")

ROWS = [  # continent, country, city, lat, lng
    ("Europe", "France", "Paris", 48.85, 2.35),
    ("Europe", "France", "Paris", 48.87, 2.30),
    ("Europe", "France", "Lyon", 45.76, 4.84),
    ("Europe", "Monaco", None, 43.73, 7.42),
    ("Europe-Asia", "Russia", "Omsk", 54.99, 73.37),
    ("Oceania", "Fiji", "Suva", -18.14, 178.44),
    ("Oceania", "Fiji", "Suva", -18.10, -179.90),
    (None, None, None, 0.0, -30.0),
    ("Africa", "Mali/Niger", "Gao", 16.27, -0.04),
]


def tree_of(rows: list[tuple], tau_min: int = 0) -> tuple[Hierarchy, pa.Table]:
    table = pa.table({name: [row[at] for row in rows] for at, name in enumerate(COLUMNS)})
    ids = s2.point_ids(np.array([row[3] for row in rows]), np.array([row[4] for row in rows]))
    return build_label_hierarchy(table, COLUMNS, ids=ids, tau_min=tau_min), table


def test_cells_are_labels_in_the_order_of_their_paths() -> None:
    tree, _ = tree_of(ROWS)
    continents, countries, cities = tree.levels
    # 'Europe-Asia/...' stands before 'Europe/...' as text, and after it as a path.
    assert continents.keys.tolist() == ["Africa", "Europe", "Europe-Asia", "Oceania"]
    assert countries.keys.tolist() == [
        "Africa/Mali%2FNiger",
        "Europe/France",
        "Europe/Monaco",
        "Europe-Asia/Russia",
        "Oceania/Fiji",
    ]
    assert cities.keys.tolist() == [
        "Africa/Mali%2FNiger/Gao",
        "Europe/France/Lyon",
        "Europe/France/Paris",
        "Europe-Asia/Russia/Omsk",
        "Oceania/Fiji/Suva",
    ]
    assert tree.ancestors.tolist() == [[0, 0, 0], [1, 1, 1], [1, 1, 2], [2, 3, 3], [3, 4, 4]]
    assert (countries.leaf_begin[2], countries.leaf_end[2]) == (3, 3)  # Monaco has no city
    assert continents.n_photos.tolist() == [1, 4, 1, 2]
    assert cities.coverage == pytest.approx(7 / 9)
    assert [level.s2_ids for level in tree.levels] == [None] * 3
    assert label_columns(tree) == list(COLUMNS)
    assert [row["name"] for row in tree.describe()] == list(COLUMNS)


def test_points_are_mean_directions_across_the_antimeridian() -> None:
    tree, _ = tree_of(ROWS)
    suva = tree.leaves.keys.tolist().index("Oceania/Fiji/Suva")
    assert abs(tree.leaves.lng_deg[suva]) > 179
    assert tree.leaves.radius_km[suva] == pytest.approx(88, abs=2)


def test_photos_find_the_cells_their_labels_name() -> None:
    tree, table = tree_of(ROWS)
    cells = locate_labels(tree, table)
    assert cells[:, 2].tolist() == [2, 2, 1, -1, 3, 4, 4, -1, 0]
    assert cells[3].tolist() == [1, 2, -1]
    stranger = pa.table({"continent": ["Europe"], "country": ["Spain"], "city": ["Paris"]})
    assert locate_labels(tree, stranger).tolist() == [[1, -1, -1]]
    with pytest.raises(InputError, match="No column 'city'"):
        locate_labels(tree, table.drop_columns("city"))
    with pytest.raises(InputError, match="are labels"):
        tree.locate(np.zeros(1), np.zeros(1))


def test_small_cells_are_dropped_with_all_below_them() -> None:
    tree, _ = tree_of(ROWS, tau_min=1)
    assert [level.keys.tolist() for level in tree.levels] == [
        ["Europe", "Oceania"],
        ["Europe/France", "Oceania/Fiji"],
        ["Europe/France/Paris", "Oceania/Fiji/Suva"],
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("Asia", "Texas", "Paris", 33.0, -95.0), r"city 'Paris' lies in two cells of country: 'France' and 'Texas'"),
        (("Asia", "Monaco", None, 43.0, 7.0), r"country 'Monaco' lies in two cells of continent: 'Asia' and 'Europe'"),
        (("Asia", None, "Kyoto", 35.0, 135.0), "city 'Kyoto' stands in a row without country"),
        (("Asia", "  ", "Kyoto", 35.0, 135.0), "city 'Kyoto' stands in a row without country"),
    ],
)
def test_what_is_no_tree_is_named(row: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tree_of([*ROWS, row])


def test_a_level_without_labels_is_an_error() -> None:
    with pytest.raises(InputError, match="No label of 'city'"):
        tree_of([("Europe", "Monaco", None, 43.73, 7.42)])


@st.composite
def label_tables(draw: st.DrawFn) -> list[tuple]:
    """Trees of up to 3 x 3 x 3 labels, some of them unknown in some rows."""
    rows = []
    for _ in range(draw(st.integers(1, 40))):
        path = draw(st.lists(st.integers(0, 2), min_size=1, max_size=3))
        names = ["abc"[: at + 1] + "".join(map(str, path[: at + 1])) for at in range(len(path))]
        lat, lng = draw(st.floats(-89, 89)), draw(st.floats(-180, 180))
        rows.append((*names, *[None] * (3 - len(names)), lat, lng))
    rows.extend([("a0", "ab00", "abc000", 1.0, 2.0)] * 2)  # so that every level has a cell
    return rows


@given(label_tables())
def test_any_tree_against_dictionaries(rows: list[tuple]) -> None:
    tree, table = tree_of(rows)
    found = locate_labels(tree, table)
    for level in range(3):
        photos = defaultdict(list)
        for at, row in enumerate(rows):
            if row[level] is not None:
                photos["/".join(row[: level + 1])].append(at)
        cells = tree.levels[level]
        assert cells.keys.tolist() == sorted(photos, key=lambda key: key.split("/"))
        for cell, key in enumerate(cells.keys.tolist()):
            mine = photos[key]
            assert cells.n_photos[cell] == len(mine)
            assert (found[mine, level] == cell).all()
            below = np.flatnonzero(tree.ancestors[:, level] == cell)
            assert below.tolist() == list(range(cells.leaf_begin[cell], cells.leaf_end[cell]))
            lat, lng = (np.array([rows[at][column] for at in mine]) for column in (3, 4))
            farthest = geo.haversine_km(lat, lng, cells.lat_deg[cell], cells.lng_deg[cell]).max()
            # Near the antipode a centimetre between photos is metres between distances.
            assert cells.radius_km[cell] == pytest.approx(farthest, abs=1e-2)
        if level:
            parents = tree.parents(level)
            above = tree.levels[level - 1].keys
            assert [above[parent] for parent in parents] == [key.rpartition("/")[0] for key in cells.keys]


def test_a_slash_and_a_written_out_slash_are_two_labels() -> None:
    tree, _ = tree_of([("A", "a/b", "x", 1.0, 1.0), ("A", "a%2Fb", "y", 1.0, 1.0), ("A", "c", "z", 1.0, 1.0)])
    assert tree.levels[1].keys.tolist() == ["A/a%252Fb", "A/a%2Fb", "A/c"]


def test_by_path_one_label_below_two_others_is_two_cells() -> None:
    rows = [("Europe", "France", "Paris", 48.9, 2.4), ("America", "Texas", "Paris", 33.7, -95.6)]
    table = pa.table({name: [row[at] for row in rows] for at, name in enumerate(COLUMNS)})
    ids = s2.point_ids(np.array([row[3] for row in rows]), np.array([row[4] for row in rows]))
    tree = build_label_hierarchy(table, COLUMNS, ids=ids, tau_min=0, by_path=True)
    assert tree.leaves.keys.tolist() == ["America/Texas/Paris", "Europe/France/Paris"]
    assert locate_labels(tree, table)[:, 2].tolist() == [1, 0]
    orphan = table.set_column(1, "country", pa.array([None, "Texas"], pa.string()))
    with pytest.raises(InputError, match="'Paris' stands in a row without country"):
        build_label_hierarchy(orphan, COLUMNS, ids=ids, tau_min=0, by_path=True)


@given(label_tables(), st.randoms(use_true_random=False))
def test_a_row_that_stands_for_many_counts_as_so_many_rows(rows: list[tuple], random: Random) -> None:
    counts = [random.randint(1, 4) for _ in rows]
    many, _ = tree_of([row for row, count in zip(rows, counts, strict=True) for _ in range(count)], tau_min=1)
    table = pa.table({name: pa.array([row[at] for row in rows], pa.string()) for at, name in enumerate(COLUMNS)})
    ids = s2.point_ids(np.array([row[3] for row in rows]), np.array([row[4] for row in rows]))
    tree = build_label_hierarchy(table, COLUMNS, ids=ids, tau_min=1, counts=np.array(counts))
    assert tree.digest == many.digest
    for level, expected in zip(tree.levels, many.levels, strict=True):
        assert level.n_photos.tolist() == expected.n_photos.tolist()
        assert level.coverage == pytest.approx(expected.coverage)


def test_a_tree_of_places_has_one_place_in_each_leaf() -> None:
    places = [row for row in ROWS if row[2] is not None][1:5]
    assert tree_of(places)[0].is_of_places
    assert not tree_of(ROWS)[0].is_of_places  # two photos of Paris
