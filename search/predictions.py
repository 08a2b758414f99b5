"""Answers to compare with the truth, whoever gave them: a folder of ours, or a table of photo, lat, lng."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset

from indexer.errors import InputError
from indexer.tables import check_columns, coordinates_of, names_of, read_columns

_COLUMNS = ("photo", "lat", "lng")
# Columns in which others write their answers, in this order: the published result tables of GeoEstimation
# (TIBHannover/GeoEstimation, results/im2gps3k/base_M-m.csv), and what its later inference script prints.
_OTHERS_COLUMNS = (("img_id", "predicted_lat", "predicted_long"), ("img_id", "pred_lat", "pred_lng"))
_CELLS = "top_s2_id"


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """Answers in the order of their source."""

    photo: Sequence[str]
    lat_deg: np.ndarray  # (N,) float64, NaN where a photo has no answer
    lng_deg: np.ndarray  # (N,) float64
    cells: pa.ListArray | None = None  # (N,) lists of uint64 S2 ids, the likeliest first; None where nobody gave them


def read_predictions(source: Path) -> Predictions:
    """Read the answers of a folder written by `run`, or of anybody's .parquet or .csv.

    Raises:
        InputError: not a table of answers, an answer off the Earth, or half an answer.
    """
    table = _read_folder(source) if source.is_dir() else _read_table(source)
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
    return Predictions(names_of(table, source), lat, lng, cells)


def _read_folder(folder: Path) -> pa.Table:
    try:
        rows = pa.dataset.dataset(folder, format="parquet")
        cells = [_CELLS] if _CELLS in rows.schema.names else []
        table = rows.to_table(columns=["row", *_COLUMNS, *cells])
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{folder}: cannot be read as predictions ({error}).") from None
    if not table.num_rows:
        raise InputError(f"{folder}: no predictions in it.")
    return table.sort_by("row")


def _read_table(source: Path) -> pa.Table:
    for columns in _OTHERS_COLUMNS:
        if _has(source, columns):
            table = read_columns(source, columns)
            return pa.table({name: table[column] for name, column in zip(_COLUMNS, columns, strict=True)})
    return read_columns(source, list(_COLUMNS))


def _has(source: Path, columns: Sequence[str]) -> bool:
    try:
        check_columns(source, columns)
    except InputError:  # nor is there anything else it could be: the plain columns are asked for last, and explained
        return False
    return True
