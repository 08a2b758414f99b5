"""Answers to compare with the truth, whoever gave them: a folder of ours, or a table of photo, lat, lng."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset

from indexer.errors import InputError
from indexer.jobs.job_folder import read_job
from indexer.photos.sources import PhotoTable
from indexer.photos.tables import coordinates_of, names_of, read_columns
from search.evaluation.truth import layout_of

_COLUMNS = ("photo", "lat", "lng")
# Columns in which others write their answers, in this order: the published result tables of GeoEstimation
# (TIBHannover/GeoEstimation, results/im2gps3k/base_M-m.csv), and what its later inference script prints.
_OTHERS_COLUMNS = (("img_id", "predicted_lat", "predicted_long"), ("img_id", "pred_lat", "pred_lng"))
_CELLS, _ALBUM = "top_s2_id", "album"
# What our answers say of themselves; null where there is no answer, or it has no such thing.
_CONFIDENCE = ("s2_id", "probability", "calibrated", "radius_50_km", "radius_90_km", "abstain")


@dataclass(frozen=True, slots=True, eq=False)
class Predictions(PhotoTable):
    """Answers in the order of their source: coordinates are NaN where a photo has none."""

    cells: pa.ListArray | None = None  # (N,) lists of uint64 S2 ids, the likeliest first; None where nobody gave them
    confidence: pa.Table | None = None  # _CONFIDENCE; None where answers are only points, or cells are labels
    album: str | None = None  # column by which photos were asked together, where `run` was told one
    albums: np.ndarray | None = None  # (N,) int64, which were asked together; None where answers do not say it
    owner_column: str | None = None  # column by whose owners gallery photos were left out, where it was


def read_predictions(source: Path) -> Predictions:
    """Read the answers of a folder written by `run`, or of anybody's .parquet or .csv.

    InputError where it is no table of answers, or an answer is off the Earth or half a place.
    """
    if source.is_dir():
        table = _read_folder(source)
    else:
        columns = layout_of(source, (*_OTHERS_COLUMNS, _COLUMNS))
        table = read_columns(source, columns).select(columns).rename_columns(_COLUMNS)
    lat, lng = coordinates_of(table, source)
    wrong = np.flatnonzero(np.isnan(lat) != np.isnan(lng))
    if wrong.size:
        raise InputError(
            f"{source}: row {wrong[0]} answers with lat {lat[wrong[0]]}, lng {lng[wrong[0]]}, which is half a place. "
            "Leave both empty where there is no answer."
        )
    cells = None
    if _CELLS in table.column_names and table[_CELLS].null_count < table.num_rows:
        cells = table[_CELLS].combine_chunks()
        cells = None if cells.flatten().null_count else cells  # cells that are labels have no S2 id
    says = "s2_id" in table.column_names and table["s2_id"].null_count < table.num_rows
    job = read_job(source) if source.is_dir() else None
    album, owner = (None if job is None else job.options.get(name) for name in ("album", "owner_column"))
    confidence = table.select(_CONFIDENCE) if says else None
    albums = None
    if album is not None and _ALBUM in table.column_names and not table[_ALBUM].null_count:
        albums = table[_ALBUM].to_numpy()
    return Predictions(names_of(table, source), lat, lng, cells, confidence, album, albums, owner)


def _read_folder(folder: Path) -> pa.Table:
    try:
        rows = pa.dataset.dataset(folder, format="parquet")
        more = [name for name in (_CELLS, *_CONFIDENCE, _ALBUM) if name in rows.schema.names]
        table = rows.to_table(columns=["row", *_COLUMNS, *more])
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{folder}: cannot be read as predictions ({error}).") from None
    if not table.num_rows:
        raise InputError(f"{folder}: no predictions in it.")
    return table.sort_by("row")
