"""Progress of long work on standard error: a bar with rate and time left on a terminal, else a line now and then."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from indexer.jobs.stages import Line, Meter

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 15.0
_SECONDS_BETWEEN_TICKS = 0.5


@contextlib.contextmanager
def track(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show how far work has come. Yields a function to call with the number of items done since the last call.

    total: of items; None where nobody knows before the end.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(what, total)
        return
    with _bar(console) as progress:
        yield _advancing(progress, what, total)


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

    total: of rows; None where nobody knows before the end. known: of them that were done before. tick: called every
    half second, from another thread. also: more to say, in short texts.
    """
    console, ended = Console(stderr=True), threading.Event()

    def said() -> list[str]:
        return [*_said(line), *also()]

    with contextlib.ExitStack() as stack:
        live = advance = None
        if console.is_terminal:
            progress = _bar(console)
            live = stack.enter_context(Live(progress, console=console, refresh_per_second=4))
            advance = _advancing(progress, what, None if total is None else total - known)
        else:
            advance = _lines(what, None if total is None else total - known, more=lambda: "; ".join(said()))

        def look() -> None:
            seen, last = 0, False
            while not last:
                last = ended.wait(_SECONDS_BETWEEN_TICKS)
                tick()
                now = max(seen, _through(line))  # never back, where another stage has become the slowest
                if now > seen or live is not None:
                    advance(now - seen)
                    seen = now
                if live is not None:
                    live.update(Group(progress, Text("\n".join(f"  {text}" for text in said()))))

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


def _said(line: Line) -> list[str]:
    return [_meter_text(meter) for meter in line.meters if meter.rows]


def _meter_text(meter: Meter) -> str:
    queued = f", {meter.waiting} of {meter.room} waiting" if meter.room else ""
    return f"{meter.name} {meter.rows:,}, {per_second(meter.rows / max(meter.busy_s, 1e-9))} at work{queued}"


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )


def _advancing(progress: Progress, what: str, total: int | None) -> Callable[[int], None]:
    task = progress.add_task(what, total=total, rate="")

    def advance(done: int) -> None:
        progress.advance(task, done)
        speed = progress.tasks[0].speed
        progress.update(task, rate=per_second(speed) if speed else "")

    return advance


def per_second(rate: float) -> str:
    """A rate as people read it: slow ones with their decimals, which are what counts there."""
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"


def counts_text(counts: Mapping[str, int]) -> str:
    """How many there are of each kind, as people read it: '3 damaged, 1 empty', or 'none'."""
    return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "none"


def _lines(what: str, total: int | None, *, more: Callable[[], str] = str) -> Callable[[int], None]:
    started = shown = time.monotonic()
    count = 0

    def advance(done: int) -> None:
        nonlocal count, shown
        count += done
        now = time.monotonic()
        if count == total or now - shown > _SECONDS_BETWEEN_LINES:
            shown = now
            rate = max(count, 1e-9) / max(now - started, 1e-9)
            said = f"{what}: {count:,}" + ("" if total is None else f" of {total:,}") + f", {per_second(rate)}"
            if total is not None:
                said += f", {(total - count) / rate:.0f} s left"
            log.info("%s", "; ".join(filter(None, [said, more()])))

    return advance
