"""The paper's tables: its own claims about them must hold for what is written here."""

from importlib.resources import files
from typing import get_args

import pytest

from search.evaluation.options import BenchmarkName
from search.evaluation.published import PUBLISHED_KM, SOURCE, SOURCES, TABLES, PublishedTable


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_rows_are_percent_and_rise_with_distance(table: PublishedTable) -> None:
    for row in table.rows.values():
        assert len(row.within) == len(PUBLISHED_KM)
        shares = [share for share in row.within if share is not None]
        assert shares == sorted(shares)
        assert all(0 < share < 100 for share in shares)
    assert list(table.rows)[-1] == "GeoSURGE (Ours)"


def test_each_method_stands_once_in_a_table() -> None:
    head, *lines = (files("search.evaluation") / "published.csv").read_text("utf-8").splitlines()
    assert head.startswith("benchmark,")
    assert sum(len(table.rows) for table in TABLES.values()) == len(lines)


def test_it_is_best_in_22_of_25_figures_as_the_abstract_says() -> None:
    best = 0
    for table in TABLES.values():
        for column in range(len(PUBLISHED_KM)):
            shares = [row.within[column] for row in table.rows.values()]
            best += shares[-1] == max(share for share in shares if share is not None)
    assert best == 22


def test_tables_are_numbered_as_in_the_paper() -> None:
    assert [table.number for table in TABLES.values()] == ["I", "II", "III", "IV", "V"]
    assert set(TABLES) < set(get_args(BenchmarkName))


def test_every_row_names_a_source_that_is_described_and_differs_only_where_it_says_so() -> None:
    rows = [(method, row) for table in TABLES.values() for method, row in table.rows.items()]
    assert {row.source for _, row in rows} == set(SOURCES)
    measured = {method for method, row in rows if not row.others}
    assert measured == {"Qwen2-72B", "InternVL2-76B", "NVLM-D-72B", "GeoSURGE (Ours)"}  # in the paper, section IV-A
    for method, row in rows:
        papers = row.in_the_paper.split()
        assert not papers or row.source != SOURCE, method
        if papers:
            pairs = [(ours, float(paper)) for ours, paper in zip(row.within, papers, strict=True) if ours is not None]
            assert any(ours != paper for ours, paper in pairs), method
