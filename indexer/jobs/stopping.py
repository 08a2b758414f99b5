"""Ending in good order when the system asks for it: SIGTERM, as Slurm, Kubernetes and `kill` send it."""

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import ClassVar

from indexer.errors import GeoError

log = logging.getLogger(__name__)


class Stopped(GeoError):
    """The process was asked to end, and did so with nothing half done."""

    exit_code: ClassVar[int] = 128 + signal.SIGTERM


class StopSignal:
    """Whether the process was asked to end."""

    def __init__(self) -> None:
        self.is_set = False

    def check(self, out: Path, *, kept: str = "after a whole shard") -> None:
        """Raise Stopped if it was; called between two shards of the job at `out`, or where `kept` says what is kept."""
        if self.is_set:
            raise Stopped(f"{out}: stopped as asked, {kept}. Run the same command again to go on.")


@contextlib.contextmanager
def stopping() -> Iterator[StopSignal]:
    """Catch the first SIGTERM for as long as the block runs; a second one ends the process at once."""
    stop = StopSignal()
    if threading.current_thread() is not threading.main_thread():  # Python lets no other thread catch signals
        yield stop
        return

    def catch(number: int, frame: FrameType | None) -> None:
        stop.is_set = True
        signal.signal(signal.SIGTERM, before)
        log.info("asked to end: what is in hand is finished first")

    before = signal.signal(signal.SIGTERM, catch)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
