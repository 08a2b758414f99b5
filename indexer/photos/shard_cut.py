"""Photos of a source cut into shards, the same ones every time; those of finished shards are passed over."""

import itertools
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from indexer.errors import InputError
from indexer.jobs.job_folder import Mark, names_digest
from indexer.photos.photo import Photo
from indexer.photos.sources import PhotoSource


@dataclass(frozen=True, slots=True)
class JobPart:
    """What one process does, where several share one input: every n-th shard or photo, each into its own folder."""

    number: int = 1  # from 1 to `parts`
    parts: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.parts:
            raise InputError(
                f"`part` {self.number}/{self.parts}: give the number of a part and how many there are, 1/4 to 4/4."
            )

    def __str__(self) -> str:
        return f"{self.number}/{self.parts}"

    @classmethod
    def parse(cls, text: str) -> "JobPart":
        """The part of `2/8`, the second of eight; an InputError for what is written otherwise, or is no part."""
        number, slash, parts = text.partition("/")
        if not (slash and number.isdecimal() and parts.isdecimal()):
            raise InputError(f"`part` {text}: write it as 2/8, the second of eight parts.")
        return cls(int(number), int(parts))

    def has(self, number: int) -> bool:
        """Whether the shard, or the photo, of a number is of this part."""
        return number % self.parts == self.number - 1

    def share_of(self, n: int | None) -> int | None:
        """How many of n shards or photos are of this part; None where n is."""
        return None if n is None else len(range(self.number - 1, n, self.parts))


WHOLE = JobPart()


class ShardCut:
    """The photos that are left to do, in order. Iterate once; `next_number` says whose photos were given.

    A source may have changed since shards of it were finished, and most sources have no digest that would tell. So the
    names of photos that are passed over are compared with those that were done.
    """

    def __init__(self, photos: PhotoSource, *, shard_rows: int, done: Mapping[int, Mark], part: JobPart) -> None:
        self.photos, self.shard_rows, self.done, self.part = photos, shard_rows, dict(done), part
        self._numbers = deque[int]()

    def __iter__(self) -> Iterator[Photo]:
        for number, shard in self._missing():
            self._numbers.append(number)
            yield from shard

    def lists(self) -> Iterator[tuple[int, list[Photo]]]:
        """The same, shard by shard with their numbers."""
        return ((number, list(shard)) for number, shard in self._missing())

    def _missing(self) -> Iterator[tuple[int, Iterator[Photo]]]:
        """Shards that are left to do; each must be used up before the next one is taken."""
        source, number = iter(self.photos), 0
        while (first := next(source, None)) is not None:
            shard = itertools.chain([first], itertools.islice(source, self.shard_rows - 1))
            if number in self.done:
                if self.done[number].names != names_digest([photo.name for photo in shard]):
                    raise self._changed(f"the photos of shard {number} are others")
            elif self.part.has(number):
                yield number, shard
            else:
                deque(shard, maxlen=0)
            number += 1
        if not number:
            raise InputError(f"{self.photos.location}: no photos.")
        gone = [shard for shard in self.done if shard >= number]
        if gone:
            raise self._changed(f"it had photos for shard {min(gone)}, and has none now")

    def next_number(self) -> int:
        """The number of the next shard, of those whose first photo was given."""
        return self._numbers.popleft()

    def _changed(self, how: str) -> InputError:
        return InputError(
            f"{self.photos.location}: not what the job began with ({how}). Rows of both would be mixed: bring the old "
            "input back, or choose another `out`."
        )
