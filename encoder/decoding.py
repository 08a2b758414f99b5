"""Photos decoded ahead of the model: worker processes read and decode, batches arrive in the order of the photos.

In: a stream of `Photo`. Out: a stream of `DecodedBatch`, pixels of every size in one buffer, with a reason where there
are none. Nothing is resized here but photos far larger than anybody needs.
"""

import itertools
import math
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import forkserver, resource_tracker
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from encoder.class_maps import NO_CLASS, check_fit, decode_map
from encoder.config import MAP_EDGE, MAX_PIXELS
from encoder.crops import resized_shape
from encoder.images import BadImage, decode
from encoder.reading import ReadLimits, read_bytes
from encoder.segmentation_cache import SegmentationCache
from encoder.segmenter_input import PreparedPhoto, SegmenterInput
from indexer.errors import GeoError, WorkError
from indexer.features import OK
from indexer.photo import FileRange, Photo

# Photos of more pixels than this, after JPEGs were decoded at a fraction of their size, are resized where they are
# decoded: what waits for the model stays bounded.
_LARGEST_SENT = 2 << 20
_BATCHES_AHEAD = 2  # of each worker
_FEW_PHOTOS = 12  # a source of so many is decoded in this process: starting others takes longer
_SECONDS_BETWEEN_LOOKS = 1.0  # of a worker, whether its main process is still there


@dataclass(frozen=True, slots=True)
class PhotoReader:
    """How one photo becomes pixels, and its class map where maps are used. Travels to the worker processes."""

    shorter_edge: int  # what the photo's shorter edge will be resized to, in pixels
    max_pixels: int = MAX_PIXELS  # photos of more are refused
    limits: ReadLimits = field(default_factory=ReadLimits)
    classes: int | None = None  # of the class maps; None: no maps are read
    cache: SegmentationCache | None = None  # where maps are looked up that did not come with their photos
    segmenter: SegmenterInput | None = None  # prepares photos without a map for who makes it; None: they need one
    map_edge: int = MAP_EDGE  # of the maps to be made

    def __call__(self, photo: Photo) -> "DecodedPhoto | BadImage":
        """Read one photo; what is wrong with it is returned, not raised."""
        try:
            return self._read(photo)
        except BadImage as problem:
            return problem

    def _read(self, photo: Photo) -> "DecodedPhoto":
        content = read_bytes(photo.data, self.limits)
        image = decode(content, shorter_edge=self.shorter_edge, max_pixels=self.max_pixels)
        width, height = image.size
        class_map = self._class_map(photo, content, image.size)
        to_segment = None
        if class_map is None and self.classes is not None and self.segmenter is not None:
            # Decoded once more: what the segmenter sees must not depend on what the encoder needs.
            to_segment = self.segmenter.read(content, map_edge=self.map_edge, max_pixels=self.max_pixels)
        target = resized_shape(height, width, self.shorter_edge)
        if height * width > max(_LARGEST_SENT, target[0] * target[1]):
            image = image.resize(target[::-1], Image.Resampling.BICUBIC)
        return DecodedPhoto(np.asarray(image), class_map, to_segment)

    def _class_map(self, photo: Photo, content: bytes, photo_size: tuple[int, int]) -> np.ndarray | None:
        if self.classes is None:
            return None
        class_map = None
        if photo.class_map is not None:
            class_map = self._own_map(photo.class_map)
        elif self.cache is not None:
            class_map = self.cache.get(content)
        if class_map is None:
            if self.segmenter is None:
                raise BadImage(
                    "no_map",
                    "no class map of this photo: give --segmentation-cache with one (python -m encoder segment makes "
                    "them), or --segmenter",
                )
            return None
        height, width = class_map.shape
        check_fit((height, width), photo_size)
        known = class_map[class_map != NO_CLASS]
        if known.size and known.max() >= self.classes:
            raise BadImage("bad_map", f"class {known.max()} in its map; the encoder knows 0 to {self.classes - 1}")
        return class_map

    def _own_map(self, data: FileRange | bytes) -> np.ndarray:
        try:
            return decode_map(read_bytes(data, self.limits))
        except BadImage as problem:
            code = "" if problem.code == "bad_map" else f", {problem.code}"
            raise BadImage("bad_map", f"its class map{code}: {problem.reason}") from None


@dataclass(frozen=True, slots=True, eq=False)
class DecodedPhoto:
    """One photo ready to be cut."""

    pixels: np.ndarray  # (H, W, 3) uint8, upright
    class_map: np.ndarray | None  # (h, w) uint8
    to_segment: PreparedPhoto | None = None  # what its map is made from, where that has to be done


@dataclass(frozen=True, slots=True, eq=False)
class DecodedBatch:
    """Some photos of a source, in its order. One buffer for all pixels: it crosses to other processes in one piece."""

    name: Sequence[str]
    lat_deg: np.ndarray  # (N,) float64, NaN where unknown
    lng_deg: np.ndarray  # (N,) float64
    status: Sequence[str]  # 'ok' or a short reason code
    reason: Sequence[str]  # a sentence where status is not 'ok', else empty
    # (bytes,) uint8: pixels of every photo whose status is 'ok', then their maps, then what maps are made from
    buffer: torch.Tensor
    shapes: Sequence[tuple[int, int]]  # height and width of each of those photos
    map_shapes: Sequence[tuple[int, int] | None]  # and of their maps
    # Of what maps are made from: height and width, and those of the map.
    segment_shapes: Sequence[tuple[tuple[int, int], tuple[int, int]] | None]

    def __len__(self) -> int:
        return len(self.name)

    @property
    def rows(self) -> list[int]:
        """Which photos have pixels."""
        return [row for row, status in enumerate(self.status) if status == OK]

    def to(self, device: torch.device) -> "DecodedBatch":
        """The same batch with its pixels on a device."""
        return replace(self, buffer=self.buffer.to(device, non_blocking=True))

    def pin_memory(self) -> "DecodedBatch":
        """Called by the loader where the model is on a GPU."""
        return replace(self, buffer=self.buffer.pin_memory())

    def pixels(self) -> list[torch.Tensor]:
        """(H, W, 3) uint8 for each of `rows`, views of the buffer."""
        return [part for part in self._pieces()[0] if part is not None]

    def class_maps(self) -> list[torch.Tensor | None]:
        """(h, w) uint8 for each of `rows`, None where there is none."""
        return self._pieces()[1]

    def to_segment(self) -> list[PreparedPhoto | None]:
        """What the maps of `rows` are made from, None where there is nothing to be made."""
        return [
            None if pixels is None or shapes is None else PreparedPhoto(pixels, shapes[1])
            for pixels, shapes in zip(self._pieces()[2], self.segment_shapes, strict=True)
        ]

    def _pieces(self) -> tuple[list[torch.Tensor | None], ...]:
        """Photos, maps and what maps are made from: views of the buffer."""
        kinds: list[list[tuple[int, ...] | None]] = [
            [(*shape, 3) for shape in self.shapes],
            list(self.map_shapes),
            [None if shapes is None else (*shapes[0], 3) for shapes in self.segment_shapes],
        ]
        sizes = [0 if shape is None else math.prod(shape) for shapes in kinds for shape in shapes]
        parts = iter(torch.split(self.buffer, sizes))
        return tuple(
            [None if shape is None else part.view(shape) for shape, part in zip(shapes, parts, strict=False)]
            for shapes in kinds
        )


def decoded_batches(
    batches: Iterable[list[Photo]], read: PhotoReader, *, workers: int, pin: bool = False
) -> Generator[DecodedBatch, None, None]:
    """Decode batches of photos in their order, ahead of whoever takes them.

    Args:
        batches: asked for only as far ahead as there is room.
        read: what is done with each photo.
        workers: processes that decode; 0, and where there are only a few photos: this one.
        pin: put pixels where a GPU can fetch them fast.

    Raises:
        WorkError: a worker process died, or there is too little shared memory.
        GeoError: what ends the work wherever photos are read: a damaged cache, a package that is not installed.
    """
    source, first = iter(batches), list[list[Photo]]()
    while sum(map(len, first)) <= _FEW_PHOTOS and (batch := next(source, None)) is not None:
        first.append(batch)
    if not workers or sum(map(len, first)) <= _FEW_PHOTOS:
        for batch in itertools.chain(first, source):
            yield _pack([(photo, read(photo)) for photo in batch])
        return
    arriving = _start_workers(itertools.chain(first, source), read, workers=workers, pin=pin)
    try:
        for sent in arriving:
            if isinstance(sent, GeoError):
                raise sent
            yield sent
    except (RuntimeError, ConnectionError, EOFError) as error:  # the last two: it died while it handed something over
        if isinstance(error, RuntimeError) and "exited unexpectedly" not in str(error):
            raise
        raise WorkError(
            f"A decoding process died ({error}). If memory ran out, lower --workers or --batch-size; then run it again."
        ) from None
    finally:
        _stop_workers(arriving)


def _start_workers(batches: Iterable[list[Photo]], read: PhotoReader, *, workers: int, pin: bool) -> Any:
    """Torch's iterator over what the workers send: a DecodedBatch, or the GeoError that ends the work."""
    # Forked from a server, not from this process: threads of the model, and CUDA, do not survive a fork. The server
    # imports once what every worker needs.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    # Ctrl-C reaches every process of a terminal, and until the server has imported everything it would die of it with a
    # traceback. It inherits what is blocked here; this process hears what came meanwhile afterwards.
    resource_tracker.ensure_running()  # the server starts it otherwise, and it unblocks Ctrl-C when it has
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)  # more workers than cores
        return iter(
            DataLoader(
                _Photos(read),
                batch_sampler=batches,  # photos themselves, in place of their numbers
                num_workers=workers,
                prefetch_factor=_BATCHES_AHEAD,
                collate_fn=_send,
                pin_memory=pin,
                multiprocessing_context=context,
                worker_init_fn=partial(_begin_worker, os.getpid()),
            )
        )


def _stop_workers(arriving: Any) -> None:
    """End the processes now, not when the garbage collector comes by, and let no second Ctrl-C cut that short."""
    before = None
    if threading.current_thread() is threading.main_thread():  # no other may
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        arriving._shutdown_workers()  # torch has no public way
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


def _begin_worker(main_pid: int, number: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the main one acts
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels is the limit
    # torch's own watch looks at the parent, which is the server and outlives the main process.
    threading.Thread(target=_end_with, args=(main_pid,), daemon=True).start()


def _end_with(main_pid: int) -> None:
    while True:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
        try:
            os.kill(main_pid, 0)
        except OSError:
            os._exit(1)


class _Photos(torch.utils.data.Dataset):
    """What a worker does with the photos it is handed."""

    def __init__(self, read: PhotoReader) -> None:
        self.read = read

    def __getitem__(self, photo: Photo) -> tuple[Photo, "DecodedPhoto | BadImage | GeoError"]:
        try:
            return photo, self.read(photo)
        except GeoError as error:  # torch would make a traceback of it on the way
            return photo, error


def _send(results: Sequence[tuple[Photo, "DecodedPhoto | BadImage | GeoError"]]) -> "DecodedBatch | GeoError":
    """A batch, in memory that the main process sees; or why the work cannot go on."""
    decoded = []
    for photo, result in results:
        if isinstance(result, GeoError):
            return result
        decoded.append((photo, result))
    batch = _pack(decoded)
    try:
        # Here: in the thread that sends it, an error would be heard by nobody.
        torch.Tensor.share_memory_(batch.buffer)  # type: ignore[no-untyped-call]
    except (RuntimeError, OSError) as error:
        detail = " ".join(str(error).split())[:200]
        return WorkError(
            f"There is too little shared memory for decoded photos ({detail}). Allow more (docker run --shm-size 2g), "
            "give --workers 0, or lower --batch-size."
        )
    return batch


def _pack(results: Sequence[tuple[Photo, DecodedPhoto | BadImage]]) -> DecodedBatch:
    good = [result for _, result in results if isinstance(result, DecodedPhoto)]
    problems = [result if isinstance(result, BadImage) else None for _, result in results]
    to_segment = [None if photo.to_segment is None else np.asarray(photo.to_segment.pixels) for photo in good]
    arrays = [*(photo.pixels for photo in good), *(photo.class_map for photo in good), *to_segment]
    pieces = [each.reshape(-1) for each in arrays if each is not None]
    return DecodedBatch(
        [photo.name for photo, _ in results],
        np.array([photo.lat_deg for photo, _ in results]),
        np.array([photo.lng_deg for photo, _ in results]),
        [OK if problem is None else problem.code for problem in problems],
        ["" if problem is None else problem.reason for problem in problems],
        torch.from_numpy(np.concatenate([*pieces, np.empty(0, np.uint8)])),
        [photo.pixels.shape[:2] for photo in good],
        [None if photo.class_map is None else photo.class_map.shape for photo in good],
        [
            None if pixels is None or photo.to_segment is None else (pixels.shape[:2], photo.to_segment.map_shape)
            for photo, pixels in zip(good, to_segment, strict=True)
        ],
    )
