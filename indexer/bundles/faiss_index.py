"""FAISS behind one door: inner-product indices of a few kinds, written, read, checked, and put on a GPU."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from indexer.errors import ArtifactError, InputError, MissingBackend

try:
    import faiss
    from faiss.contrib.ivf_tools import add_preassigned
except ImportError as error:
    raise MissingBackend(
        "FAISS is not installed. Choose one of its two packages, which share one module name. In the checkout: "
        "pip install '.[cpu]' (faiss-cpu), or pip install '.[gpu]' (faiss-gpu, NVIDIA with CUDA 12)."
    ) from error

Index = faiss.Index  # what the functions below take and give
Quantiser = faiss.ScalarQuantizer
Precision = Literal["fp32", "fp16", "int8"]
Device = Literal["auto", "cpu", "cuda"]

GPU_LIMIT = 2048  # the most results, and the most probes, that FAISS computes on a GPU
_NO_SIZES = b"sprs" + bytes(8)  # how FAISS ends a file of lists that are all empty
_CODES = {"fp32": "Flat", "fp16": "SQfp16", "int8": "SQ8"}  # as FAISS names them


def flat_index(vectors: np.ndarray, precision: Precision = "fp32") -> Index:
    """Exhaustive inner-product index whose row i is vectors[i]; vectors: (N, D) float32."""
    rows = np.ascontiguousarray(vectors, np.float32)
    index = faiss.index_factory(rows.shape[1], _CODES[precision], faiss.METRIC_INNER_PRODUCT)
    index.train(rows)  # int8 learns the range of each dimension
    index.add(rows)
    return index


def inverted_index(
    vectors: np.ndarray, lists: np.ndarray, list_vectors: np.ndarray, *, precision: Precision = "fp32"
) -> Index:
    """Inverted lists given beforehand: row i stands in list lists[i].

    vectors: (N, D) float32. lists: (N,) int64. list_vectors: (M, D) float32, which a query is compared with to choose
    lists.
    """
    rows = np.ascontiguousarray(vectors, np.float32)
    kind = f"IVF{len(list_vectors)},{_CODES[precision]}"
    index = faiss.index_factory(rows.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
    index.quantizer.add(np.ascontiguousarray(list_vectors, np.float32))  # type: ignore[attr-defined]
    # Lists hold whole vectors: a score is the vector's own, not the sum of two.
    index.by_residual = False  # type: ignore[attr-defined]
    index.train(rows)  # the list vectors stay: a quantiser that is filled is not trained again
    add_preassigned(index, rows, np.ascontiguousarray(lists, np.int64))
    return index


def search_index(
    index: Index, queries: np.ndarray, k: int, *, probes: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k best rows of each query, best first: scores (Q, k) float32 and rows (Q, k) int64, -1 where there is none.

    probes: how many lists to look into, where the index has lists; None takes the number stored with it.
    """
    # The stub of the class lacks its fields, which FAISS takes by name.
    settings = faiss.SearchParametersIVF(nprobe=probes) if probes else None  # type: ignore[call-arg]
    return index.search(queries, k, params=settings)


def nearest_lists(index: Index, queries: np.ndarray, probes: int) -> np.ndarray:
    """The lists with the best list vectors, best first: (Q, probes) int64."""
    return index.quantizer.search(queries, probes)[1]  # type: ignore[attr-defined]  # of indices with lists


def rows_in_lists(index: Index, queries: np.ndarray, lists: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All rows of chosen lists, in no order; lists: (Q, P) int64, -1 for none.

    Returns where each query's rows begin, and where the last one's end, (Q + 1,) int64; their scores (R,) float32 and
    their numbers (R,) int64.
    """
    before = stored_probes(index)
    set_probes(index, lists.shape[1])  # FAISS takes as many lists from a caller as it would visit on its own
    try:
        begins, scores, rows = index.range_search_preassigned(  # type: ignore[attr-defined]
            queries, -np.inf, lists, None
        )
    finally:
        set_probes(index, before)
    return begins.astype(np.int64), scores, rows


def list_sizes(index: Index) -> np.ndarray:
    """How many rows stand in each list: (M,) int64."""
    lists = index.invlists  # type: ignore[attr-defined]  # of indices with lists
    return np.array([lists.list_size(number) for number in range(list_count(index))], np.int64)


def scalar_quantiser(low: np.ndarray, span: np.ndarray) -> Quantiser:
    """FAISS's quantiser to 8 bits between a lowest value of each dimension and one so far above it, (D,) float32."""
    quantiser = faiss.ScalarQuantizer(len(low), faiss.ScalarQuantizer.QT_8bit)
    faiss.copy_array_to_vector(np.concatenate([low, span]).astype(np.float32), quantiser.trained)
    return quantiser


def list_header(
    sizes: np.ndarray, width: int, precision: Precision, *, low: np.ndarray | None, span: np.ndarray | None
) -> bytes:
    """What a file of inverted lists begins with, up to the codes of the first list; its length depends on no size.

    sizes: (M,) int64, rows of each list. low, span: (D,) float32, the range of 8 bits.
    """
    heads, n_lists = faiss.IndexFlatIP(width), len(sizes)  # no heads: the lists are addressed by number
    index: Any
    if precision == "fp32":
        index = faiss.IndexIVFFlat(heads, width, n_lists, faiss.METRIC_INNER_PRODUCT)
    else:
        kind = faiss.ScalarQuantizer.QT_8bit if precision == "int8" else faiss.ScalarQuantizer.QT_fp16
        index = faiss.IndexIVFScalarQuantizer(heads, width, n_lists, kind, faiss.METRIC_INNER_PRODUCT, False)
    if low is not None and span is not None:
        faiss.copy_array_to_vector(np.concatenate([low, span]).astype(np.float32), index.sq.trained)
    index.is_trained, index.ntotal = True, int(sizes.sum())
    # Of empty lists FAISS writes no sizes; here come those of the lists that follow.
    head = bytes(faiss.serialize_index(index).data)
    assert head.endswith(_NO_SIZES), "FAISS writes lists as it always has"
    return head.removesuffix(_NO_SIZES) + b"full" + np.array([n_lists, *sizes], "<u8").tobytes()


def map_lists(path: Path) -> Index:
    """Open a file of inverted lists without reading the lists.

    Raises:
        ArtifactError: it cannot be read, is cut, or is something else.
    """
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
    except RuntimeError as error:
        raise _unreadable(path, error) from None
    known = isinstance(index, faiss.IndexIVFFlat) or (
        isinstance(index, faiss.IndexIVFScalarQuantizer)
        and index.sq.qtype in (faiss.ScalarQuantizer.QT_8bit, faiss.ScalarQuantizer.QT_fp16)
        and not index.by_residual
    )
    if not known or index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise ArtifactError(f"{path}: not inverted lists of a known kind. Restore it from a copy.")
    return index


def quantiser_range(index: Index) -> tuple[Precision, np.ndarray | None, np.ndarray | None]:
    """Of inverted lists their precision, and of 8 bits the lowest value and the range of each dimension."""
    if isinstance(index, faiss.IndexIVFFlat):
        return "fp32", None, None
    quantiser = index.sq  # type: ignore[attr-defined]  # of indices with codes
    if quantiser.qtype == faiss.ScalarQuantizer.QT_fp16:
        return "fp16", None, None
    low, span = np.split(faiss.vector_to_array(quantiser.trained), 2)
    return "int8", low, span


def code_error(index: Index, longest: float) -> float:
    """How far a stored row can be from the vector it stands for, at most `longest` long, as a distance."""
    if isinstance(index, faiss.IndexFlat | faiss.IndexIVFFlat):
        return 0.0
    quantiser = index.sq  # type: ignore[attr-defined]  # of indices with codes
    if quantiser.qtype == faiss.ScalarQuantizer.QT_fp16:  # half a last digit, or half of the smallest step
        return float(2.0**-11 * longest + 2.0**-25 * index.d**0.5)
    steps = faiss.vector_to_array(quantiser.trained)[index.d :] / 255  # eight bits: after the minima come the ranges
    return float(np.linalg.norm(steps.astype(np.float64)) * 0.501)


def is_exact(index: Index) -> bool:
    """Whether a search compares every row in full float32."""
    return isinstance(index, faiss.IndexFlat)


def list_count(index: Index) -> int:
    """How many lists the rows stand in, of which a search visits some; 0 where it compares all rows."""
    return int(getattr(index, "nlist", 0))


def stored_probes(index: Index) -> int:
    """How many lists a search visits by default; 0 where there are none."""
    return int(getattr(index, "nprobe", 0))


def set_probes(index: Index, probes: int) -> None:
    """How many lists a search visits from now on; written with the index."""
    index.nprobe = probes  # type: ignore[attr-defined]  # of indices with lists


def write_index(index: Index, path: Path) -> None:
    """Write an index file; the caller's folder makes it whole or absent."""
    # FAISS's own writer reports any failure as a RuntimeError without a number; a file of Python's has the reason.
    path.write_bytes(faiss.serialize_index(index).data)


def read_index(path: Path, *, mapped: bool = False) -> Index:
    """Read an index file of a kind this module makes; an ArtifactError where it is none, or is cut short.

    mapped: leave the rows of a flat index in the file. They are read where they are looked at, in memory that processes
    share and the system can take back. Where they begin in the file, floats are not aligned: products of matrices take
    a twentieth longer.
    """
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mapped else 0)
    except RuntimeError as error:
        raise _unreadable(path, error) from None
    kinds = (faiss.IndexFlat, faiss.IndexScalarQuantizer, faiss.IndexIVFFlat, faiss.IndexIVFScalarQuantizer)
    if not isinstance(index, kinds) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise ArtifactError(f"{path}: not an inner-product index of a known kind. Rebuild the bundle.")
    return index


def _unreadable(path: Path, error: RuntimeError) -> ArtifactError:
    detail = str(error).splitlines()[0]
    return ArtifactError(f"{path}: cannot be read as a FAISS index ({detail}). Restore it from a copy.")


def size_bytes(index: Index) -> int:
    """How large the index is as a file."""
    return len(faiss.serialize_index(index))


def gpu_count() -> int:
    """How many GPUs FAISS can use; 0 for a FAISS that was built without."""
    # The only test that can be trusted: without a GPU faiss-gpu makes GPU resources all the same, and then computes
    # on the CPU.
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


def on_device(index: Index, device: Device) -> Index:
    """The index itself, or its copy in the memory of the first GPU.

    `auto` takes a GPU where there is one that can hold this kind of index. Inverted lists are filled on the CPU before.

    Raises:
        InputError: `cuda`, and there is no GPU that FAISS can use.
    """
    n_gpus = gpu_count()
    if device == "cuda" and not n_gpus:
        raise InputError(
            "`device` cuda: FAISS finds no GPU here. It takes an NVIDIA GPU and the package faiss-gpu: "
            "pip install '.[gpu]' in place of '.[cpu]', in the checkout. Or take `device` cpu."
        )
    if device == "cpu" or not n_gpus:
        return index
    try:
        if stored_probes(index) > GPU_LIMIT:
            raise RuntimeError(f"it visits {stored_probes(index)} lists, more than {GPU_LIMIT}")
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    except RuntimeError as error:
        if device == "auto":  # not every kind of index exists for GPUs
            return index
        raise InputError(
            f"`device` cuda: this bundle's index cannot be put on a GPU ({str(error).splitlines()[0]}). Take "
            "`device` cpu, or build with `precision` fp32 or fp16."
        ) from None


def rows_of(index: Index) -> np.ndarray:
    """The vectors of a flat fp32 index, read-only and without a copy: (N, D) float32. The array keeps it alive."""
    assert isinstance(index, faiss.IndexFlat), "only a flat index keeps its vectors as they were"
    rows = faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d).reshape(index.ntotal, index.d)
    owned = np.asarray(_Rows(index, rows.__array_interface__))
    owned.flags.writeable = False
    return owned


@dataclass(frozen=True)
class _Rows:
    """What numpy holds on to while it looks into the memory of an index."""

    index: Index
    __array_interface__: dict[str, Any]
