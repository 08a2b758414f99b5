"""A survey of photos: counts against the hierarchy's own, files that are absent, and a sample that is even."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from indexer.cells.table import load_hierarchy
from indexer.photos.photo import FileRange, Photo
from indexer.photos.sources import open_photos
from training.photos.holding_out import by_name
from training.runs import photo_survey
from training.runs.check_report import CheckReport
from training.runs.photo_survey import survey


def test_photos_are_counted_where_they_lie(toy: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(toy, tmp_path / "toy"))
    (folder / "0004.png").unlink()
    cells, chosen, report = load_hierarchy(toy / "H"), by_name(0.5)[0], CheckReport()
    photos = open_photos(folder / "photos.parquet", coordinates=True)
    half = survey(report, photos, cells, chosen, needs_cell=False)
    table = pyarrow.parquet.read_table(toy / "photos.parquet")
    names = table["photo"].to_pylist()
    wanted = chosen(names)
    assert (half.photos, half.looked_for) == (wanted.sum(), wanted.sum())
    assert half.absent == wanted[4]
    located = cells.locate(table["lat"].to_numpy()[wanted], table["lng"].to_numpy()[wanted])
    for level, counts in enumerate(half.per_cell):
        expected = [(located[:, level] == cell).sum() for cell in range(len(cells.levels[level]))]
        assert counts.tolist() == expected
    assert [photo.name for photo in half.sample] == [name for name, each in zip(names, wanted, strict=True) if each]
    assert report.problems == []


def test_a_sample_is_even(monkeypatch: pytest.MonkeyPatch) -> None:
    """However the photos come in blocks: each of 40 as often as chance has it, of 2,000 draws of 10."""
    monkeypatch.setattr(photo_survey, "_SAMPLE", 10)
    photos, counts = [Photo(str(number), None) for number in range(40)], np.zeros(40)
    for seed in range(2000):
        sample: list[Photo] = []
        rng = np.random.default_rng(seed)
        for first in (0, 7, 25):
            block = photos[first : {0: 7, 7: 25, 25: 40}[first]]
            photo_survey._keep_some(sample, block, n_before=first, rng=rng)
        assert len({photo.name for photo in sample}) == 10
        counts[[int(photo.name) for photo in sample]] += 1
    assert abs(counts - 500).max() < 5 * np.sqrt(2000 * 0.25 * 0.75)


@pytest.mark.parametrize(
    ("data", "there"),
    [
        (None, False),
        (b"", True),
        (FileRange("/nowhere/at/all.jpg"), False),
        (FileRange("/nowhere/0.tar", 512, 99), True),
        (FileRange(__file__), True),
        (FileRange(f"file://{__file__}"), True),
        (FileRange("file:///nowhere"), False),
        (FileRange("s3://bucket/a.jpg"), True),
    ],
)
def test_what_can_be_known_without_reading(data: FileRange | bytes | None, there: bool) -> None:
    assert photo_survey._is_there(Photo("x", data)) == there
