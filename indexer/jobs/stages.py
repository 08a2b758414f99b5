"""A line of stages, each in a thread of its own with a bounded queue behind it, so that the slowest one sets the pace.

    line = Line()
    pixels = line.stage("decode", decoded)
    vectors = line.stage("encode", (encode(each) for each in pixels))
    with line:
        for vector in vectors: ...

A stage is an iterator over the one before it, best a generator: in `map` a StopIteration that escapes from a function
would end the stage as if there were no more. What a stage raises is raised where its results are taken; at the end of
the block every thread has ended, whatever was still under way.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

_S = TypeVar("_S", bound=Sized)
_SECONDS_BETWEEN_LOOKS = 0.1  # whether the line was stopped


@dataclass(slots=True, eq=False)
class Meter:
    """What a stage has done so far."""

    name: str
    rows: int = 0
    busy_s: float = 0.0  # at work itself, not waiting for the stage before it or for room behind it
    waiting: int = 0  # results that nobody has taken yet
    room: int = 0  # for so many

    @contextlib.contextmanager
    def at_work(self, rows: int) -> Iterator[None]:
        """Measure a piece of work on so many rows, of a stage that has no thread of its own."""
        started = time.perf_counter()
        yield
        self.busy_s += time.perf_counter() - started
        self.rows += rows


class Line(contextlib.AbstractContextManager["Line"]):
    """Stages that belong together."""

    def __init__(self) -> None:
        self.meters: list[Meter] = []
        self.failed = 0  # rows without a result so far; counted by the stage that finds them
        self._stages: list[_Stage[Any]] = []
        self._stopped = threading.Event()

    def stage(self, name: str, items: Iterator[_S], *, ahead: int = 2) -> Iterator[_S]:
        """Run an iterator in a thread, at most `ahead` results before they are taken. It starts when one is wanted.

        Add stages in the order of the work: the time that one waits for the stage before it does not count as its work.
        Rows are counted by the length of the results.
        """
        meter = self.meter(name)
        meter.room = ahead
        stage = _Stage(meter, items, self._stages[-1] if self._stages else None, self._stopped)
        self._stages.append(stage)
        return stage

    def meter(self, name: str) -> Meter:
        """A stage whose work the caller does."""
        meter = Meter(name)
        self.meters.append(meter)
        return meter

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for stage in self._stages:
            if stage.thread.ident is not None:  # it was started
                stage.thread.join()


class _Stopped(Exception):
    """The line was stopped: no more results are taken."""


_END = object()  # the last result of a stage: there is no more, because of its error where it has one


class _Stage(Iterator[_S]):
    def __init__(
        self, meter: Meter, items: Iterator[_S], before: "_Stage[Any] | None", stopped: threading.Event
    ) -> None:
        self.waited_s = 0.0  # seconds that the taker of results has waited for them
        self.thread = threading.Thread(target=self._work, name=meter.name, daemon=True)
        self._meter, self._items, self._before, self._stopped = meter, items, before, stopped
        self._results: queue.Queue[Any] = queue.Queue(meter.room)
        self._error: BaseException = StopIteration()

    def __next__(self) -> _S:
        if self.thread.ident is None:
            self.thread.start()
        started = time.perf_counter()
        result = self._unless_stopped(self._results.get)
        self.waited_s += time.perf_counter() - started
        if result is _END:
            self._results.put(_END)  # the next call must find it, too; the thread has ended, so there is room
            raise self._error
        return result

    def _work(self) -> None:
        try:
            while True:
                started, waited = time.perf_counter(), self._waited()
                item = next(self._items)
                self._meter.busy_s += time.perf_counter() - started - (self._waited() - waited)
                self._meter.rows += len(item)
                self._unless_stopped(partial(self._results.put, item))
        except (StopIteration, _Stopped):
            pass
        except BaseException as error:  # noqa: BLE001 (it is raised where the results are taken)
            self._error = error
        finally:
            # Here, in the thread that used them: generators end what they started.
            close = getattr(self._items, "close", None)
            if close is not None:
                close()
        with contextlib.suppress(_Stopped):
            self._unless_stopped(partial(self._results.put, _END))

    def _waited(self) -> float:
        return 0.0 if self._before is None else self._before.waited_s

    def _unless_stopped(self, act: Callable[..., Any]) -> Any:
        """Put or take a result as soon as there is room or one is there."""
        while True:
            try:
                result = act(timeout=_SECONDS_BETWEEN_LOOKS)
            except (queue.Full, queue.Empty):
                if self._stopped.is_set():
                    raise _Stopped from None
            else:
                self._meter.waiting = self._results.qsize()
                return result
