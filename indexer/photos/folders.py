"""Folders of images: which photos are in one, and where they were taken, as their own files say.

A photo is called as its path below the folder. Places are read from metadata and names, for who learns from them or
measures with them; decoding never looks at either.
"""

import contextlib
import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from indexer.errors import BadImage, InputError
from indexer.jobs.progress import track
from indexer.photos.photo import IMAGE_SUFFIXES, PILLOW_MAX_PIXELS, FileRange, Photo, text_of
from indexer.photos.uris import files_below, is_uri, masked
from indexer.photos.utm_names import place_in_name

log = logging.getLogger(__name__)


def is_image(name: str) -> bool:
    """Whether a file's name, or its path below a folder, is that of a photo."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(name)


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder it is in, is hidden: macOS's `._x.jpg` beside x.jpg is no photo."""
    return name.startswith(".") or "/." in name


def count_images(folder: str) -> int:
    """How many there are, InputError where none; other files are named in the log: a user may take them for photos."""
    count, others = 0, Counter[str]()
    for name in files_below(folder):
        if is_image(name):
            count += 1
        else:
            others["hidden" if is_hidden(name) else Path(name).suffix.lower() or "without a suffix"] += 1
    if not count:
        raise _no_image(folder)
    if others:
        kinds = ", ".join(f"{n:,} {suffix}" for suffix, n in others.most_common(5))
        log.warning("%s: left out, because their names are not those of images: %s", folder, kinds)
    return count


def folder_photos(folder: str) -> Iterator[Photo]:
    """The photos below a folder, in the order of their names; InputError where there is none.

    Of places they have those alone that names of datasets say: no file is opened.
    """
    root = (folder if is_uri(folder) else str(Path(folder).absolute())).rstrip("/")
    name = None
    for name in filter(is_image, files_below(folder)):
        yield Photo(masked(text_of(name)), FileRange(f"{root}/{name}"), *place_in_name(name))
    if name is None:
        raise _no_image(folder)


@dataclass(frozen=True, slots=True, eq=False)
class FolderPlaces:
    """Those photos of a folder that say where they were taken, in its order."""

    photo: Sequence[str]
    lat_deg: np.ndarray  # (N,) float64
    lng_deg: np.ndarray  # (N,) float64

    @property
    def digest(self) -> str:
        """Of names and places: what tells other photos from these."""
        names = "\0".join(self.photo).encode()
        return hashlib.sha256(names + b"\0\0" + self.lat_deg.tobytes() + self.lng_deg.tobytes()).hexdigest()


def located_photos(folder: str) -> Iterator[Photo]:
    """The photos below a folder that say where they were taken, with their places. Raises as `folder_places`."""
    places = folder_places(folder)
    known = dict(zip(places.photo, zip(places.lat_deg.tolist(), places.lng_deg.tolist(), strict=True), strict=True))
    for photo in folder_photos(folder):
        if photo.name in known:
            lat, lng = known[photo.name]
            yield replace(photo, lat_deg=lat, lng_deg=lng)


def folder_places(folder: str) -> FolderPlaces:
    """Where the photos below a folder were taken, as their metadata says, or else their names.

    Photos without a place are left out, and counted in the log with an example. As long as no file changes, the same
    folder is read once.

    Raises:
        InputError: no photo in it says where it was taken, or the folder is at a URI.
    """
    if is_uri(folder):
        raise InputError(
            f"{masked(folder)}: places are read from photos on this machine only. Copy the folder here, or give a "
            "table with photo, lat, lng."
        )
    stamp = hashlib.sha256()
    for photo in folder_photos(folder):
        with contextlib.suppress(OSError):  # a link to nothing
            status = Path(_path_of(photo)).stat()
            stamp.update(f"{photo.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return _read_places(str(Path(folder).absolute()), folder, stamp.hexdigest())


@lru_cache(maxsize=2)
def _read_places(path: str, folder: str, stamp: str) -> FolderPlaces:
    """folder: the path as it was given, for messages. stamp: tells a folder whose files have changed."""
    from indexer.photos.metadata import (  # Pillow, which few who come here need
        findings_in,
        in_name,
        is_nowhere,
        place_of,
    )

    count_images(path)  # which says what is no photo
    photos, names, places = list(folder_photos(path)), list[str](), list[tuple[float, float]]()
    sources, without = Counter[str](), dict[str, list[str]]()
    with track("reading places of photos", len(photos)) as advance:
        for photo in photos:
            file = Path(_path_of(photo))
            try:
                found = findings_in(photo.name, file, max_pixels=PILLOW_MAX_PIXELS) if file.is_file() else []
            except BadImage:  # whoever decodes it will say why
                found = in_name(photo.name)
            place = place_of(found)
            if place is None or is_nowhere(place):
                why = "say nothing" if place is None else "say 0, 0, as cameras do that know no place"
                without.setdefault(why, []).append(photo.name)
            else:
                sources[place.where] += 1
                names.append(photo.name)
                places.append((place.lat_deg, place.lng_deg))
            advance(1)
    reasons = ", ".join(f"{len(left):,} {why} (such as {left[0]})" for why, left in without.items())
    if not names:
        raise InputError(
            f"{folder}: none of its {len(photos):,} photos says in its metadata or its name where it was taken: "
            f"{reasons}. Give photos as the camera wrote them, or a table with photo, lat, lng."
        )
    read = ", ".join(f"{n:,} by {where}" for where, n in sources.most_common())
    summary = f"{len(names):,} of {len(photos):,} photos have a place ({read})"
    if reasons:
        log.warning("%s: %s; left out are those that have none: %s", folder, summary, reasons)
    else:
        log.info("%s: %s", folder, summary)
    lat, lng = np.array(places, np.float64).T.copy()
    lat.flags.writeable = lng.flags.writeable = False  # they are given out again
    return FolderPlaces(tuple(names), lat, lng)


def _path_of(photo: Photo) -> str:
    assert isinstance(photo.data, FileRange), "photos of a folder are files"
    return photo.data.uri


def _no_image(folder: str) -> InputError:
    return InputError(f"{masked(folder)}: no image below this folder ({', '.join(IMAGE_SUFFIXES)}).")
