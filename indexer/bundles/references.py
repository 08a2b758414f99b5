"""Reference photos: for each finest cell the photos most typical of it, which explain an answer and can refine it.

One table, `references.parquet`, in a checkpoint and in the bundles made from it:

    leaf     int32, the finest cell
    rank     int32, 0 for the most typical photo of the leaf
    photo    string, its name
    lat, lng float64, degrees
    vector   fixed-size list of float16, as geocells meet it (transformed)

Rows are ordered by leaf, then rank.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from indexer.errors import ArtifactError

REFERENCES_FILE = "references.parquet"


def references_table(
    leaf: np.ndarray, rank: np.ndarray, photo: np.ndarray, lat_deg: np.ndarray, lng_deg: np.ndarray, vectors: np.ndarray
) -> pa.Table:
    """The table of (N,) leaves, ranks, names and places, and (N, D) vectors."""
    flat = pa.array(np.ascontiguousarray(vectors, np.float16).ravel())
    return pa.table(
        {
            "leaf": pa.array(leaf, pa.int32()),
            "rank": pa.array(rank, pa.int32()),
            "photo": pa.array(photo.tolist(), pa.string()),
            "lat": pa.array(lat_deg, pa.float64()),
            "lng": pa.array(lng_deg, pa.float64()),
            "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
        }
    )


def save_references(table: pa.Table, folder: Path) -> None:
    """Write the table into a folder that is being written."""
    pa.parquet.write_table(table, folder / REFERENCES_FILE)


def load_references(folder: Path, *, n_leaves: int, width: int) -> pa.Table | None:
    """The table of a checkpoint or a bundle; None where it has none.

    Raises:
        ArtifactError: it cannot be read, or is not about these leaves and vectors of this width.
    """
    path = folder / REFERENCES_FILE
    if not path.exists():
        return None
    try:
        table = pa.parquet.read_table(path)
        leaf = table["leaf"].to_numpy()
        fits = table.schema.field("vector").type == pa.list_(pa.float16(), width)
        fits = fits and (not leaf.size or (leaf.min() >= 0 and leaf.max() < n_leaves))
    except (pa.ArrowException, KeyError, OSError) as error:
        raise ArtifactError(f"{path}: cannot be read as reference photos ({error}). Restore it from a copy.") from None
    if not fits:
        raise ArtifactError(f"{path}: not of {n_leaves} leaves and vectors of {width}. Refit the checkpoint.")
    return table
