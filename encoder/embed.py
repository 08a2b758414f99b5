"""Photos to vectors: decoding in threads overlaps the model; a bad photo is a row with its reason, the rest goes on."""

import itertools
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from encoder.checkpoint import LoadedEncoder
from encoder.crops import Preprocessing, normalise, read_crop
from encoder.images import MAX_PIXELS, BadImage
from indexer.artifact import write_folder
from indexer.errors import InputError
from indexer.features import KIND, OK, SCHEMA_VERSION, FeatureBatch, write_shard
from indexer.manifest import ROWS_MANIFEST
from indexer.photos import PhotoTable

log = logging.getLogger(__name__)

_BATCHES_AHEAD = 3  # decoded batches that may wait for the model; bounds the memory


@dataclass(frozen=True, slots=True)
class EmbedConfig:
    """How photos go through the encoder. None of this changes the vectors beyond rounding."""

    batch_size: int = 32  # photos in one forward pass
    workers: int = 2  # decoding threads
    shard_rows: int = 8192  # photos in one Parquet file
    max_pixels: int = MAX_PIXELS  # larger photos are refused

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise InputError(f"--{name.replace('_', '-')} must be at least 1, not {value}.")


@dataclass(frozen=True, slots=True)
class EmbedSummary:
    """What embedding did. rows = ok + failed, always."""

    rows: int
    ok: int
    failed: Mapping[str, int]  # reason code -> photos
    seconds: float


def embed_photos(
    encoder: LoadedEncoder,
    photos: PhotoTable,
    *,
    config: EmbedConfig,
    advance: Callable[[int], None] = lambda photos: None,
) -> Iterator[FeatureBatch]:
    """Vectors of all photos in table order, one FeatureBatch of at most `shard_rows` photos at a time.

    advance: called with the number of photos done since the last call.
    """
    known = {OK}
    with closing(_decoded(photos, encoder.preprocessing, config)) as decoded:
        for start in range(0, len(photos), config.shard_rows):
            part = slice(start, min(start + config.shard_rows, len(photos)))
            results = itertools.islice(decoded, part.stop - part.start)
            vectors, status, reason = _embed(encoder, results, batch_size=config.batch_size, advance=advance)
            names = list(photos.photo[part])
            batch = FeatureBatch(names, vectors, status, reason, photos.lat_deg[part], photos.lng_deg[part])
            _warn_once(batch, known, first_row=start)
            yield batch


def embed_table(
    encoder: LoadedEncoder,
    photos: PhotoTable,
    out: Path,
    *,
    config: EmbedConfig,
    inputs: Mapping[str, str | None],
    advance: Callable[[int], None] = lambda photos: None,
) -> EmbedSummary:
    """Embed a photo table into a features folder, which appears at `out` when all of it is done.

    Raises:
        InputError: `out` exists or cannot be written.
        WorkError: the disk is full.
    """
    started = time.perf_counter()
    counts: Counter[str] = Counter()
    with write_folder(
        out,
        kind=KIND,
        schema_version=SCHEMA_VERSION,
        config=asdict(config) | {"precision": _precision(encoder)},
        inputs=inputs,
        manifest_name=ROWS_MANIFEST,
    ) as draft:
        for shard, batch in enumerate(embed_photos(encoder, photos, config=config, advance=advance)):
            write_shard(draft, batch, shard=shard)
            counts.update(batch.status)
        assert counts.total() == len(photos), "rows in are not rows out"
        ok = counts.pop(OK, 0)
        draft.facts |= {
            "encoder": encoder.digest,
            "width": encoder.width,
            "rows": len(photos),
            "ok": ok,
            "failed": dict(counts),
        }
    return EmbedSummary(len(photos), ok, dict(counts), time.perf_counter() - started)


def _decoded(
    photos: PhotoTable, preprocessing: Preprocessing, config: EmbedConfig
) -> Generator[np.ndarray | BadImage, None, None]:
    """Pixels (3, crop, crop) uint8 of each photo in order, or why there are none."""

    def prepare(row: int) -> np.ndarray | BadImage:
        try:
            return read_crop(photos, row, preprocessing, max_pixels=config.max_pixels)
        except BadImage as problem:
            return problem

    waiting: deque[Future[np.ndarray | BadImage]] = deque()
    with ThreadPoolExecutor(config.workers, thread_name_prefix="decode") as pool:
        try:
            for row in range(len(photos)):
                waiting.append(pool.submit(prepare, row))
                if len(waiting) > _BATCHES_AHEAD * config.batch_size:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:  # the caller stopped early
                future.cancel()


def _embed(
    encoder: LoadedEncoder,
    results: Iterator[np.ndarray | BadImage],
    *,
    batch_size: int,
    advance: Callable[[int], None],
) -> tuple[np.ndarray, list[str], list[str]]:
    """Vectors (N, D) float32 of all results, zeros for bad photos; their status and reason."""
    vectors, status, reason = [], [], []
    while batch := list(itertools.islice(results, batch_size)):
        rows = np.zeros((len(batch), encoder.width), np.float32)
        good = {row: result for row, result in enumerate(batch) if not isinstance(result, BadImage)}
        if good:
            rows[list(good)] = _encode(encoder, np.stack(list(good.values())))
        vectors.append(rows)
        status += [result.code if isinstance(result, BadImage) else OK for result in batch]
        reason += [result.reason if isinstance(result, BadImage) else "" for result in batch]
        advance(len(batch))
    return np.concatenate(vectors), status, reason


def _warn_once(batch: FeatureBatch, known: set[str], *, first_row: int) -> None:
    """Show the first photo of each kind of failure at once: hours later is late to learn of a wrong folder."""
    for row, (photo, status, reason) in enumerate(zip(batch.photo, batch.status, batch.reason, strict=True)):
        if status not in known:
            known.add(status)
            name = photo or f"row {first_row + row}"
            log.warning("%s: %s, %s (more of this kind are only counted)", name, status, reason)


def _precision(encoder: LoadedEncoder) -> str:
    # bfloat16 where it is fast for certain; on CPUs float32 is the reference.
    return "bfloat16" if encoder.model.device.type == "cuda" else "float32"


def _encode(encoder: LoadedEncoder, pixels: np.ndarray) -> np.ndarray:
    device = encoder.model.device
    low = _precision(encoder) == "bfloat16"
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=low):
        batch = normalise(torch.from_numpy(pixels).to(device), encoder.preprocessing)
        return encoder.model(batch).float().cpu().numpy()
