"""Processes that decode photos, which a thread of the model and CUDA survive, and which end with who started them."""

import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import context, forkserver, resource_tracker
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any

import torch
from PIL import Image

from encoder.config import Resizing
from encoder.photos.decoded_batch import DecodedBatch, pack
from encoder.photos.photo_reader import DecodedPhoto, PhotoReader
from indexer.errors import BadImage, WorkError
from indexer.photos.photo import Photo

_SECONDS_BETWEEN_LOOKS = 1.0  # of a worker, whether its main process is still there

_starting = threading.Lock()  # one process at a time
_read: PhotoReader  # of this process, where it is a worker


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
def decoders(read: PhotoReader, number: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that decode, for as long as a block runs: they are given `decode_one` and `decode_batch`."""
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


def decode_one(photo: Photo, resizing: Resizing | None = None) -> DecodedPhoto | BadImage:
    """One photo, in a process of `decoders`. resizing: in place of that of their reader."""
    return (_read if resizing is None else replace(_read, resizing=resizing))(photo)


def decode_batch(photos: list[Photo]) -> DecodedBatch:
    """The same of a batch, in memory that the main process sees."""
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
