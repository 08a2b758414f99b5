"""Photos decoded ahead of the model: worker processes read and decode, batches arrive in the order of the photos.

In: a stream of `Photo`. Out: a stream of `DecodedBatch`, with a reason for each photo that has no pixels. What a photo
can do to the process that decodes it ends neither the work nor the row.
"""

import itertools
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from functools import partial
from multiprocessing import forkserver, resource_tracker
from types import TracebackType
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader

from encoder.decoded_batch import DecodedBatch, pack
from encoder.images import BadImage
from encoder.photo_reader import DecodedPhoto, PhotoReader
from indexer.errors import GeoError, InputError, WorkError
from indexer.photos.photo import Photo

log = logging.getLogger(__name__)

_CRASHED = BadImage(
    "crashed", "the process that decoded it died, twice (of too little memory, or a fault in a library)"
)

# What torch says of a worker that died, and what is met where one died while it handed something over.
_DEATHS = (RuntimeError, ConnectionError, EOFError)
_BATCHES_AHEAD = 2  # of each worker
_MOST_DEATHS = 6  # photos one after the other that end their process: then it is not the photos
_FEW_PHOTOS = 12  # a source of so many is decoded in this process: starting others takes longer
_SECONDS_BETWEEN_LOOKS = 1.0  # of a worker, whether its main process is still there


def decoded_batches(
    batches: Iterable[list[Photo]], read: PhotoReader, *, workers: int, pin: bool = False, few_here: bool = True
) -> Generator[DecodedBatch, None, None]:
    """Decode batches of photos in their order, ahead of whoever takes them.

    Args:
        batches: asked for only as far ahead as there is room.
        read: what is done with each photo.
        workers: processes that decode; 0, and where there are only a few photos: this one.
        pin: put pixels where a GPU can fetch them fast.
        few_here: decode a few photos in this process, which is sooner done, and ends with what they do to it.

    A worker process that dies, for want of memory or of a fault in a library, ends nothing: what it had in hand is
    decoded again one by one, and a photo that ends a process twice is a row like any other that cannot be used.

    Raises:
        WorkError: photo after photo ends its process, or there is too little shared memory.
        GeoError: what ends the work wherever photos are read: a damaged cache, a package that is not installed.
    """
    source, first = iter(batches), list[list[Photo]]()
    while few_here and sum(map(len, first)) <= _FEW_PHOTOS and (batch := next(source, None)) is not None:
        first.append(batch)
    source = itertools.chain(first, source)
    if not workers or (few_here and sum(map(len, first)) <= _FEW_PHOTOS):
        for batch in source:
            yield pack([(photo, read(photo)) for photo in batch])
        return
    handed, lonely = _Handed(source), _LonelyReader(read)
    while True:
        arriving = _start_workers(handed, read, workers=workers, pin=pin)
        try:
            for sent in arriving:
                if isinstance(sent, GeoError):
                    raise sent
                handed.batches.popleft()
                lonely.deaths = 0
                yield sent
            return
        except _DEATHS as error:
            of_worker = not isinstance(error, RuntimeError) or "exited unexpectedly" in str(error)
            if error is handed.error or not of_worker:
                raise
            log.warning("a decoding process died (%s): its photos are decoded again, one by one", error)
        finally:
            _stop_workers(arriving)
        with lonely:
            while handed.batches:
                yield pack([(photo, lonely(photo)) for photo in handed.batches[0]])
                handed.batches.popleft()


class _Handed:
    """Batches on their way to the workers; those that have not come back are kept. Iterate as often as needed."""

    def __init__(self, source: Iterator[list[Photo]]) -> None:
        self.batches = deque[list[Photo]]()  # that are with the workers
        self.error: BaseException | None = None  # what the source itself raised: that is nobody's death
        self._source = source

    def __iter__(self) -> Iterator[list[Photo]]:
        try:
            for batch in self._source:
                # Sent as they are, one that cannot be decoded would be lost on the way, and be waited for without end.
                if any(isinstance(photo.data, Image.Image) for photo in batch):
                    raise InputError("Photos given as images are decoded in this process alone: give `workers` 0.")
                self.batches.append(batch)
                yield batch
        except Exception as error:
            self.error = error
            raise


class _LonelyReader:
    """Decodes photos one by one in a process of their own, which is started again where a photo ends it."""

    def __init__(self, read: PhotoReader) -> None:
        self.deaths = 0  # since the last photo that ended no process
        self._read = read
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "_LonelyReader":
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def __call__(self, photo: Photo) -> DecodedPhoto | BadImage:
        """As the PhotoReader; where two processes died of the photo, that is what is wrong with it.

        Raises:
            WorkError: the same came of the photos before it.
        """
        for _ in range(2):
            if self._pool is None:
                _start_server()
                self._pool = ProcessPoolExecutor(1, _context(), initializer=_begin_worker, initargs=(os.getpid(), 0))
            try:
                _, result = self._pool.submit(_Photos(self._read).__getitem__, photo).result()
            except BrokenExecutor:
                self._end()
                continue
            if isinstance(result, GeoError):
                raise result
            self.deaths = 0
            return result
        self.deaths += 1
        if self.deaths == _MOST_DEATHS:
            raise WorkError(
                f"{self.deaths} photos in a row ended the process that decoded them, the last one {photo.name!r}. If "
                "memory ran out, lower `workers` or `batch_size`; then run it again. (A script of your own must start "
                "its work below `if __name__ == '__main__':`, because every worker process imports it.)"
            )
        return _CRASHED

    def _end(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


def _context() -> multiprocessing.context.ForkServerContext:
    """Forked from a server, not from this process: threads of the model, and CUDA, do not survive a fork."""
    return multiprocessing.get_context("forkserver")


def _start_server() -> None:
    """Start what workers are forked from, unless it runs."""
    _context().set_forkserver_preload([__name__])  # it imports once what every worker needs
    # Ctrl-C reaches every process of a terminal, and until the server has imported everything it would die of it with a
    # traceback. It inherits what is blocked here; this process hears what came meanwhile afterwards.
    resource_tracker.ensure_running()  # the server starts it otherwise, and it unblocks Ctrl-C when it has
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_workers(batches: Iterable[list[Photo]], read: PhotoReader, *, workers: int, pin: bool) -> Any:
    """Torch's iterator over what the workers send: a DecodedBatch, or the GeoError that ends the work."""
    _start_server()
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
                multiprocessing_context=_context(),
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
    sys.excepthook = _report_unless_interrupted
    # torch's own watch looks at the parent, which is the server and outlives the main process.
    threading.Thread(target=_end_with, args=(main_pid,), daemon=True).start()


def _report_unless_interrupted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What became of a thread; the one that hands pixels over need not tell that the main process has gone away."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


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
    batch = pack(decoded)
    try:
        # Here: in the thread that sends it, an error would be heard by nobody.
        torch.Tensor.share_memory_(batch.buffer)  # type: ignore[no-untyped-call]
    except (RuntimeError, OSError) as error:
        detail = " ".join(str(error).split())[:200]
        return WorkError(
            f"There is too little shared memory for decoded photos ({detail}). Allow more (docker run --shm-size 2g), "
            "give `workers` 0, or lower `batch_size`."
        )
    return batch
