"""FAISS behind one door: flat inner-product indices, written, read and checked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from indexer.errors import ArtifactError, MissingBackend

try:
    import faiss
except ImportError as error:
    raise MissingBackend(
        "FAISS is not installed. Choose one of its two packages, which share one module name. In the checkout: "
        "pip install '.[cpu]' (faiss-cpu), or pip install '.[gpu]' (faiss-gpu, NVIDIA with CUDA 12)."
    ) from error

FlatIndex = faiss.IndexFlat  # what the functions below take and give


def flat_index(vectors: np.ndarray) -> FlatIndex:
    """Exact inner-product index whose row i is vectors[i]; vectors: (N, D) float32."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors, np.float32))
    return index


def write_index(index: FlatIndex, path: Path) -> None:
    """Write an index file; the caller's folder makes it whole or absent."""
    faiss.write_index(index, str(path))


def read_index(path: Path) -> FlatIndex:
    """Read a flat index file.

    Raises:
        ArtifactError: not an index file, or cut short.
    """
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        detail = str(error).splitlines()[0]
        raise ArtifactError(f"{path}: cannot be read as a FAISS index ({detail}). Restore it from a copy.") from None
    if not isinstance(index, faiss.IndexFlat) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise ArtifactError(f"{path}: not a flat inner-product index. Rebuild the bundle.")
    return index


def rows_of(index: FlatIndex) -> np.ndarray:
    """The vectors of a flat index, read-only and without a copy: (N, D) float32. The array keeps the index alive."""
    rows = faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d).reshape(index.ntotal, index.d)
    owned = np.asarray(_Rows(index, rows.__array_interface__))
    owned.flags.writeable = False
    return owned


@dataclass(frozen=True)
class _Rows:
    """What numpy holds on to while it looks into the memory of an index."""

    index: FlatIndex
    __array_interface__: dict[str, Any]
