"""Where photos of a benchmark were taken, from the files people have of it.

In: a table, or the folder a benchmark was unpacked into. Out: the names and coordinates of its photos. What is read,
and where each layout comes from (public repositories, by owner/name and path):

- GeoEstimation's tables, `<set>_places365.csv` with IMG_ID, AUTHOR, LAT, LON and scene labels, for IM2GPS and IM2GPS3k
  (TIBHannover/GeoEstimation, meta/), for YFCC26k as yfcc25600_places365.csv (AHKerrigan/GeoGuessNet's loader takes it)
  and for YFCC4k as yfcc4k_places365.csv (Applied-Machine-Learning-Lab/G3). The first of them have the header LON,LAT
  over latitudes, longitudes (im2gps_places365.csv at 7006c4d and im2gps3k_places365.csv at 3487c53).
- PIGEON's `<set>_aug.csv` with image, lat, lng, for these four and GWS15k (LukasHaas/PIGEON, data/benchmarks/).
- GeoCLIP's IMG_FILE, LAT, LON (VicenteVivan/geo-clip, geoclip/train/dataloader.py).
- The files that OSV-5M's code reads (gastruc/osv5m, data/data.py): for IM2GPS and IM2GPS3k info.json, which holds the
  lines of each photo's JPEG comment; for YFCC4k info.txt, lines of YFCC100M with tabs between; for OSV-5M itself
  test.csv with id, latitude, longitude, where id.jpg is the photo.
- Result tables of GeoEstimation, which repeat the truth as gt_lat and gt_long (its results/ folder).
- meta.jsonl with ID, LAT, LON, in which GWS15k goes around; ID.jpg is the photo. The set itself was never published.

Any table with photo, lat, lng will do as well.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from indexer.errors import InputError
from indexer.photos.sources import PhotoTable, read_photos
from indexer.photos.tables import coordinates_of, names_of, open_table, read_columns
from search.evaluation.options import BenchmarkName

log = logging.getLogger(__name__)


# What the truth is called, in the folder it was unpacked into.
TRUTH_FILES: dict[BenchmarkName, Sequence[str]] = {
    "im2gps": ("im2gps_places365.csv", "im2gps_aug.csv", "info.json"),
    "im2gps3k": ("im2gps3k_places365.csv", "im2gps3k_aug.csv", "info.json"),
    "yfcc4k": ("yfcc4k_places365.csv", "yfcc4k_aug.csv", "info.txt"),
    "yfcc26k": ("yfcc25600_places365.csv", "yfcc26k_places365.csv", "yfcc26k_aug.csv"),
    "gws15k": ("gws15k.csv", "gws15k_aug_2.csv", "gws15k_aug.csv", "meta.jsonl"),
    "osv5m": ("test.csv", "test/test.csv"),
}
# Photos of a whole set, where that is known: 237 and 2,997 rows have GeoEstimation's tables (3,000 photos of IM2GPS3k
# were given out), 4,536 YFCC4k's list in spite of its name, 25,600 YFCC26k's.
PUBLISHED_PHOTOS: Mapping[BenchmarkName, int] = {"im2gps": 237, "im2gps3k": 2997, "yfcc4k": 4536, "yfcc26k": 25600}
# Names of the columns of photo, latitude and longitude; the standard ones and their aliases come after these.
_COLUMNS = (
    ("img_file", "lat", "lon"),
    ("img_id", "gt_lat", "gt_long"),
    ("id", "latitude", "longitude"),
    ("id", "lat", "lng"),
    ("id", "lat", "lon"),
)
_STANDARD = ("photo", "lat", "lng")
# Below the folder of the truth: beside it, and where OSV-5M's code, PIGEON's, and GeoEstimation's users have them.
_FOLDERS = ("", "images", "jpgs", "img")
_YFCC = (1, 12, 13)  # columns of YFCC100M's lines: identifier, longitude, latitude


def read_truth(source: Path, *, benchmark: BenchmarkName | None = None, split: str | None = None) -> PhotoTable:
    """Names and coordinates of all photos whose place is known.

    Without a benchmark: a table with photo, lat, lng, as everywhere, or a folder of photos whose metadata say where
    they were taken. With one: such a table, or any of the layouts of this module, or a folder with one of them in it.
    If some latitude of a benchmark's table is beyond the poles, and all its rows are possible with the two columns
    swapped, they are swapped, and a warning says so.

    Raises:
        InputError: nothing usable is there, or a coordinate is missing or not on Earth.
    """
    if benchmark is None:
        return read_photos(source, split=split, coordinates=True)
    file = _file_of(source, benchmark)
    records = _RECORDS.get(file.suffix.lower())
    if records is None or not file.is_file():
        table = _read_table(file, split)
    elif split is not None:
        raise InputError(f"{file}: has no column split. Leave `split` out.")
    else:
        table = _read_records(file, records)
    photos, known = PhotoTable(names_of(table, file), *_coordinates(table, file)), PUBLISHED_PHOTOS.get(benchmark)
    if known is not None and len(photos) != known:
        log.warning(
            "%s: %d photos; the published set of %s has %d. Figures over other photos are not comparable.",
            *(file, len(photos), benchmark, known),
        )
    return photos


def beside_truth(photos: PhotoTable, source: Path) -> PhotoTable:
    """The photos by absolute paths: below the folder of their truth, or one of the folders the sets are unpacked into.

    The first photo that is there decides for all; InputError where none is.
    """
    folder = (source if source.is_dir() else source.parent).absolute()
    for below in _FOLDERS:
        if any((folder / below / name).is_file() for name in photos.photo):
            return replace(photos, photo=[str(folder / below / name) for name in photos.photo])
    places = ", ".join(str(folder / below) for below in _FOLDERS)
    raise InputError(f"{source}: none of its {len(photos)} photos is in {places}. Unpack them into one of these.")


def write_photos(photos: PhotoTable, out: Path, *, owner: tuple[str, pa.Array] | None = None) -> Path:
    """Write photos as a table that every command reads. owner: a column's name, and whose each photo is."""
    columns = {"photo": pa.array(photos.photo, pa.string()), "lat": photos.lat_deg, "lng": photos.lng_deg}
    if owner is not None:
        columns[owner[0]] = owner[1]
    pyarrow.parquet.write_table(pa.table(columns), out)
    return out


def texts_in(
    source: Path, column: str, *, benchmark: BenchmarkName | None = None, split: str | None = None
) -> pa.StringArray:
    """What a column of the truth's table says of its photos, such as whose they are, in the order of `read_truth`.

    Raises:
        InputError: the truth's file is no table, or has no such column.
    """
    file = _file_of(source, benchmark)
    if _is_records(file, benchmark):
        raise InputError(f"{file}: has no columns. Give the truth as a table with photo, lat, lng and {column}.")
    return read_columns(file, [column], split=split)[column].cast(pa.string()).combine_chunks()


def has_column(source: Path, column: str, *, benchmark: BenchmarkName | None = None) -> bool:
    """Whether `texts_in` finds such a column. Raises InputError where there is no truth."""
    file = _file_of(source, benchmark)
    return not _is_records(file, benchmark) and open_table(file).has(column)


def _is_records(file: Path, benchmark: BenchmarkName | None) -> bool:
    return benchmark is not None and file.suffix.lower() in _RECORDS


def _file_of(source: Path, benchmark: BenchmarkName | None) -> Path:
    """The file that says where photos were taken: of a benchmark it may be one in its folder."""
    return source if benchmark is None or not source.is_dir() else _file_in(source, benchmark)


def _file_in(folder: Path, benchmark: BenchmarkName) -> Path:
    for name in TRUTH_FILES[benchmark]:
        if (folder / name).is_file():
            return folder / name
    raise InputError(
        f"{folder}: no truth of {benchmark} in it; looked for {', '.join(TRUTH_FILES[benchmark])}. Give the file "
        "itself, or a table with photo, lat, lng."
    )


def _read_table(file: Path, split: str | None) -> pa.Table:
    photo, lat, lng = layout_of(file, (*_COLUMNS, _STANDARD))
    table = read_columns(file, [photo, lat, lng], split=split)
    names = table[photo]
    if photo == "id":  # without a suffix
        names = pa.compute.replace_substring_regex(names.cast(pa.string()), r"^([^.]+)$", r"\1.jpg")
    return pa.table(dict(zip(_STANDARD, (names, table[lat], table[lng]), strict=True)))


def layout_of(file: Path, layouts: Sequence[Sequence[str]]) -> list[str]:
    """The first set of columns that a table has; the last where it has none, so that reading it says what is wrong."""
    for columns in layouts[:-1]:
        with suppress(InputError):
            open_table(file).columns(columns)
            return list(columns)
    return list(layouts[-1])


def _read_records(file: Path, records: "_Records") -> pa.Table:
    try:
        found = records(file, file.read_text(encoding="utf-8-sig"))
        rows = [(photo, _number(file, photo, lat), _number(file, photo, lng)) for photo, lat, lng in found]
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: is not UTF-8 text ({error}). Save it as UTF-8.") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{file}: is not JSON ({error}). Mend it, or give a table with photo, lat, lng.") from None
    if not rows:
        raise InputError(f"{file}: no photo in it.")
    return pa.table(dict(zip(_STANDARD, map(list, zip(*rows, strict=True)), strict=True)))


def _number(file: Path, photo: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InputError(f"{file}: {value!r} is no coordinate of {photo!r}. Mend that row, or remove it.") from None


def _comments(file: Path, text: str) -> Iterator[tuple[str, Any, Any]]:
    """info.json: {photo: [lines of its JPEG comment]}; photos with an empty list were taken nobody knows where."""
    content = json.loads(text)
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise InputError(f"{file}: must hold one object, photo -> lines of its comment; it holds a {kind}.")
    for photo, lines in content.items():
        if lines:
            yield photo, _labelled(file, photo, lines, "latitude"), _labelled(file, photo, lines, "longitude")


def _labelled(file: Path, photo: str, lines: Any, label: str) -> str:
    for line in lines if isinstance(lines, list) else []:
        name, colon, value = str(line).partition(":")
        if colon and name.strip().lower() == label:
            return value
    raise InputError(f"{file}: the comment of {photo!r} has no line '{label}: number'. Remove that photo, or mend it.")


def _yfcc_lines(file: Path, text: str) -> Iterator[tuple[str, Any, Any]]:
    """info.txt: lines of YFCC100M, columns with tabs between."""
    for number, line in enumerate(text.splitlines()):
        cells = line.split("\t")
        if len(cells) <= max(_YFCC):
            raise InputError(
                f"{file}: line {number} (counted from 0) has {len(cells)} columns with tabs between; YFCC100M's lines "
                f"have at least {max(_YFCC) + 1}. Give the list as it was published, or a table with photo, lat, lng."
            )
        photo, lng, lat = (cells[column] for column in _YFCC)
        yield f"{photo}.jpg", lat, lng


def _json_lines(file: Path, text: str) -> Iterator[tuple[str, Any, Any]]:
    """meta.jsonl: one object a line with ID, LAT, LON, in any case."""
    for number, line in enumerate(text.splitlines()):
        if not line.strip():
            continue
        content = json.loads(line)
        fields = {name.lower(): value for name, value in content.items()} if isinstance(content, dict) else {}
        if not {"id", "lat", "lon"} <= fields.keys():
            raise InputError(f"{file}: line {number} (counted from 0) is no object with ID, LAT and LON.")
        photo = str(fields["id"])
        yield photo if "." in photo else f"{photo}.jpg", fields["lat"], fields["lon"]


# By suffix; of a file and its text, the name, latitude and longitude of each photo.
_Records = Callable[[Path, str], Iterator[tuple[str, Any, Any]]]
_RECORDS: dict[str, _Records] = {".json": _comments, ".txt": _yfcc_lines, ".jsonl": _json_lines}


def _coordinates(table: pa.Table, file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Latitudes and longitudes of a table, swapped where they are possible in no other way."""
    try:
        return coordinates_of(table, file, required=True)
    except InputError:
        with suppress(InputError):
            lat, lng = coordinates_of(table.rename_columns(["photo", "lng", "lat"]), file, required=True)
            log.warning(
                "%s: %d of %d latitudes are beyond the poles, and every row is possible with latitude and longitude "
                "swapped: the header names them the wrong way round, as the early im2gps tables do. They were swapped.",
                *(file, int((abs(lng) > 90.0).sum()), len(lng)),
            )
            return lat, lng
        raise
