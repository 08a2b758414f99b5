"""Photos decoded ahead of the model: worker processes read and decode, batches arrive in the order of the photos.

In: a stream of `Photo`. Out: a stream of `DecodedBatch`, with a reason for each photo that has no pixels. What a photo
can do to the process that decodes it ends neither the work nor the row.
"""

import itertools
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from multiprocessing import context, forkserver, resource_tracker
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any

import torch
from PIL import Image

from encoder.photos.decoded_batch import DecodedBatch, pack
from encoder.photos.photo_reader import DecodedPhoto, PhotoReader
from indexer.errors import BadImage, InputError, WorkError
from indexer.photos.photo import Photo

log = logging.getLogger(__name__)

_CRASHED = BadImage(
    "crashed", "the process that decoded it died, twice (of too little memory, or a fault in a library)"
)
_BATCHES_AHEAD = 2  # of each worker
_MOST_DEATHS = 6  # photos one after the other that end their process: then it is not the photos
_FEW_PHOTOS = 12  # a source of so many is decoded in this process: starting others takes longer
_SECONDS_BETWEEN_LOOKS = 1.0  # of a worker, whether its main process is still there

_starting = threading.Lock()  # one process at a time
_read: PhotoReader  # of this process, where it is a worker


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
    handed, lonely = deque[list[Photo]](), _LonelyReader(read)  # with the workers; and who reads what they died of
    while True:
        arriving = deque[Future[DecodedBatch]]()
        try:
            with ThreadPoolExecutor(1) as pinning, _workers(read, workers) as pool:
                while True:
                    for batch in itertools.islice(source, _BATCHES_AHEAD * workers - len(handed)):
                        if any(isinstance(photo.data, Image.Image) for photo in batch):
                            raise InputError(
                                "Photos given as images are decoded in this process alone: give `workers` 0."
                            )
                        handed.append(batch)
                        sent = pool.submit(_decode, batch)
                        arriving.append(pinning.submit(lambda each: each.result().pin_memory(), sent) if pin else sent)
                    if not handed:
                        return
                    decoded = arriving.popleft().result()
                    handed.popleft()
                    lonely.deaths = 0
                    yield decoded
        except BrokenExecutor as error:
            log.warning("a decoding process died (%s): its photos are decoded again, one by one", error)
        with closing(lonely):
            while handed:
                yield pack([(photo, lonely(photo)) for photo in handed[0]])
                handed.popleft()


class _LonelyReader:
    """Decodes photos one by one in a process of their own, which is started again where a photo ends it."""

    def __init__(self, read: PhotoReader) -> None:
        self.deaths = 0  # since the last photo that ended no process
        self._read = read
        self._pool: ProcessPoolExecutor | None = None
        self._opened = ExitStack()

    def __call__(self, photo: Photo) -> DecodedPhoto | BadImage:
        """As the PhotoReader; where two processes died of the photo, that is what is wrong with it."""
        for _ in range(2):
            try:
                self._pool = self._pool or self._opened.enter_context(_workers(self._read, 1))
                result = self._pool.submit(_decode_one, photo).result()
            except BrokenExecutor:
                self.close()
                continue
            self.deaths = 0
            return result
        self.deaths += 1
        if self.deaths == _MOST_DEATHS:
            raise WorkError(
                f"{self.deaths} photos in a row ended the process that decoded them, the last one {photo.name!r}. If "
                "memory ran out, lower `workers` or `batch_size`; then run it again."
            )
        return _CRASHED

    def close(self) -> None:
        """End its process; the next photo starts another one."""
        self._pool = None
        self._opened.close()


class _Process(context.ForkServerProcess):
    """A process that does not import the script that starts it, which may do its work without a `__main__` guard."""

    @staticmethod
    def _Popen(process: BaseProcess) -> Any:
        main = vars(sys.modules["__main__"])
        with _starting:
            # What a child imports first is told by these two names.
            shown: dict[str, Any] = {name: main[name] for name in ("__spec__", "__file__") if name in main}
            main.update(dict.fromkeys(shown))
            try:
                return context.ForkServerProcess._Popen(process)
            finally:
                main.update(shown)


class _Context(context.ForkServerContext):
    Process = _Process


@contextmanager
def _workers(read: PhotoReader, number: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that decode, for as long as a block runs."""
    # Forked from a server, not from this process: threads of the model, and CUDA, do not survive a fork.
    processes = _Context()
    processes.set_forkserver_preload([__name__])  # it imports once what every worker needs
    # Ctrl-C reaches every process of a terminal, and until the server has imported everything it would die of it with a
    # traceback. It inherits what is blocked here; this process hears what came meanwhile afterwards.
    resource_tracker.ensure_running()  # the server starts it otherwise, and it unblocks Ctrl-C when it has
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    pool = ProcessPoolExecutor(number, processes, initializer=_begin_worker, initargs=(os.getpid(), read))
    try:
        yield pool
    finally:
        # They end now, not when they have done what they were given, and no second Ctrl-C cuts that short.
        main = threading.current_thread() is threading.main_thread()  # no other may set what a signal does
        heard = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
        try:
            for process in list(pool._processes.values()):  # there is a public way from Python 3.14 on
                process.terminate()
            pool.shutdown()
        finally:
            if heard is not None:
                signal.signal(signal.SIGINT, heard)


def _begin_worker(main_pid: int, read: PhotoReader) -> None:
    global _read  # sent once: a reader opens its cache of class maps wherever it arrives
    _read = read
    torch.set_num_threads(1)  # there are other workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the main one acts
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels is the limit
    sys.excepthook = _report_unless_interrupted
    # Their parent is the server, which outlives the main process.
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


def _decode_one(photo: Photo) -> DecodedPhoto | BadImage:
    return _read(photo)


def _decode(photos: list[Photo]) -> DecodedBatch:
    """A batch, in memory that the main process sees."""
    batch = pack([(photo, _read(photo)) for photo in photos])
    try:
        torch.Tensor.share_memory_(batch.buffer)  # type: ignore[no-untyped-call]
    except (RuntimeError, OSError) as error:
        detail = " ".join(str(error).split())[:200]
        raise WorkError(
            f"There is too little shared memory for decoded photos ({detail}). Allow more (docker run --shm-size 2g), "
            "give `workers` 0, or lower `batch_size`."
        ) from None
    return batch
