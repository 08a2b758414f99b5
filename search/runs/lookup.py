"""Answers of a job for people: those of one photo, and all of them as a file that spreadsheets and maps open.

DuckDB reads the shards, so nothing is held but what is asked for; only GeoJSON and GeoParquet are made in memory, at
about a kilobyte a row.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from indexer.disk.artifact import check_file, explain_full, place_file
from indexer.errors import ArtifactError, InputError
from indexer.jobs.job_folder import check_ended, part_files
from search.evaluation.photo_names import file_name, stem

SUFFIXES: Mapping[str, str] = {"csv": ".csv", "geojson": ".geojson", "geoparquet": ".parquet"}
# All columns of `search.answers.rows`, which takes seconds to import, in the order for people. Lists of other places do
# not fit into a cell of a table.
_COLUMNS = (
    *("row", "photo", "status", "reason", "lat", "lng", "city", "country", "s2_id", "token", "key", "point_key"),
    *("probability", "probability_over", "calibrated", "radius_50_km", "radius_90_km", "entropy", "abstain"),
    *("score", "mode", "evidence", "n_photos", "album", "class_map"),
)
# Jobs of before there were galleries have none of the first two, and albums have only those that asked them.
_NOT_ALWAYS = {"point_key", "evidence", "album"}


def answers_to(folder: Path, photo: str) -> list[dict[str, Any]]:
    """The rows of a photo: by its whole name; where no row has that, by file name, and then without an image's suffix.

    InputError where there are no predictions, or none of such a photo.
    """
    with _answers(folder) as rows:
        # What DuckDB can tell first; names that hold the stem are few enough to look at one by one.
        for condition, value in (("photo = $1", photo), ("contains(photo, $1)", stem(photo))):
            query = f"SELECT * FROM answers WHERE {condition} ORDER BY row"
            found: list[dict[str, Any]] = rows.sql(query, params=[value]).to_arrow_table().to_pylist()
            for name_of in (str, file_name, stem):
                answers = [row for row in found if name_of(row["photo"]) == name_of(photo)]
                if answers:
                    return answers
    raise InputError(f"{folder}: no row of a photo {photo!r}. Names are those of the table the job was given.")


def export_target(folder: Path, out: Path | None, format_: str | None) -> Path:
    """The file that answers are exported to: `out`, or the folder's name with the suffix of a format."""
    suffix = None if format_ is None else SUFFIXES[format_]
    if out is None:
        if suffix is None:
            raise InputError(f"Give `format` ({', '.join(SUFFIXES)}), or `out` with a name that ends in its suffix.")
        return folder.absolute().with_name(folder.absolute().name + suffix)
    if suffix not in (None, out.suffix.lower()):
        raise InputError(f"{out}: a file of {format_} must end in {suffix}.")
    if out.suffix.lower() not in SUFFIXES.values():
        raise InputError(f"{out}: the name must end in {', '.join(SUFFIXES.values())}.")
    return out


def export_answers(folder: Path, out: Path) -> int:
    """Write the answers of a job that has ended to one file, whole or not at all, and return how many rows it has.

    out: a .csv, .geojson or .parquet; the last two hold points (WGS 84), which are null where there is no answer.

    Raises:
        InputError: no predictions there, the job has not ended, or `out` cannot be written.
        MissingBackend: GeoJSON and GeoParquet need the extra `export`.
        WorkError: the disk is full.
    """
    check_ended(folder)
    check_file(out)
    with _answers(folder) as rows:
        present = set(rows.table("answers").columns)
        chosen = f"SELECT {', '.join(name for name in _COLUMNS if name in present)} FROM answers ORDER BY row"
        if out.suffix.lower() == SUFFIXES["csv"]:
            with explain_full(out), place_file(out) as aside:
                quoted = str(aside).replace("'", "''")
                written = rows.execute(f"COPY ({chosen}) TO '{quoted}' (HEADER, DELIMITER ',')").fetchall()
            return int(written[0][0])
        table = rows.sql(chosen).to_arrow_table()
    from indexer.cells.export import write_points  # the extra is asked for by those who use it

    write_points(table, out)
    return int(table.num_rows)


@contextmanager
def _answers(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with a view `answers` of all rows that are there."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder. Give the one that `search run` wrote.")
    parts = part_files(folder)
    if not parts:
        below = sorted(path.name for path in folder.iterdir() if path.is_dir() and part_files(path))
        name = f" Name one of the jobs below it: {', '.join(below)}." if below else ""
        raise InputError(f"{folder}: no predictions in it{'.' if below else ' yet.'}{name}")
    with duckdb.connect() as connection:
        try:
            connection.read_parquet([str(part) for part in parts]).create_view("answers")
            present = connection.table("answers").columns
            missing = next((name for name in _COLUMNS if name not in {*present, *_NOT_ALWAYS}), None)
            if missing is not None:
                raise InputError(f"{folder}: these are no predictions; they have no column {missing!r}.")
            yield connection
        except duckdb.Error as error:
            raise ArtifactError(f"{folder}: cannot be read ({error}).") from None
