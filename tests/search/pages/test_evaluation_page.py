"""The report's folder: whole or absent, and names in it are text, whatever they contain."""

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from indexer.disk.manifest import read_manifest
from indexer.errors import InputError
from search.evaluation.evaluate import Evaluation, LeftOut, compare
from search.evaluation.evaluation_report import accuracy_table, difference_table, summary, world_table
from search.evaluation.options import EvaluateConfig
from search.pages.evaluation_page import KIND, SCHEMA_VERSION, write_evaluation
from tests.search.evaluation.test_evaluation_report import evaluation

HOSTILE = '<script>alert(1)</script> & "O\'Higgins" $x_1$'


class Tags(HTMLParser):
    """Tags that are open and every tag there was."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def hostile() -> Evaluation:
    result = evaluation()
    return replace(result, photos=replace(result.photos, photo=[f"{HOSTILE}{row}" for row in range(60)]))


def write(result: Evaluation, out: Path) -> str:
    compared = replace(result, config=EvaluateConfig(resamples=100, benchmark="im2gps"))
    compared = replace(compared, against=compare(compared, compared, name=HOSTILE))
    write_evaluation(compared, out, title=f"a run on {HOSTILE}")
    return (out / "report.html").read_text()


def test_names_are_escaped_and_the_page_needs_nothing_else(tmp_path: Path) -> None:
    page = write(hostile(), tmp_path / "R")
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert "script" not in tags.seen
    assert page.count("&lt;script&gt;") > 20
    assert "http://" not in page
    assert "https://" not in page
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    files = [(tmp_path / "R" / name).read_bytes() for name in ("errors.png", "recall.png", "map.png")]
    assert [base64.b64decode(picture) for picture in pictures] == files


def test_every_photo_has_a_row(tmp_path: Path) -> None:
    result = evaluation()
    write(result, tmp_path / "R")
    rows = pyarrow.parquet.read_table(tmp_path / "R" / "photos.parquet")
    assert rows["photo"].to_pylist() == list(result.photos.photo)
    errors = rows["error_km"].to_numpy(zero_copy_only=False)
    np.testing.assert_array_equal(errors, result.distance_km)
    assert rows["lat"].null_count == rows["error_km"].null_count == 3
    assert rows["country"].null_count == 0
    read_manifest(tmp_path / "R", kind=KIND, schema_version=SCHEMA_VERSION)


def test_a_report_is_never_overwritten(tmp_path: Path) -> None:
    write(evaluation(), tmp_path / "R")
    with pytest.raises(InputError, match="exists already"):
        write(evaluation(), tmp_path / "R")


def test_nobody_answered(tmp_path: Path) -> None:
    assert "no answer and count as misses" in write(evaluation(4, missing=4), tmp_path / "R")


def test_what_the_text_says_is_on_the_page(tmp_path: Path) -> None:
    result = evaluation(config=EvaluateConfig(resamples=100, benchmark="osv5m"))
    rest = LeftOut(["copies"], 10, result.without(np.arange(60) < 10))
    other = compare(result, evaluation(shift_deg=8.0), name="other")
    for number, left_out in enumerate((rest, LeftOut(["everything"], 60, None))):
        whole = replace(result, against=other, left_out=left_out)
        write_evaluation(whole, tmp_path / str(number), title="a run")
        page = (tmp_path / str(number) / "report.html").read_text()
        tables = [accuracy_table(whole), difference_table(whole, other), world_table(whole, brief=True)]
        assert all(f">{cell}</t" in page for table in tables for row in table.rows for cell in row.cells)
        assert all(f"<li>{line}</li>" in page for line in summary(whole)[1:])
        assert page.count(">95 % interval</th>") == 3 - number  # of all photos, of what is left, of the difference
