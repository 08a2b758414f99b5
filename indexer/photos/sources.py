"""Photos in, from wherever they are: which ones there are, where their bytes lie, and where they were taken if known.

Sources are folders of images, Parquet and CSV tables of paths or URIs, Parquet tables with the photos in them, and tar
shards in webdataset's layout; on this machine or at a URI. `open_photos` streams any of them. `read_photos` holds all
names and coordinates of one at once, for work that needs them so.

Table columns are `photo` (a path, relative to the table's own folder unless absolute, or a URI), `lat` and `lng` in
degrees, `split`, and `map` (a class map, given as the photo is). The names MP-16 and its neighbours use (IMG_ID, LAT,
LON, latitude, longitude) are understood. Photos in a table are a column of bytes called image, bytes, jpg, jpeg, png,
webp or photo, or of Hugging Face's structs of bytes and path; their names are then in photo, path or key, or are the
rows' numbers.
"""

import hashlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from indexer.disk.manifest import file_digest
from indexer.errors import InputError
from indexer.photos.folders import (
    count_images,
    folder_photos,
    folder_places,
    is_hidden,
    is_image,
    located_photos,
)
from indexer.photos.photo import IMAGE_SUFFIXES, FileRange, Photo, text_of
from indexer.photos.tables import IMAGES, contents_of, coordinates_of, names_of, open_table, read_columns, table_digest
from indexer.photos.tar_shards import COMPRESSED, SUFFIX, is_pattern, read_shards, shards_of
from indexer.photos.uris import (
    SCHEMES,
    check_location,
    entries,
    folder_of,
    is_uri,
    join,
    local_path,
    masked,
    path_of,
)

log = logging.getLogger(__name__)

_TABLES = (".parquet", ".pq", ".csv")
_AT_ONCE = 65_536  # photos of shards whose places are held together
_SINGLE = (SUFFIX, *COMPRESSED, *IMAGE_SUFFIXES)  # at a URI, what is no folder

_Kind = Literal["folder", "table", "shards"]
_Names = Callable[[], Iterator[str]]
_NO_NAMES: _Names = partial(iter, ())


@dataclass(frozen=True, slots=True)
class PhotoSource:
    """Photos in an order that is always the same, read as they are asked for; each iteration begins anew."""

    location: str  # as messages may name it
    n_photos: int | None  # None where it cannot be known without reading everything
    digest: str | None  # of a table of names, or of a folder's places, on this machine; None for everything else
    photos: Callable[[], Iterator[Photo]]
    may_have_maps: bool = True  # False: no photo can bring a class map
    split: str | None = None  # of a table, that these are; None: all of it
    containers: _Names = _NO_NAMES  # files or URIs that hold the bytes of many photos each
    photos_of: Callable[[Iterable[str]], Iterator[Photo]] | None = None  # of containers, where these are shards

    def __iter__(self) -> Iterator[Photo]:
        return self.photos()

    @property
    def identity(self) -> str | None:
        """What tells other photos from these: the digest, or one of the names and sizes of containers on this machine.

        Terabytes of photos are not read to tell. None for a source that is a folder, or lies at a URI.
        """
        if self.digest is not None:
            return self.digest
        files = [Path(name) for name in self.containers() if not is_uri(name)]
        sizes = [f"{file.name}\0{file.stat().st_size}" for file in files]
        return hashlib.sha256("\n".join(sizes).encode("utf-8", "surrogateescape")).hexdigest() if files else None

    def shuffled_shards(self, rng: np.random.Generator) -> Iterator[Photo]:
        """The same photos, shard after shard in a random order; in their own order where they are not in shards."""
        if self.photos_of is None:
            yield from self.photos()
        else:
            names = list(self.containers())
            yield from self.photos_of(names[number] for number in rng.permutation(len(names)))


@dataclass(frozen=True, slots=True, eq=False)
class PhotoTable:
    """Names and coordinates of photos in the order of their source."""

    photo: Sequence[str]  # as `Photo.name`
    lat_deg: np.ndarray  # (N,) float64, NaN where unknown
    lng_deg: np.ndarray  # (N,) float64, NaN where unknown

    def __len__(self) -> int:
        return len(self.photo)


def open_photos(
    source: str | Path, *, split: str | None = None, coordinates: bool = False, schemes: Sequence[str] = SCHEMES
) -> PhotoSource:
    """Open a source of photos: see the module.

    What can be known is checked at once: a table on this machine is read through once for its splits and coordinates,
    a folder is counted, shards must be there. Of sources at a URI only the beginning is looked at. Whether there is a
    photo behind each name is seen when it is read.

    Args:
        source: a folder, a .parquet, .csv or .tar file, or a pattern of .tar files with braces or globs
            (`shards/{0000..0012}.tar`); a path or a URI.
        split: of a table, keep only rows whose `split` column is this; None keeps all.
        coordinates: True when every photo must have `lat` and `lng`; otherwise they are read if present. Of a folder
            they are read from the photos' metadata, and photos without are left out (`indexer.photos.folders`).
        schemes: that the source may have. Those of the photos it names are checked when they are read.

    Raises:
        InputError: nothing usable is there; a column, a coordinate or a photo is missing; or a scheme is not allowed.
            While it is read: the same, for what could not be seen before.
        MissingBackend: the package that reads this scheme is not installed.
    """
    location = _located(source, schemes)
    kind, shards = _kind(location, schemes)
    if kind == "table":
        return _open_table(location, split=split, coordinates=coordinates)
    if kind == "folder" and split:
        raise InputError(f"{masked(location)}: a folder has no splits. Give a table with photo, lat, lng and split.")
    if split:
        raise InputError(f"{masked(location)}: shards have no splits. Name the shards of one split.")
    if kind == "shards":
        photos_of = partial(read_shards, location, coordinates=coordinates)
        return PhotoSource(
            masked(location), None, None, lambda: photos_of(shards()), containers=shards, photos_of=photos_of
        )
    if coordinates:
        places, photos = folder_places(location), partial(located_photos, location)
        return PhotoSource(masked(location), len(places.photo), places.digest, photos, may_have_maps=False)
    # Below a URI counting is listing, which costs time and money; on this machine it is soon done.
    count = None if is_uri(location) else count_images(location)
    return PhotoSource(masked(location), count, None, partial(folder_photos, location), may_have_maps=False)


def read_photos(
    source: str | Path, *, split: str | None = None, coordinates: bool = False, schemes: Sequence[str] = SCHEMES
) -> PhotoTable:
    """The names and coordinates of a whole source at once, as `open_photos` gives them one by one, with its errors.

    Of a table nothing else is read.
    """
    location = _located(source, schemes)
    kind = _kind(location, schemes)[0]
    if kind == "folder" and coordinates and split is None:
        places = folder_places(location)
        return PhotoTable(places.photo, places.lat_deg, places.lng_deg)
    if kind == "table":
        wanted = ["photo", "lat", "lng"] if coordinates else ["photo"]
        table = read_columns(location, wanted, optional=("lat", "lng"), split=split)
        return PhotoTable(names_of(table, location), *coordinates_of(table, location, required=coordinates))
    photos = list(open_photos(location, split=split, coordinates=coordinates, schemes=schemes))
    lat, lng = (np.array([getattr(photo, name) for photo in photos]) for name in ("lat_deg", "lng_deg"))
    return PhotoTable([photo.name for photo in photos], lat, lng)


def listed_photos(paths: Sequence[str]) -> list[Photo]:
    """Single files, as a command line names them; whether they are photos is seen when they are read."""
    return [Photo(masked(text_of(path)), _place("", path)) for path in paths]


def coordinate_batches(source: Path, *, split: str | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Latitudes and longitudes of a table, a folder or shards, a batch at a time; of a table nothing else is read.

    Raises what `read_columns`, `coordinates_of` and, of shards, `open_photos` do.
    """
    if _kind(_located(source, SCHEMES), SCHEMES)[0] == "shards":
        photos = iter(open_photos(source, split=split, coordinates=True))
        while block := list(itertools.islice(photos, _AT_ONCE)):
            yield np.array([photo.lat_deg for photo in block]), np.array([photo.lng_deg for photo in block])
        return
    for batch in open_table(source).scan(["lat", "lng"], split=split):
        yield coordinates_of(batch, source, required=True)


def places_digest(source: Path) -> str | None:
    """What tells the places of other photos from these of a table or a folder: their digest; of shards their identity.

    Raises as `coordinate_batches`.
    """
    if _kind(_located(source, SCHEMES), SCHEMES)[0] == "shards":
        return open_photos(source).identity
    return table_digest(source)


def read_coordinates(source: Path, *, split: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """All of `coordinate_batches` at once: two (N,) float64."""
    lat, lng = zip(*coordinate_batches(source, split=split), strict=True)
    return np.concatenate(lat), np.concatenate(lng)


def _located(source: str | Path, schemes: Sequence[str]) -> str:
    location = str(source)
    check_location(location, schemes)
    return local_path(location) or location


def is_table(source: str | Path) -> bool:
    """Whether a source of photos is a table, with columns, as its name says; a path or a URI."""
    return path_of(str(source)).lower().endswith(_TABLES) and not is_pattern(str(source))


def _kind(location: str, schemes: Sequence[str]) -> tuple[_Kind, _Names]:
    """What a location is, and its shards if it has some; an InputError where nothing is there that is understood."""
    name, remote, pattern = path_of(location).lower(), is_uri(location), is_pattern(location)
    suffixes = _TABLES if pattern else (*_TABLES, *_SINGLE)
    single = name.endswith(suffixes) if remote else Path(location).is_file()
    if pattern and not single:
        found = partial(shards_of, location, schemes)
        for _ in itertools.islice(found(), 1 if remote else None):
            pass  # all of them are there; at a URI, the first one
        return "shards", found
    if not single and (remote or Path(location).is_dir()):
        inside = _shards_in(location)
        return ("shards", partial(iter, inside)) if inside else ("folder", _NO_NAMES)
    if name.endswith(COMPRESSED):
        raise InputError(f"{masked(location)}: a compressed tar is read from its beginning only. Unpack it to a .tar.")
    if not single and not remote:
        raise InputError(f"{location}: no such file.")
    if name.endswith(_TABLES):
        return "table", _NO_NAMES
    if not name.endswith(SUFFIX):
        raise InputError(
            f"{masked(location)}: a table must be a .parquet or .csv file, and shards .tar files; images are given as "
            "the folder they are in."
        )
    return "shards", partial(iter, [location])


def _shards_in(folder: str) -> list[str]:
    names = [name for name, is_folder in entries(folder) if not is_folder]
    shards = [name for name in names if name.lower().endswith(SUFFIX) and not is_hidden(name)]
    images = [name for name in names if is_image(name)]
    if shards and images:
        raise InputError(
            f"{masked(folder)}: holds both images ({images[0]}) and shards ({shards[0]}). Name the shards as '*.tar', "
            "or move them into a folder of their own."
        )
    return [f"{folder.rstrip('/')}/{name}" for name in shards]


def _open_table(location: str, *, split: str | None, coordinates: bool) -> PhotoSource:
    table, places = open_table(location), ["lat", "lng"] if coordinates else []
    table.columns(["photo", *places], split=split)
    count, digest = None if split else table.n_rows, None
    if not is_uri(location):
        batches = table.scan(places, optional=("lat", "lng"), split=split)
        count = sum(len(coordinates_of(batch, location, required=coordinates)[0]) for batch in batches)
        digest = None if table.has(IMAGES) else file_digest(Path(location))
    return PhotoSource(
        masked(location),
        count,
        digest,
        partial(_table_photos, location, split=split, coordinates=coordinates),
        may_have_maps=table.has("map"),
        split=split,
        containers=partial(iter, (location,) if table.has(IMAGES) else ()),
    )


def _table_photos(location: str, *, split: str | None, coordinates: bool) -> Iterator[Photo]:
    root = folder_of(location) if is_uri(location) else str(Path(location).parent.absolute())

    def data(batch: pa.Table, column: str) -> Iterator[FileRange | bytes | None]:
        contents = contents_of(batch, column, location)
        return (content if isinstance(content, bytes) else _place(root, content) for content in contents)

    wanted = ["photo", "lat", "lng"] if coordinates else ["photo"]
    for batch in open_table(location).scan(wanted, optional=("lat", "lng", "map", IMAGES), split=split):
        lat, lng = coordinates_of(batch, location, required=coordinates)
        images = data(batch, IMAGES if IMAGES in batch.column_names else "photo")
        class_maps = data(batch, "map") if "map" in batch.column_names else itertools.repeat(None)
        rows = zip(names_of(batch, location), images, lat.tolist(), lng.tolist(), class_maps, strict=False)
        yield from itertools.starmap(Photo, rows)


def _place(root: str, name: str | None) -> FileRange | None:
    return FileRange(join(root, name)) if name else None
