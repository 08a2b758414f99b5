"""Tables: columns that stand under their headings whatever is in them."""

from search.evaluation.report_table import Cell, Row, Table


def test_the_first_column_is_flush_left_and_the_others_flush_right() -> None:
    rows = [
        Row(["all photos", "1.0", Cell("20.0", "best")], kind="ours"),
        Row(["95 % interval", "0 to 2", "1"], indent=True),
        Row(["a heading that is longer than all of the table:"]),
        Row(["nothing", "here"]),
    ]
    table = Table(["percent", "1 km", "25 km"], rows, "Against it", ["Two", "notes."])
    assert table.text().splitlines() == [
        "Against it:",
        "percent            1 km  25 km",
        "all photos          1.0   20.0",
        "  95 % interval  0 to 2      1",
        "a heading that is longer than all of the table:",
        "nothing            here",
        "Two notes.",
    ]


def test_markdown_has_as_many_cells_in_every_row() -> None:
    rows = [Row(["a|b", "1.0", "20.0"]), Row(["Table II:"]), Row(["c", "2.0", Cell("3.0", "best")], indent=True)]
    assert Table(["percent", "1 km", "25 km"], rows, "Against it", ["One.", "Two."]).markdown().splitlines() == [
        "## Against it",
        "",
        "| percent | 1 km | 25 km |",
        "| --- | ---: | ---: |",
        "| a&#124;b | 1.0 | 20.0 |",
        "| Table II: |  |  |",
        "| c | 2.0 | 3.0 |",
        "",
        "One.",
        "",
        "Two.",
    ]


def test_a_table_needs_no_headings() -> None:
    assert Table((), [Row(["a", "10"]), Row(["bc", "2"])]).text() == "a   10\nbc   2"
