"""Names of one photo in two tables: the rule, and what it refuses."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.errors import InputError
from search.evaluation.photo_names import file_name, match_names, stem

NAMES = st.lists(st.text("abc/._1", min_size=1, max_size=6), min_size=1, max_size=8, unique=True)


def match(given: list[str], wanted: list[str]) -> tuple[list[int], str]:
    found = match_names(given, wanted, source="predictions", wanted_by="truth")
    return found.row.tolist(), found.rule


@pytest.mark.parametrize(
    ("name", "last", "plain"),
    [
        ("a/b/c.jpg", "c.jpg", "c"),
        (r"a\b\c.JPEG", "c.JPEG", "c"),
        ("1.2.jpg", "1.2.jpg", "1.2"),
        ("104123223_7410@N00", "104123223_7410@N00", "104123223_7410@N00"),
        ("photo.v2", "photo.v2", "photo.v2"),  # no suffix of an image
        (".jpg", ".jpg", ".jpg"),
        ("", "", ""),
    ],
)
def test_parts_of_names(name: str, last: str, plain: str) -> None:
    assert (file_name(name), stem(name)) == (last, plain)


def test_the_strictest_rule_that_finds_anything_holds_for_all() -> None:
    assert match(["b.jpg", "a.jpg"], ["a.jpg", "b.jpg", "c.jpg"]) == ([1, 0, -1], "whole name")
    assert match(["x/a.jpg", "y/b.jpg"], ["b.jpg", "z/a.jpg"]) == ([1, 0], "file name")
    assert match(["a", "b.png"], ["x/b.jpg", "x/a.jpg"]) == ([1, 0], "file name without suffix")


def test_equal_lists_are_taken_row_by_row() -> None:
    assert match(["a", "a"], ["a", "a"]) == ([0, 1], "whole name")


def test_a_name_that_stands_for_two_photos_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"predictions: the name 'a.jpg' stands 2 times \('x/a.jpg', 'y/a.jpg'\)"):
        match(["x/a.jpg", "y/a.jpg"], ["a.jpg"])
    with pytest.raises(InputError, match=r"truth: the name 'a' stands 2 times"):
        match(["a"], ["a.jpg", "x/a.png"])


def test_doubles_that_nobody_asks_for_are_no_error() -> None:
    assert match(["x", "x", "a"], ["a", "b"]) == ([2, -1], "whole name")


def test_rows_without_a_name_are_nobodys() -> None:
    assert match(["", "a"], ["", "a", "b"]) == ([-1, 1, -1], "whole name")


def test_photos_missed_for_their_spelling_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert match(["a.jpg", "x/b.jpg"], ["a.jpg", "b.jpg"])[0] == [0, -1]
    assert "1 more would be found by file name, such as 'b.jpg'" in caplog.text


def test_a_photo_of_the_same_file_name_elsewhere_is_no_spelling(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert match(["a/1.jpg"], ["a/1.jpg", "b/1.jpg"])[0] == [0, -1]
    assert caplog.text == ""


def test_nothing_in_common_is_an_error_with_examples() -> None:
    with pytest.raises(InputError, match=r"None of the 1 photos of predictions is in truth.*'q' and 'a'"):
        match(["q"], ["a"])


@given(given=NAMES, wanted=NAMES)
def test_whoever_is_found_has_an_equal_name_under_the_rule(given: list[str], wanted: list[str]) -> None:
    rules = {"whole name": str, "file name": file_name, "file name without suffix": stem}
    try:
        rows, rule = match(given, wanted)
    except InputError:
        return
    key = rules[rule]
    for name, row in zip(wanted, rows, strict=True):
        equal = [number for number, other in enumerate(given) if key(other) and key(other) == key(name)]
        assert ([row] if row >= 0 else []) == equal or given == wanted
