"""One process at a time: locks on files, which the kernel frees when their holder ends, however it ends.

Ours and not the package `filelock`: that one takes the same locks, but cannot look at a lock without opening its file
to write, and `is_held` must answer in a folder that can only be read, or has no lock yet.
"""

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

from indexer.errors import InputError

_LOOKS, _SECONDS_BETWEEN_LOOKS = 10, 0.02  # at a lock, which `is_held` holds for a moment


@contextlib.contextmanager
def alone(lock: Path, *, busy: str | None = None) -> Iterator[None]:
    """Hold a lock while a block runs. busy: what to say where another process holds it; None waits until it is free.

    InputError where another process holds it, OSError where the file cannot be written.
    """
    with lock.open("w") as stream:
        for _ in range(_LOOKS):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(stream, fcntl.LOCK_EX if busy is None else fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        else:
            raise InputError(busy)
        yield


def is_held(lock: Path) -> bool:
    """Whether a process holds a lock by `alone`."""
    try:
        with lock.open() as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False
