"""Progress of long work on standard error: a bar with rate and time left on a terminal, else a line now and then."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from indexer.jobs.stages import Line, Meter

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 15.0
_SECONDS_BETWEEN_TICKS = 0.5


@contextlib.contextmanager
def track(
    what: str, total: int | None, *, remarks: Callable[[], Sequence[str]] = tuple
) -> Iterator[Callable[[int], None]]:
    """Show how far work has come. Yields a function to call with the number of items done since the last call.

    total: of items; None if it is not known before the end. remarks: short texts to show beside it.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        with _Bar(console, what, total, remarks) as bar:
            yield bar.advance_by
    else:
        yield _lines(what, total, remarks)


@contextlib.contextmanager
def track_line(
    line: Line,
    what: str,
    total: int | None,
    *,
    known: int = 0,
    tick: Callable[[], None] = lambda: None,
    also: Callable[[], Sequence[str]] = tuple,
) -> Iterator[None]:
    """The same for a line of stages, with what each of them does.

    total: of rows; None if it is not known before the end. known: rows that were done before. tick: called every half
    second, from another thread. also: more short texts to show.
    """
    ended = threading.Event()

    def remarks() -> list[str]:
        return [*(_meter_text(meter) for meter in line.meters if meter.rows), *also()]

    with track(what, None if total is None else total - known, remarks=remarks) as advance:

        def look() -> None:
            seen, last = 0, False
            while not last:
                last = ended.wait(_SECONDS_BETWEEN_TICKS)
                tick()
                now = max(seen, _through(line))  # never back, where another stage has become the slowest
                if now > seen:
                    advance(now - seen)
                    seen = now

        watcher = threading.Thread(target=look, name="progress", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()


def _through(line: Line) -> int:
    """Rows that have left the slowest stage; those behind it may take them a whole shard at a time."""
    slowest = max((meter for meter in line.meters if meter.room), key=lambda meter: meter.busy_s, default=None)
    return 0 if slowest is None else slowest.rows


def _meter_text(meter: Meter) -> str:
    queued = f", {meter.waiting} of {meter.room} waiting" if meter.room else ""
    return f"{meter.name} {meter.rows:,}, {per_second(meter.rows / max(meter.busy_s, 1e-9))} at work{queued}"


class _Bar(Progress):
    """A bar on a terminal, with remarks below it."""

    def __init__(self, console: Console, what: str, total: int | None, remarks: Callable[[], Sequence[str]]) -> None:
        self._remarks = remarks
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self.add_task(what, total=total, rate="")

    def get_renderables(self) -> Iterator[RenderableType]:
        yield from super().get_renderables()
        yield from (Text(f"  {remark}") for remark in self._remarks())

    def advance_by(self, done: int) -> None:
        """Count so many more items as done."""
        self.advance(self._task, done)
        speed = self.tasks[0].speed
        self.update(self._task, rate=per_second(speed) if speed else "")


def per_second(rate: float) -> str:
    """A rate as people read it: slow ones with their decimals, which are what counts there."""
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"


def counts_text(counts: Mapping[str, int]) -> str:
    """How many there are of each kind, as people read it: '3 damaged, 1 empty', or 'none'."""
    return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "none"


def _lines(what: str, total: int | None, remarks: Callable[[], Sequence[str]]) -> Callable[[int], None]:
    started = shown = time.monotonic()
    count = 0

    def advance(done: int) -> None:
        nonlocal count, shown
        count += done
        now = time.monotonic()
        if count == total or now - shown > _SECONDS_BETWEEN_LINES:
            shown = now
            rate = max(count, 1e-9) / max(now - started, 1e-9)
            text = f"{what}: {count:,}" + ("" if total is None else f" of {total:,}") + f", {per_second(rate)}"
            left = [] if total is None else [f"{(total - count) / rate:.0f} s left"]
            log.info("%s", "; ".join([", ".join([text, *left]), *remarks()]))

    return advance
