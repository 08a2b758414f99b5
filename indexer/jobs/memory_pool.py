"""Where the C library has memory from for arrays: one pool for all threads of a process, that gives back what is free.

glibc gives each thread a pool of its own, and each keeps up to 64 MB that nobody uses: searching in two threads the
process had 230 MB of them, a quarter of all.
"""

import contextlib
import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # as malloc.h numbers them
_SETTINGS = {
    _ARENA_MAX: 1,
    # Bytes; larger arrays are apart from the pool and go back at once. With 4 MB a search has three times as many new
    # pages to fill, at a cost of some hundredths of its time, and not less memory.
    _MMAP_THRESHOLD: 32 << 20,
    _TRIM_THRESHOLD: 32 << 20,  # bytes at the end of the pool that are kept for what comes next
}


def share_memory_pool() -> None:
    """Have all threads of this process share one pool, for programs, before they start threads.

    Without glibc nothing is changed.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other C libraries, other systems
        mallopt = ctypes.CDLL(None).mallopt
        for name, value in _SETTINGS.items():
            mallopt(name, value)
