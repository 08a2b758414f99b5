"""Which photos a folder of class maps is of, where several processes share them; and whether folders hold all of them.

    part.json       in the folder: the job part, the photos that it is a part of, and once it is done how many these are

Part i of n has every n-th photo, from the i-th on. A folder without such a file is of no part: it may be added to, and
goes with any other.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from indexer.disk.artifact import explain_full, explain_unwritable, place_file
from indexer.errors import ArtifactError, InputError
from indexer.photos.shard_cut import JobPart
from indexer.photos.sources import PhotoSource

PART_FILE = "part.json"


@dataclass(frozen=True, slots=True)
class MapPart:
    """A job part of the photos of one source."""

    job_part: JobPart
    location: str  # of the photos, for people
    photos: str | None  # what tells other photos from these; None where nobody knows (`PhotoSource.identity`)
    split: str | None  # of a table, that these are
    rows: int | None = None  # how many photos all parts have together; None until every photo of this part was seen

    @classmethod
    def of(cls, source: PhotoSource, job_part: JobPart) -> "MapPart":
        """A part that is to be made."""
        return cls(job_part, source.location, source.identity, source.split)

    @property
    def whole(self) -> tuple[str, str | None]:
        """What it is a part of: parts of equal ones belong together."""
        return self.photos or self.location, self.split

    def __str__(self) -> str:
        of_split = "" if self.split is None else f", split {self.split}"
        return f"part {self.job_part} of {self.location}{of_split}"


def read_part(folder: Path) -> MapPart | None:
    """The part that a folder of class maps is; None where it is none. An ArtifactError where that is damaged."""
    file = folder / PART_FILE
    try:
        found = json.loads(file.read_bytes())
        photos, split, rows = found["photos"], found["split"], found["rows"]
        return MapPart(
            JobPart.parse(found["part"]),
            str(found["location"]),
            None if photos is None else str(photos),
            None if split is None else str(split),
            None if rows is None else int(rows),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, InputError) as error:
        raise ArtifactError(
            f"{file}: cannot be read ({error}). Remove it and run the command of that part again: maps that are done "
            "are kept."
        ) from None


def write_part(folder: Path, part: MapPart) -> None:
    """Say in a folder which part it is, in place of what was said there; raises as `indexer.disk.artifact`."""
    text = json.dumps(
        {
            "part": str(part.job_part),
            "location": part.location,
            "photos": part.photos,
            "split": part.split,
            "rows": part.rows,
        }
    )
    with explain_full(folder), explain_unwritable(folder), place_file(folder / PART_FILE) as path:
        path.write_text(text)


def check_same_part(folder: Path, part: MapPart | None, *, is_new: bool) -> None:
    """Raise InputError where a folder, unless it is new, is another part than this one; None is no part."""
    before = None if is_new else read_part(folder)
    if is_new or before == (None if part is None else replace(part, rows=None if before is None else before.rows)):
        return
    is_now, is_then = ("class maps of no part" if each is None else str(each) for each in (part, before))
    raise InputError(
        f"{folder}: holds {is_then}, and this is {is_now}. Give the same `part` of the same photos, or another `out`."
    )


def check_parts(parts: Mapping[Path, MapPart | None]) -> None:
    """Raise one InputError that names every overlap and every gap among folders of class maps that are used together.

    parts: what each folder is; those of no part are left alone.
    """
    wholes = defaultdict[tuple[str, str | None], dict[Path, MapPart]](dict)
    for folder, part in parts.items():
        if part is not None:
            wholes[part.whole][folder] = part
    faults = [fault for whole in wholes.values() for fault in _faults(whole)]
    if faults:
        raise InputError(
            f"These class maps are not all of their photos: {'; '.join(faults)}. Name the folder of each part once, "
            "and end each part (python -m encoder segment, the same command again)."
        )


def _faults(parts: Mapping[Path, MapPart]) -> Iterator[str]:
    """What is wrong with the parts of one whole."""
    by_number = defaultdict[JobPart, list[str]](list)
    for folder, part in parts.items():
        by_number[part.job_part].append(str(folder))
    location = next(iter(parts.values())).location
    counts = sorted({job_part.parts for job_part in by_number})
    if len(counts) > 1:
        named = ", ".join(f"{folders[0]} is part {job_part}" for job_part, folders in by_number.items())
        yield f"{location}: parts of {' and '.join(map(str, counts))} overlap ({named})"
    for job_part, folders in by_number.items():
        if len(folders) > 1:
            yield f"{location}: {' and '.join(folders)} are both part {job_part}"
    if len(counts) == 1:
        absent = [str(each) for number in range(counts[0]) if (each := JobPart(number + 1, counts[0])) not in by_number]
        if absent:
            yield f"{location}: part {', '.join(absent)} is missing"
    yield from (f"{folder}: {part} was not ended" for folder, part in parts.items() if part.rows is None)
    rows = {part.rows for part in parts.values()} - {None}
    if len(rows) > 1:
        yield f"{location}: had {' and '.join(f'{each:,}' for each in sorted(filter(None, rows)))} photos in turn"
