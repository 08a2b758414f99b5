"""Removed names are kept as digests; rows are found by name."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from indexer.bundles.removals import (
    add_removed,
    add_sources,
    name_digest,
    read_names,
    read_removed,
    rows_of_names,
    source_paths,
    which_removed,
)
from indexer.errors import InputError


def test_digests_add_up_and_are_no_names(tmp_path: Path) -> None:
    assert read_removed(tmp_path) == frozenset()
    add_removed(tmp_path, ["a.jpg", "b.jpg"])
    add_removed(tmp_path, ["b.jpg", "ü/c.jpg"])
    removed = read_removed(tmp_path)
    assert removed == {name_digest(name) for name in ("a.jpg", "b.jpg", "ü/c.jpg")}
    assert "jpg" not in (tmp_path / "removed.txt").read_text()
    assert which_removed(["x", "ü/c.jpg", "a.jpg"], removed).tolist() == [False, True, True]
    assert which_removed(["x"], frozenset()).tolist() == [False]


def test_names_are_read_in_order_and_once(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("b x.jpg\r\n\nü.jpg\nb x.jpg\n", newline="")
    assert read_names(tmp_path / "names.txt") == ["b x.jpg", "ü.jpg"]
    (tmp_path / "names.txt").write_bytes("\ufeffa.jpg\r\nb\u2028c.jpg\r\n".encode())  # as editors of Windows write it
    assert read_names(tmp_path / "names.txt") == ["a.jpg", "b\u2028c.jpg"]


def test_rows_of_names_are_all_rows(tmp_path: Path) -> None:
    among = pa.chunked_array([["a", "b"], ["c", "a"]])
    assert rows_of_names(["a", "c"], among, where="here").tolist() == [0, 2, 3]
    with pytest.raises(InputError, match="2 of 3 names are not in here: 'x', 'y'"):
        rows_of_names(["x", "a", "y"], among, where="here")
    assert rows_of_names(["b"], among, where="here").dtype == np.int64


def test_places_are_noted_once(tmp_path: Path) -> None:
    for _ in range(2):
        add_sources(tmp_path, {"d": tmp_path / "F", "e": tmp_path / "G"})
    add_sources(tmp_path, {"d": tmp_path / "elsewhere"})
    assert source_paths(tmp_path) == {
        "d": [str(tmp_path / "F"), str(tmp_path / "elsewhere")],
        "e": [str(tmp_path / "G")],
    }
    assert len((tmp_path / "sources.jsonl").read_text().splitlines()) == 3
