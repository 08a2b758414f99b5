"""All photos of a run by their names, their places and whether their files are there; nothing of them is decoded."""

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from indexer.cells.hierarchy import Hierarchy
from indexer.jobs.progress import track
from indexer.photos.photo import FileRange, Photo
from indexer.photos.sources import PhotoSource
from indexer.photos.uris import is_uri, local_path
from training.photos.holding_out import NameFilter
from training.photos.stream import wanted_photos
from training.runs.check_report import CheckReport

_LOOK_S = 120.0  # in which photos' files are looked for; of the others only names and places are looked at
_LOOKERS = 16  # threads that do; of a network's files each waits
_SAMPLE = 4096  # photos that are kept in mind, evenly from all


@dataclass(slots=True, eq=False)
class PhotoSurvey:
    """What the names of one half of the photos say."""

    photos: int = 0  # that are wanted
    looked_for: int = 0  # of them, whose files were looked for
    absent: int = 0  # of those, files that are not there
    first_absent: str = ""
    per_cell: list[np.ndarray] = field(default_factory=list)  # of each level (C,) int64, photos in each cell
    sample: list[Photo] = field(default_factory=list)


def survey(
    report: CheckReport, source: PhotoSource, cells: Hierarchy | None, chosen: NameFilter | None, *, needs_cell: bool
) -> PhotoSurvey:
    """All photos of a half by their names and places. Of shards that cannot be read each is a problem by itself.

    cells: None where they cannot be had; photos are looked for all the same.
    """
    levels = () if cells is None else cells.levels
    half = PhotoSurvey(per_cell=[np.zeros(len(level), np.int64) for level in levels])
    pieces: Iterable[Iterable[Photo]] = [source]
    if source.photos_of is not None:
        pieces = (source.photos_of([shard]) for shard in source.containers())
    rng, until = np.random.default_rng(0), time.monotonic() + _LOOK_S
    with ThreadPoolExecutor(_LOOKERS) as pool, track("looking at photos", source.n_photos) as advance:
        for piece in pieces:
            with report.of("data.photos"):
                for n_seen, block in wanted_photos(piece, cells, chosen, needs_cell=needs_cell):
                    photos = [photo for photo, _ in block]
                    half.photos += len(photos)
                    for level, counts in enumerate(half.per_cell):
                        inside = np.array([of_photo[level] for _, of_photo in block], np.int64)
                        counts += np.bincount(inside[inside >= 0], minlength=len(counts))
                    if time.monotonic() < until:
                        half.looked_for += len(photos)
                        for photo, there in zip(photos, pool.map(_is_there, photos), strict=True):
                            half.absent += not there
                            half.first_absent = half.first_absent or ("" if there else photo.name)
                    _keep_some(half.sample, photos, n_before=half.photos - len(photos), rng=rng)
                    advance(n_seen)
    return half


def _is_there(photo: Photo) -> bool:
    """Whether a photo's file is there, as far as that is known without reading it."""
    if photo.data is None:
        return False
    if not isinstance(photo.data, FileRange) or photo.data.size is not None:
        return True  # bytes, or a member of a tar whose header was read
    path = local_path(photo.data.uri)
    return (path is None and is_uri(photo.data.uri)) or Path(path or photo.data.uri).is_file()


def _keep_some(sample: list[Photo], photos: Sequence[Photo], *, n_before: int, rng: np.random.Generator) -> None:
    """A uniform sample of a stream (Vitter 1985, algorithm R)."""
    for number, photo in enumerate(photos, start=n_before):
        if len(sample) < _SAMPLE:
            sample.append(photo)
        elif (place := int(rng.integers(number + 1))) < _SAMPLE:
            sample[place] = photo
