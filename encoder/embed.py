"""Photos to vectors: decoding in threads overlaps the model; a bad photo is a row with its reason, the rest goes on."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from encoder.checkpoint import LoadedEncoder
from encoder.crops import Preprocessing, centre_crop, normalise
from encoder.images import MAX_PIXELS, BadImage, decode
from indexer.artifact import ROWS_MANIFEST, write_folder
from indexer.features import KIND, OK, SCHEMA_VERSION, FeatureBatch, write_shard
from indexer.photos import PhotoTable

_BATCHES_AHEAD = 3  # decoded batches that may wait for the model; bounds the memory


@dataclass(frozen=True, slots=True)
class EmbedConfig:
    """How photos go through the encoder. None of this changes the vectors beyond rounding."""

    batch_size: int = 32  # photos in one forward pass
    workers: int = 2  # decoding threads
    shard_rows: int = 8192  # photos in one Parquet file
    max_pixels: int = MAX_PIXELS  # larger photos are refused


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
    decoded = _decoded(photos, encoder.preprocessing, config)
    for start in range(0, len(photos), config.shard_rows):
        stop = min(start + config.shard_rows, len(photos))
        vectors = np.zeros((stop - start, encoder.width), np.float32)
        status, reason = [OK] * (stop - start), [""] * (stop - start)
        for first in range(start, stop, config.batch_size):
            rows = range(first - start, min(first + config.batch_size, stop) - start)
            results = [next(decoded) for _ in rows]
            pixels = {}
            for row, result in zip(rows, results, strict=True):
                if isinstance(result, BadImage):
                    status[row], reason[row] = result.code, result.reason
                else:
                    pixels[row] = result
            if pixels:
                vectors[list(pixels)] = _encode(encoder, np.stack(list(pixels.values())))
            advance(len(rows))
        part = slice(start, stop)
        yield FeatureBatch(photos.photo[part], vectors, status, reason, photos.lat_deg[part], photos.lng_deg[part])


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
        out, kind=KIND, schema_version=SCHEMA_VERSION, inputs=inputs, manifest_name=ROWS_MANIFEST
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


def _decoded(photos: PhotoTable, preprocessing: Preprocessing, config: EmbedConfig) -> Iterator[np.ndarray | BadImage]:
    """Pixels (3, crop, crop) uint8 of each photo in order, or why there are none."""

    def prepare(row: int) -> np.ndarray | BadImage:
        try:
            image = decode(photos.path(row), shorter_edge=preprocessing.resize, max_pixels=config.max_pixels)
        except BadImage as problem:
            return problem
        return centre_crop(image, preprocessing)

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


def _encode(encoder: LoadedEncoder, pixels: np.ndarray) -> np.ndarray:
    device = encoder.model.device
    # bfloat16 where it is fast for certain; on CPUs float32 is the reference.
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        batch = normalise(torch.from_numpy(pixels).to(device), encoder.preprocessing)
        return encoder.model(batch).float().cpu().numpy()
