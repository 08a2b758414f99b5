"""Progress of long work on standard error: a bar with rate and time left on a terminal, else a line now and then."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 15.0


@contextlib.contextmanager
def track(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show how far work has come. Yields a function to call with the number of items done since the last call.

    total: of items; None where nobody knows before the end.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(what, total)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=total, rate="")

        def advance(done: int) -> None:
            progress.advance(task, done)
            speed = progress.tasks[0].speed
            progress.update(task, rate=per_second(speed) if speed else "")

        yield advance


def per_second(rate: float) -> str:
    """A rate as people read it: slow ones with their decimals, which are what counts there."""
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"


def _lines(what: str, total: int | None) -> Callable[[int], None]:
    started = shown = time.monotonic()
    count = 0

    def advance(done: int) -> None:
        nonlocal count, shown
        count += done
        now = time.monotonic()
        if count == total or now - shown > _SECONDS_BETWEEN_LINES:
            shown = now
            rate = max(count, 1e-9) / max(now - started, 1e-9)
            if total is None:
                log.info("%s: %d, %s", what, count, per_second(rate))
            else:
                log.info("%s: %d of %d, %s, %.0f s left", what, count, total, per_second(rate), (total - count) / rate)

    return advance
