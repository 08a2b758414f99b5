"""Answers to compare with the truth, whoever gave them: a folder of ours, or a table of photo, lat, lng."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset

from indexer.errors import InputError
from indexer.photos.tables import coordinates_of, names_of, open_table, read_columns

_COLUMNS = ("photo", "lat", "lng")
# Columns in which others write their answers, in this order: the published result tables of GeoEstimation
# (TIBHannover/GeoEstimation, results/im2gps3k/base_M-m.csv), and what its later inference script prints.
_OTHERS_COLUMNS = (("img_id", "predicted_lat", "predicted_long"), ("img_id", "pred_lat", "pred_lng"))
_CELLS = "top_s2_id"
_TOLD = ("s2_id", "probability", "calibrated", "radius_50_km", "radius_90_km", "abstain")


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """What answers say of themselves, in the order of their source."""

    cell: np.ndarray  # (N,) uint64 S2 id of the answered cell, 0 where there is none
    probability: np.ndarray  # (N,) float64 that the true place lies in it, NaN where there is none
    calibrated: np.ndarray  # (N,) bool
    radius_50_km: np.ndarray  # (N,) float64, NaN where it is not told
    radius_90_km: np.ndarray  # (N,) float64
    abstain: np.ndarray  # (N,) bool

    def take(self, rows: np.ndarray, known: np.ndarray) -> "Told":
        """Those of some rows, (M,) int64; nothing is told where `known`, (M,) bool, is false."""
        return Told(
            np.where(known, self.cell[rows], np.uint64(0)),
            *(
                np.where(known, values[rows], np.nan if values.dtype == np.float64 else False)
                for values in (self.probability, self.calibrated, self.radius_50_km, self.radius_90_km, self.abstain)
            ),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """Answers in the order of their source."""

    photo: Sequence[str]
    lat_deg: np.ndarray  # (N,) float64, NaN where a photo has no answer
    lng_deg: np.ndarray  # (N,) float64
    cells: pa.ListArray | None = None  # (N,) lists of uint64 S2 ids, the likeliest first; None where nobody gave them
    told: Told | None = None  # None where answers are points and nothing else, or cells are labels


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
    return Predictions(names_of(table, source), lat, lng, cells, _told(table))


def _told(table: pa.Table) -> Told | None:
    """What our own answers say; those of an older release may say less."""
    if "s2_id" not in table.column_names or table["s2_id"].null_count == table.num_rows:
        return None

    def column(name: str, kind: pa.DataType, empty: object) -> np.ndarray:
        if name not in table.column_names:
            return np.full(table.num_rows, empty, kind.to_pandas_dtype())
        values = table[name].is_valid() if name == "abstain" else table[name].cast(kind).fill_null(empty)
        return np.asarray(values.to_numpy())

    return Told(
        column("s2_id", pa.uint64(), 0),
        column("probability", pa.float64(), np.nan),
        column("calibrated", pa.bool_(), False),
        column("radius_50_km", pa.float64(), np.nan),
        column("radius_90_km", pa.float64(), np.nan),
        column("abstain", pa.bool_(), False),
    )


def _read_folder(folder: Path) -> pa.Table:
    try:
        rows = pa.dataset.dataset(folder, format="parquet")
        more = [name for name in (_CELLS, *_TOLD) if name in rows.schema.names]
        table = rows.to_table(columns=["row", *_COLUMNS, *more])
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
        open_table(source).columns(columns)
    except InputError:  # nor is there anything else it could be: the plain columns are asked for last, and explained
        return False
    return True
