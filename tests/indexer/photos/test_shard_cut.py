"""Shards of a source: the same ones every time, each photo in one, and a source that changed is noticed."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.errors import InputError
from indexer.jobs.job_folder import Mark, names_digest
from indexer.photos.photo import Photo
from indexer.photos.shard_cut import WHOLE, JobPart, ShardCut
from indexer.photos.sources import PhotoSource

NAMES = st.lists(st.sampled_from(["a", "b", "", "café", "a/b.jpg"]), min_size=1, max_size=40)  # names may repeat
SHARD_ROWS = st.integers(1, 12)
PARTS = st.integers(1, 6).flatmap(lambda parts: st.builds(JobPart, st.integers(1, parts), st.just(parts)))


def source(names: Sequence[str]) -> PhotoSource:
    return PhotoSource("somewhere", None, None, lambda: (Photo(name, b"", 0.0, 0.0) for name in names))


def shards_of(names: Sequence[str], shard_rows: int) -> list[Sequence[str]]:
    return [names[first : first + shard_rows] for first in range(0, len(names), shard_rows)]


def mark(number: int, names: Sequence[str]) -> Mark:
    return Mark(number, 0, len(names), len(names), {}, {}, names_digest(names), "", 0, 0.0)


def marks(names: Sequence[str], shard_rows: int, done: set[int]) -> dict[int, Mark]:
    return {n: mark(n, shard) for n, shard in enumerate(shards_of(names, shard_rows)) if n in done}


def given_by(cut: ShardCut) -> dict[int, list[str]]:
    """The photos that a cut gives, by the number it says their shard has."""
    left = iter([photo.name for photo in cut])
    found: dict[int, list[str]] = {}
    while shard := list(itertools.islice(left, cut.shard_rows)):
        found[cut.next_number()] = shard
    with pytest.raises(IndexError):
        cut.next_number()  # no number without photos
    return found


@given(NAMES, SHARD_ROWS, st.sets(st.integers(0, 40)))
def test_what_is_given_and_what_was_done_is_everything_in_order(
    names: list[str], shard_rows: int, done: set[int]
) -> None:
    known = marks(names, shard_rows, done)
    cut = ShardCut(source(names), shard_rows=shard_rows, done=known, part=WHOLE)
    found = given_by(cut)
    assert found.keys() | known.keys() == set(range(len(shards_of(names, shard_rows))))
    assert not found.keys() & known.keys()
    assert found == {n: shard for n, shard in enumerate(shards_of(names, shard_rows)) if n not in known}
    assert list(found) == sorted(found)


@given(NAMES, SHARD_ROWS, st.integers(1, 6))
def test_parts_share_the_shards_out(names: list[str], shard_rows: int, parts: int) -> None:
    cuts = [
        ShardCut(source(names), shard_rows=shard_rows, done={}, part=JobPart(number, parts))
        for number in range(1, parts + 1)
    ]
    found = [given_by(cut) for cut in cuts]
    assert sum(map(len, found)) == len({number for each in found for number in each})  # no shard in two parts
    together = {number: shard for each in found for number, shard in each.items()}
    assert together == dict(enumerate(shards_of(names, shard_rows)))
    assert max(map(len, found)) - min(map(len, found)) <= 1


@given(NAMES, SHARD_ROWS, PARTS, st.sets(st.integers(0, 40)))
def test_a_part_goes_on_where_it_was(names: list[str], shard_rows: int, part: JobPart, done: set[int]) -> None:
    mine = {number for number in range(len(shards_of(names, shard_rows))) if part.has(number)}
    known = marks(names, shard_rows, done & mine)
    cut = ShardCut(source(names), shard_rows=shard_rows, done=known, part=part)
    assert given_by(cut).keys() == mine - done


@given(NAMES, SHARD_ROWS, st.data())
def test_other_names_in_a_shard_that_is_done_are_noticed(
    names: list[str], shard_rows: int, data: st.DataObject
) -> None:
    shards = shards_of(names, shard_rows)
    number = data.draw(st.integers(0, len(shards) - 1))
    place = number * shard_rows + data.draw(st.integers(0, len(shards[number]) - 1))
    changed = [*names[:place], f"{names[place]}!", *names[place + 1 :]]
    _refused(changed, shard_rows, marks(names, shard_rows, {number}), f"the photos of shard {number} are others")


@given(NAMES, SHARD_ROWS, st.data())
def test_a_photo_that_was_taken_out_or_put_in_before_is_noticed(
    names: list[str], shard_rows: int, data: st.DataObject
) -> None:
    distinct = [f"{row}" for row in range(len(names))]
    done = marks(distinct, shard_rows, set(range(len(names))))
    place = data.draw(st.integers(0, len(names) - 1))
    for changed in ([*distinct[:place], *distinct[place + 1 :]], [*distinct[:place], "new", *distinct[place:]]):
        if changed:
            _refused(changed, shard_rows, done, "not what the job began with")


@given(NAMES, SHARD_ROWS, st.integers(1, 3))
def test_a_source_that_ends_before_what_is_done_is_noticed(names: list[str], shard_rows: int, more: int) -> None:
    last = len(shards_of(names, shard_rows)) - 1 + more
    _refused(names, shard_rows, {last: mark(last, ["gone"])}, f"had photos for shard {last}, and has none now")


def _refused(names: Sequence[str], shard_rows: int, done: Mapping[int, Mark], message: str) -> None:
    cut = ShardCut(source(names), shard_rows=shard_rows, done=done, part=WHOLE)
    with pytest.raises(InputError, match=message):
        list(cut)


def test_photos_after_the_last_full_shard_that_is_done_are_given() -> None:
    cut = ShardCut(source("abcdef"), shard_rows=2, done=marks("abcd", 2, {0, 1}), part=WHOLE)
    assert given_by(cut) == {2: ["e", "f"]}


def test_no_photos_are_refused() -> None:
    with pytest.raises(InputError, match="somewhere: no photos"):
        list(ShardCut(source([]), shard_rows=2, done={}, part=WHOLE))


def test_a_source_is_read_as_far_as_photos_are_taken() -> None:
    """And no further, where a shard is given; one that is compared is read whole."""
    read: list[int] = []

    def photos() -> Iterator[Photo]:
        for row in range(100):
            read.append(row)
            yield Photo(f"{row}", b"", 0.0, 0.0)

    done = {0: mark(0, [f"{row}" for row in range(10)])}
    cut = iter(ShardCut(PhotoSource("x", None, None, photos), shard_rows=10, done=done, part=WHOLE))
    assert next(cut).name == "10"
    assert len(read) == 11


@given(PARTS)
def test_a_part_is_written_as_it_is_read(part: JobPart) -> None:
    assert JobPart.parse(str(part)) == part


@pytest.mark.parametrize("text", ["", "2", "/", "2/", "/8", "a/b", "2/8/1", "1.5/2", "-1/2", " 1/2", "1/2 ", "²/3"])
def test_a_part_that_is_written_otherwise_says_how(text: str) -> None:
    with pytest.raises(InputError, match="write it as 2/8, the second of eight parts"):
        JobPart.parse(text)


@pytest.mark.parametrize("text", ["0/2", "3/2", "0/0", "1/0"])
def test_a_part_that_there_is_not_says_which_there_are(text: str) -> None:
    with pytest.raises(InputError, match=f"`part` {text}: give the number of a part"):
        JobPart.parse(text)
