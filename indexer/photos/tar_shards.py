"""Tar shards in the layout of webdataset: members `key.ext` that follow each other belong to one photo.

`key.jpg` (or another image suffix) is the photo, `key.json` may say where it was taken, under any of the names a table
may use, and `key.map.png` or `key.seg.png` is its class map. Everything else is passed over, and nothing is ever
unpacked or run. A photo is called `shard.tar/key.jpg`.

On this machine only headers are read here; bytes are read when a photo is decoded. A shard at a URI is read here once,
from front to back, in requests of 8 MiB, and photos up to that size come as bytes. (Fetching headers alone would cost a
request for each photo, some 30 a second, and then another for the photo.) Larger photos come as ranges.
"""

import contextlib
import glob
import itertools
import json
import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexer.errors import InputError, ShardsMissing
from indexer.photos.photo import IMAGE_SUFFIXES, FileRange, Photo, text_of
from indexer.photos.tables import ALIASES
from indexer.photos.tar import Member, members
from indexer.photos.uris import check_location, file_system, is_uri, local_path, masked, path_of, reading

log = logging.getLogger(__name__)

SUFFIX = ".tar"
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4")
_MAPS = ("map.png", "seg.png")
_REMOTE_BLOCK = 8 << 20  # bytes of one request
_MAX_JSON = 1 << 20  # bytes
_MAX_GROUP = 100  # members of one key; they are held together
_MOST_TOLD = 20  # shards that are missing
_WATCHED = 1 << 20  # keys of a shard that are remembered, to say which come again

_Read = Callable[[int, int], bytes]


def is_pattern(location: str) -> bool:
    """Whether a location stands for several shards. A `?` in a URI begins a query; a path that exists is no pattern."""
    remote = is_uri(location)
    return any(mark in location for mark in ("*[{" if remote else "*?[{")) and (remote or not Path(location).exists())


def shards_of(pattern: str, schemes: Sequence[str]) -> Iterator[str]:
    """The shards a pattern stands for: braces in the order they say, globs sorted.

    ShardsMissing where shards that are named are not there, all of them told. InputError where one is no .tar, or a
    glob matches nothing.
    """
    named = _named_shards(pattern, schemes)
    for shard in named:
        if _is_absent(shard):
            absent = [shard, *filter(_is_absent, named)]
            there = [each for each in _named_shards(pattern, schemes) if not _is_absent(each)]
            more = ", ".join(path_of(each).rpartition("/")[2] for each in absent[1:_MOST_TOLD])
            others = f" and {len(absent) - _MOST_TOLD:,} more" if len(absent) > _MOST_TOLD else ""
            also = f" {len(absent):,} shards are missing; the others: {more}{others}." if more else ""
            raise ShardsMissing(f"{shard}: no such file.{also}", there)
        yield shard


def _is_absent(shard: str) -> bool:
    return not is_uri(shard) and not Path(shard).is_file()


def _named_shards(pattern: str, schemes: Sequence[str]) -> Iterator[str]:
    for location in expand_braces(pattern):
        check_location(location, schemes)
        found = [location]
        if is_pattern(location):
            found = _glob(location)
            if not found:
                raise InputError(f"{masked(location)}: nothing matches this pattern.")
        for shard in found:
            if not path_of(shard).lower().endswith(SUFFIX):
                raise InputError(f"{masked(shard)}: a pattern must match {SUFFIX} files only, such as 'shards/*.tar'.")
            yield shard


def expand_braces(pattern: str) -> Iterator[str]:
    """What a shell makes of `{a,b}` and `{000..012}`: the rightmost changes fastest, leading zeros stay.

    InputError for braces inside braces, one alone, or a range that is not of numbers.
    """
    if re.search(r"[{}]", re.sub(r"\{[^{}]*\}", "", pattern)):
        raise InputError(f"{masked(pattern)}: braces come in pairs, and not inside each other.")
    match = re.search(r"\{([^{}]*(?:,|\.\.)[^{}]*)\}", pattern)
    if match is None:
        yield pattern
        return
    for part in _alternatives(match[1], pattern):
        for rest in expand_braces(pattern[match.end() :]):
            yield pattern[: match.start()] + part + rest


def read_shards(location: str, shards: Iterable[str], *, coordinates: bool) -> Iterator[Photo]:
    """The photos of all shards.

    Raises:
        InputError: a shard is no plain tar or is damaged, after the photos before that place; a coordinate is not on
            Earth, or absent where it is required; or there is no photo at all.
    """
    photos = itertools.chain.from_iterable(_photos(shard, coordinates=coordinates) for shard in shards)
    first = next(photos, None)
    if first is None:
        raise InputError(f"{masked(location)}: no image in it ({', '.join(IMAGE_SUFFIXES)}).")
    yield first
    yield from photos


class _Notes(dict[str, tuple[int, str]]):
    """What a shard has that makes no photo: how often, and the first name. Logged once, at the shard's end."""

    def add(self, what: str, name: str) -> None:
        count, first = self.get(what, (0, text_of(name)))
        self[what] = count + 1, first


@dataclass(frozen=True, slots=True)
class _KeyedMember:
    """One member that may belong to a photo. Key: all up to the first dot of the last part of its name."""

    name: str
    key: str
    extension: str  # all after that dot, in lower case
    is_image: bool
    data: FileRange | bytes | None  # None: of no use here


def _keyed(member: Member, shard: str, read: _Read) -> _KeyedMember:
    name = member.name.removeprefix("./")
    folder, slash, last = name.rpartition("/")
    key, _, extension = last.partition(".")
    extension = extension.lower()
    is_image = extension not in _MAPS and f".{extension}".endswith(IMAGE_SUFFIXES)
    data = None
    if is_image or extension in ("json", *_MAPS):
        at_once = _MAX_JSON if extension == "json" else _REMOTE_BLOCK if is_uri(shard) else -1
        whole = member.size <= at_once
        data = read(member.offset, member.size) if whole else FileRange(shard, member.offset, member.size)
    return _KeyedMember(name, folder + slash + key, extension, is_image, data)


def _photos(shard: str, *, coordinates: bool) -> Iterator[Photo]:
    notes = _Notes()
    seen: set[int] = set()
    shard = shard if is_uri(shard) else str(Path(shard).absolute())
    with _opened(shard) as (read, length):
        listed = members(read, length=length, source=masked(shard))
        # Bytes are read where they are met: going back would fetch a block of a remote shard again.
        parts = (_keyed(member, shard, read) for member in _usable(listed, notes))
        for key, group in itertools.groupby(parts, key=lambda part: part.key):
            if hash(key) in seen:
                notes.add("keys come again after others; their members are taken for other photos", key)
            if len(seen) < _WATCHED:
                seen.add(hash(key))
            sample = list(itertools.islice(group, _MAX_GROUP + 1))
            if len(sample) > _MAX_GROUP:
                raise InputError(f"{masked(shard)}: more than {_MAX_GROUP} members of the key {text_of(key)!r}.")
            yield from _sample(shard, key, sample, notes, coordinates=coordinates)
    for what, (count, first) in notes.items():
        log.warning("%s: %d %s, the first %r", masked(shard), count, what, first)


def _usable(listed: Iterator[Member], notes: _Notes) -> Iterator[Member]:
    for member in listed:
        parts = member.name.split("/")
        if member.is_folder:
            continue
        if not member.is_file:
            notes.add("links, devices and sparse files are passed over", member.name)
        elif member.name.startswith("/") or ".." in parts:
            notes.add("names that lead out of the archive are passed over", member.name)
        elif not parts[-1].startswith("."):  # webdataset's rule: hidden files have no key
            yield member


def _sample(
    shard: str, key: str, sample: Sequence[_KeyedMember], notes: _Notes, *, coordinates: bool
) -> Iterator[Photo]:
    """The photos among the members of one key: one, but a key may have several images, and then each is one."""
    images = [part for part in sample if part.is_image]
    if not images:
        notes.add("keys have no image", key)
        return
    if len(images) > 1:
        notes.add("keys have several images; each is a photo", key)
    title = path_of(shard).rpartition("/")[2]
    lat = lng = math.nan
    class_map = None
    for part in sample:
        if part.extension == "json":
            lat, lng = _place(f"{title}/{text_of(part.name)}", part.data, notes)
        elif part.extension in _MAPS:
            class_map = part.data
    if coordinates and (math.isnan(lat) or math.isnan(lng)):
        raise InputError(
            f"{masked(shard)}: {text_of(images[0].name)} has no lat and lng. Put them in {text_of(key)}.json beside it."
        )
    for image in images:
        yield Photo(f"{title}/{text_of(image.name)}", image.data, lat, lng, class_map)


def _place(name: str, data: FileRange | bytes | None, notes: _Notes) -> tuple[float, float]:
    """Latitude and longitude in a .json, NaN where there are none."""
    try:
        if not isinstance(data, bytes):
            raise ValueError("too large to be a description")
        record = json.loads(data)
        lower = {key.lower(): value for key, value in record.items()}
    except (ValueError, AttributeError, RecursionError):
        notes.add("files are no JSON objects of at most 1 MiB and are passed over", name)
        return math.nan, math.nan
    lat, lng = (_degrees(name, lower, column, bound) for column, bound in (("lat", 90.0), ("lng", 180.0)))
    return lat, lng


def _degrees(name: str, record: Mapping[str, Any], column: str, bound: float) -> float:
    value = next((record[alias] for alias in ALIASES[column] if record.get(alias) is not None), None)
    try:
        degrees = math.nan if value is None else float("" if isinstance(value, bool) else value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name}: {column} must be a number in degrees, not {str(value)[:40]!r}.") from None
    if not (abs(degrees) <= bound or math.isnan(degrees)):
        raise InputError(
            f"{name}: {column} is {degrees}. It must be a number from {-bound:g} to {bound:g}; mend it or leave it out."
        )
    return degrees


@contextlib.contextmanager
def _opened(shard: str) -> Iterator[tuple[_Read, int]]:
    """A reader of (offset, size), and how long the archive is."""
    path = local_path(shard)
    with contextlib.ExitStack() as stack:
        with reading(shard):
            if path is not None:
                file: Any = stack.enter_context(Path(path).open("rb", buffering=0))
                length = os.fstat(file.fileno()).st_size
            else:
                system, place = file_system(shard)
                length = system.info(place)["size"]
                if length is None:
                    raise InputError(f"{masked(shard)}: its server does not say how long it is. Download it first.")
                file = stack.enter_context(system.open(place, block_size=_REMOTE_BLOCK, cache_type="readahead"))

        def read(offset: int, size: int) -> bytes:
            with reading(shard):
                file.seek(offset)
                content: bytes = file.read(size)
                return content

        yield read, length


def _alternatives(inside: str, pattern: str) -> Iterator[str]:
    if "," in inside:
        yield from inside.split(",")
        return
    match = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    if match is None:
        raise InputError(f"{masked(pattern)}: a range is of two numbers, such as {{0000..0012}}, not {{{inside}}}.")
    first, last = int(match[1]), int(match[2])
    padded = any(len(end) > 1 and end[0] == "0" for end in match.groups())
    width = max(map(len, match.groups())) if padded else 0
    for number in range(first, last + 1) if first <= last else range(first, last - 1, -1):
        yield f"{number:0{width}d}"


def _glob(pattern: str) -> list[str]:
    path = local_path(pattern)
    if path is not None:
        return sorted(glob.glob(path))  # noqa: PTH207 (a Path would take the pattern apart)
    with reading(pattern):
        fixed = pattern[: re.search(r"[*\[]", pattern).start()].rpartition("/")[0]  # type: ignore[union-attr]
        system, place = file_system(pattern)
        root = file_system(fixed)[1].rstrip("/")
        # A page of a web server may link to anywhere.
        return sorted(fixed + name[len(root) :] for name in system.glob(place) if name.startswith(f"{root}/"))
