"""Parts of class maps: together they are all photos or what is wrong is named, whichever folders are left out."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder.class_maps.parts import PART_FILE, MapPart, check_parts, check_same_part, read_part, write_part
from indexer.errors import ArtifactError, InputError
from indexer.photos.shard_cut import JobPart


def part(number: int, parts: int, *, rows: int | None = 100, photos: str = "a" * 64) -> MapPart:
    return MapPart(JobPart(number, parts), "photos.csv", photos, None, rows)


def fault_of(*parts: MapPart | None) -> str:
    try:
        check_parts({Path(f"M{row}"): each for row, each in enumerate(parts)})
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("rows", [None, 5])
@pytest.mark.parametrize("split", [None, "train"])
def test_what_is_written_is_read(tmp_path: Path, rows: int | None, split: str | None) -> None:
    assert read_part(tmp_path) is None
    for photos in (None, "b" * 64):
        written = MapPart(JobPart(2, 3), "somewhere", photos, split, rows)
        write_part(tmp_path, written)
        assert read_part(tmp_path) == written


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"part": "3/2", "location": "", "photos": 1, "split": 1, "rows": 1}']
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / PART_FILE).write_text(text)
    with pytest.raises(ArtifactError, match=r"part\.json: cannot be read .* run the command of that part again"):
        read_part(tmp_path)


@given(st.integers(1, 5), st.lists(st.integers(0, 4), max_size=8))
def test_only_each_part_once_is_the_whole(parts: int, numbers: list[int]) -> None:
    """Any choice of folders, against counting."""
    given_parts = [part(number % parts + 1, parts) for number in numbers]
    counts = Counter(each.job_part.number for each in given_parts)
    fault = fault_of(*given_parts, None)  # a folder of no part changes nothing
    assert bool(fault) == (bool(numbers) and [counts[number + 1] for number in range(parts)] != [1] * parts)
    for number in range(1, parts + 1):
        absent = re.search(r"part ([\d/, ]+) is missing", fault)
        assert bool(absent and f"{number}/{parts}" in absent[1].split(", ")) == (bool(numbers) and not counts[number])
        assert (f"are both part {number}/{parts}" in fault) == (counts[number] > 1)


def test_all_faults_are_named_at_once() -> None:
    other = "c" * 64
    fault = fault_of(part(1, 3), part(1, 3, rows=None), part(1, 2, photos=other), part(2, 4, photos=other))
    for expected in (
        "M0 and M1 are both part 1/3",
        "part 2/3, 3/3 is missing",
        "M1: part 1/3 of photos.csv was not ended",
        "parts of 2 and 4 overlap (M2 is part 1/2, M3 is part 2/4)",
    ):
        assert expected in fault
    assert "had 99 and 100 photos" in fault_of(part(1, 2), part(2, 2, rows=99))


def test_parts_of_other_photos_stand_apart() -> None:
    assert fault_of(part(1, 1), part(1, 2, photos="b"), part(2, 2, photos="b")) == ""
    assert fault_of(replace(part(1, 2), split="train"), replace(part(2, 2), split="test")).count("is missing") == 2


def test_a_folder_stays_the_part_that_it_is(tmp_path: Path) -> None:
    check_same_part(tmp_path, part(1, 2), is_new=True)
    check_same_part(tmp_path, None, is_new=False)
    with pytest.raises(InputError, match=r"holds class maps of no part, and this is part 1/2 of photos\.csv"):
        check_same_part(tmp_path, part(1, 2), is_new=False)
    write_part(tmp_path, part(1, 2, rows=9))
    check_same_part(tmp_path, part(1, 2, rows=None), is_new=False)
    for other in (None, part(2, 2), part(1, 3), part(1, 2, photos="b")):
        with pytest.raises(InputError, match="Give the same `part` of the same photos, or another `out`"):
            check_same_part(tmp_path, other, is_new=False)
