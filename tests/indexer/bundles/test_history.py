"""The log: what is appended is read back whatever a kill left, and pins and the way back follow from it."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.bundles.history import Entry, append_entry, pins, publications, read_entries, trail
from indexer.errors import ArtifactError


def change(action: str, version: str, before: str | None) -> Entry:
    return {"action": action, "version": version, "at": "now", "before": before}


def actions(path: Path) -> list[tuple[str, str]]:
    return [(entry["action"], entry["version"]) for entry in read_entries(path)]


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    log = tmp_path / "history.jsonl"
    assert read_entries(log) == []
    written = [
        append_entry(log, "publish", "a", {"before": None}),
        append_entry(log, "pin", "a", {"reason": "é\n\x85"}),
    ]
    assert read_entries(log) == written
    assert log.read_bytes().count(b"\n") == 2


def test_a_last_line_torn_anywhere_is_passed_over_and_the_next_one_is_whole(tmp_path: Path) -> None:
    log = tmp_path / "history.jsonl"
    append_entry(log, "publish", "a", {"before": None})
    first = log.read_bytes()
    append_entry(log, "pin", "a", {"reason": "torn"})
    second = log.read_bytes().removeprefix(first)
    for length in range(len(second) - 1):
        log.write_bytes(first + second[:length])
        assert actions(log) == [("publish", "a")]
        append_entry(log, "retire", "b", {})
        assert actions(log) == [("publish", "a"), ("retire", "b")]
    for whole in (second[:-1], second):  # all of it is there, with or without its line break
        log.write_bytes(first + whole)
        append_entry(log, "retire", "b", {})
        assert actions(log) == [("publish", "a"), ("pin", "a"), ("retire", "b")]


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b'{"action": "pin"}', b'{"action": 1, "version": "a", "at": "x"}', b"\xff"]
)
def test_damage_before_the_last_line_is_named(tmp_path: Path, line: bytes) -> None:
    log = tmp_path / "history.jsonl"
    append_entry(log, "publish", "a", {"before": None})
    whole = log.read_bytes()
    log.write_bytes(whole + b"\n" + line + b"\n" + whole)
    with pytest.raises(ArtifactError, match=r"history\.jsonl: line 3 is damaged"):
        read_entries(log)


def test_unknown_actions_and_keys_are_passed_over(tmp_path: Path) -> None:
    log = tmp_path / "history.jsonl"
    append_entry(log, "publish", "a", {"before": None, "by": "somebody"})
    append_entry(log, "sign", "a", {})
    assert pins(read_entries(log)) == {}
    assert trail(read_entries(log), "a") == ["a"]


def test_pins_are_what_was_pinned_and_not_unpinned() -> None:
    steps = ["pin a", "pin b", "unpin a", "unpin c", "pin d", "unpin d", "pin d"]
    lines = [dict(zip(("action", "version"), step.split(), strict=True)) for step in steps]
    assert set(pins(lines)) == {"b", "d"}


def test_publications_that_were_killed_before_the_link_changed_do_not_count() -> None:
    lines = [change("publish", "a", None), change("publish", "x", "a"), change("publish", "b", "a")]
    assert [line["version"] for line in publications(lines, "b")] == ["a", "b"]
    assert [line["version"] for line in publications(lines, "a")] == ["a"]
    assert trail([*lines, change("rollback", "a", "b")], "b") == ["a", "b"]
    assert trail([*lines, change("rollback", "a", "b")], "a") == ["a"]


@given(st.lists(st.tuples(st.sampled_from(["publish", "rollback"]), st.sampled_from("abc"), st.booleans())))
def test_the_trail_is_a_stack_whatever_was_killed(steps: list[tuple[str, str, bool]]) -> None:
    lines: list[Entry] = []
    stack: list[str] = []
    for action, version, killed in steps:
        before = stack[-1] if stack else None
        if action == "rollback":
            if len(stack) < 2:
                continue
            version = next((earlier for earlier in reversed(stack) if earlier != before), version)
        lines.append(change(action, version, before))
        if killed:
            continue
        if action == "rollback":
            stack.pop()
        elif version != before:
            stack.append(version)
    assert trail(json.loads(json.dumps(lines)), stack[-1] if stack else None) == stack
