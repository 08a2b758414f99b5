"""Templates: whatever is put into a page is text, and every table stands on it as it stands in text."""

import re

from search.evaluation.report_table import Cell, Row, Table
from search.pages.page import data_uri, render
from tests.search.pages.test_evaluation_page import HOSTILE, Tags


def page(table: Table, package: str = "search.pages") -> str:
    """A page with one table and no more."""
    answers = {"title": HOSTILE, "sections": [({"ok": True, **PLACE}, None, None, [table])], "file_name": str}
    answers["made"] = Table([], [])
    return render("answers.html", package=package, **answers)


PLACE = dict.fromkeys(("photo", "city", "country", "key"), HOSTILE) | {
    **dict.fromkeys(("lat_deg", "lng_deg", "probability"), 0.5),
    **dict.fromkeys(("radius_90_km", "abstain")),
    "calibrated": True,
    "evidence": HOSTILE,
    "point_key": HOSTILE + "b",
}


def test_cells_are_escaped_and_rows_fill_the_table() -> None:
    rows = [
        Row([HOSTILE, Cell(HOSTILE, "words"), Cell("1", "best")], kind="ours"),
        Row([HOSTILE]),
        Row(["a", HOSTILE], indent=True),
        Row(["b", Cell("met", "met"), Cell("missed", "missed")]),
    ]
    shown = page(Table([HOSTILE, "x", "y"], rows, HOSTILE, [HOSTILE]))
    tags = Tags()
    tags.feed(shown)
    assert tags.open == []
    assert "script" not in tags.seen
    assert '<tr class="ours"><th scope="row">&lt;script' in shown
    assert '<td class="words">&lt;script' in shown
    assert '<th scope="row" colspan="3">&lt;script' in shown
    assert '<td colspan="2">&lt;script' in shown
    assert re.search(r'<tr class=" indent"><th scope="row">a</th>', shown)
    assert '<td class="met">&#10003; met</td><td class="missed">&#10007; missed</td>' in shown


def test_pages_follow_the_reader_and_fetch_nothing() -> None:
    shown = page(Table(["a"], []))
    assert "prefers-color-scheme: dark" in shown
    assert 'name="viewport"' in shown
    assert not re.search(r"https?://|@import|url\(", shown)


def test_other_packages_use_the_same_frame() -> None:
    assert page(Table(["a"], []), "benchmarks.world") == page(Table(["a"], []))


def test_a_picture_is_inside_the_page() -> None:
    assert data_uri(b"\x00\xff", "image/jpeg") == "data:image/jpeg;base64,AP8="
