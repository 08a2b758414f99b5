"""The paper's tables: its own claims about them must hold for what is written here."""

from typing import get_args

import pytest

from indexer.errors import InputError
from search.evaluation.published import ABLATIONS, PUBLISHED_KM, TABLES, BenchmarkName, PublishedTable, benchmark_named


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_rows_are_percent_and_rise_with_distance(table: PublishedTable) -> None:
    assert len({row.method for row in table.rows}) == len(table.rows)
    for row in table.rows:
        assert len(row.within) == len(PUBLISHED_KM)
        shares = [share for share in row.within if share is not None]
        assert shares == sorted(shares)
        assert all(0 < share < 100 for share in shares)
    assert table.rows[-1].method == "GeoSURGE (Ours)"


def test_it_is_best_in_22_of_25_figures_as_the_abstract_says() -> None:
    best = 0
    for table in TABLES.values():
        for column in range(len(PUBLISHED_KM)):
            shares = [row.within[column] for row in table.rows if row.within[column] is not None]
            best += table.rows[-1].within[column] == max(share for share in shares if share is not None)
    assert best == 22


def test_tables_are_numbered_as_in_the_paper() -> None:
    assert [table.number for table in TABLES.values()] == ["I", "II", "III", "IV", "V"]
    assert set(TABLES) < set(get_args(BenchmarkName))


def test_names_are_a_closed_list_in_any_spelling() -> None:
    for name in get_args(BenchmarkName):
        assert benchmark_named(name) == benchmark_named(name.upper()) == name
    assert benchmark_named("IM2GPS-3k") == "im2gps3k"
    assert benchmark_named("osv_5m") == "osv5m"
    with pytest.raises(InputError, match="there are im2gps, im2gps3k"):
        benchmark_named("im2gps4k")


def test_ablations_are_of_the_method_of_table_one() -> None:
    assert list(ABLATIONS) == ["VI", "VII", "VIII"]
    full = TABLES["im2gps"].rows[-1].within
    assert ABLATIONS["VI"].rows[0].within == ABLATIONS["VII"].rows[0].within == full
    for table in ABLATIONS.values():
        assert table.against_full()[table.rows[0].method] == (0.0,) * 5


def test_ablations_say_what_the_papers_text_says_of_them() -> None:
    """Section IV-B: embeddings gain most at street level, deeper is better, fusion gains most at short distances."""
    embeddings = ABLATIONS["VI"].against_full()["No"]
    assert embeddings == (-4.2, -0.4, 1.3, -0.9, -0.4)
    assert min(embeddings) == embeddings[0]
    depth = [ABLATIONS["VII"].against_full()[levels] for levels in ("7", "5", "3", "1")]
    for column in (0, 1, 2):
        losses = [row[column] for row in depth]
        assert losses == sorted(losses, reverse=True)
    fusion = ABLATIONS["VIII"].against_full()
    assert fusion["0"] == (-3.9, -2.9, -1.7, -0.9, 0.0)
    assert fusion["1"] == (-2.6, -1.7, -2.5, -0.9, -1.2)
    assert list(fusion["0"]) == sorted(fusion["0"])
