"""The page of answers: what is known of a photo is on it, and what is not known is not."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from indexer.cells.hierarchy import Hierarchy
from search.answers.answer import Answer, PathStep, Place, Reference
from search.pages import answer_page
from search.pages.answer_page import write_answer_page
from search.retrieval.posterior import Posterior
from tests.search.pages.test_evaluation_page import HOSTILE, Tags

LOST = Answer(0, HOSTILE, "missing", f"no such file {HOSTILE}")
FOUND = Answer(
    *(1, HOSTILE, "ok", "", 10.0, 20.0, HOSTILE, None, HOSTILE, HOSTILE, -1.5, 0.25, False),
    path=(PathStep(0, HOSTILE, HOSTILE, HOSTILE, 1234.5, 0.75),),
)
SURE = replace(
    FOUND,
    calibrated=True,
    radius_50_km=12.0,
    radius_90_km=3456.0,
    abstain="unlike the others",
    top=(Place("a1", 1.0, 2.0, 0.5, 0.125),),
    references=(Reference(HOSTILE, 3.0, 4.0, 0.875),),
)
SURE_OF_ONE = Posterior(np.array([0, 1, 2]), np.array([0, 1]), np.ones(2), np.zeros(2), np.ones(2, np.int64))


def write(hierarchy: Hierarchy, out: Path, *answers: Answer) -> str:
    pictures = [Image.new("RGB", (900, 600), (200, 10, 10)) if answer.ok else None for answer in answers]
    write_answer_page(out, hierarchy, answers, pictures, SURE_OF_ONE, level=0, coarse=None)
    page = out.read_text()
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert "script" not in tags.seen
    return page


def test_each_answer_has_what_is_known_of_it(
    hierarchy: Hierarchy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    radii: list[list[float]] = []
    monkeypatch.setattr(answer_page, "posterior_map", lambda *drawn: radii.append(drawn[-1]) or b"a map")
    page = write(hierarchy, tmp_path / "a.html", LOST, FOUND, SURE)
    assert radii == [[], [12.0, 3456.0]]
    lost, found, sure = page.split("<h2>")[1:]
    assert "no such file &lt;script&gt;" in lost
    assert "<img" not in lost
    for words in ("<strong>10.00000, 20.00000</strong>", "probability 0.250", "not calibrated", "<td>1,234</td>"):
        assert words in found
    assert "nine in ten" not in found
    assert "Abstain" not in found
    for words in ("(calibrated)", "within\n3,456 km", "Abstain</strong>: unlike the others", "<td>a1</td>", "0.875"):
        assert words in sure


def test_cells_that_are_labels_have_no_map(hierarchy: Hierarchy, tmp_path: Path) -> None:
    labels = replace(hierarchy, levels=tuple(replace(level, s2_ids=None) for level in hierarchy.levels))
    page = write(labels, tmp_path / "a.html", FOUND)
    assert "have no borders to draw" in page
    assert "Where a photo was taken" in page
    assert page.count("<img") == 1


def test_a_photo_comes_small_and_without_what_its_file_says() -> None:
    picture = Image.new("RGB", (900, 600))
    picture.info["comment"] = b"taken at home"
    content = answer_page._thumbnail(picture)
    assert b"home" not in content
    with Image.open(io.BytesIO(content)) as small:
        assert small.size == (320, 213)
