"""A line of stages: order, bounds, errors from anywhere, and no thread that outlives it."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.jobs.stages import Line, Meter

WAIT_S = 30.0  # for what happens at once unless it never does


class Batch(list[int]):
    """Something with a length."""


def batches(n: int, size: int = 3) -> Iterator[Batch]:
    return (Batch(range(first * size, (first + 1) * size)) for first in range(n))


def doubled(items: Iterator[Batch]) -> Iterator[Batch]:
    return (Batch(2 * value for value in item) for item in items)


def until(met: Callable[[], bool]) -> None:
    """Wait for other threads to get somewhere."""
    deadline = time.monotonic() + WAIT_S
    while not met() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert met()


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@settings(max_examples=30)
@given(st.integers(0, 12), st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_results_come_in_order_whatever_room_there_is(n: int, rooms: list[int]) -> None:
    line = Line()
    items: Iterator[Batch] = batches(n)
    for number, ahead in enumerate(rooms):
        items = line.stage(f"stage {number}", doubled(items), ahead=ahead)
    with line:
        found = list(items)
    assert found == [[2 ** len(rooms) * value for value in batch] for batch in batches(n)]
    assert [(meter.rows, meter.room) for meter in line.meters] == [(3 * n, ahead) for ahead in rooms]
    assert [meter.name for meter in line.meters] == [f"stage {number}" for number in range(len(rooms))]


def test_who_asks_after_the_end_hears_of_it_again() -> None:
    line = Line()
    items = line.stage("one", batches(1))
    with line:
        assert list(items) == [[0, 1, 2]]
        assert list(items) == list(items) == []


def test_nothing_runs_before_it_is_asked_for() -> None:
    begun: list[int] = []

    def source() -> Iterator[Batch]:
        begun.append(1)
        yield Batch([1])

    line = Line()
    line.stage("second", doubled(line.stage("first", source())))
    with line:
        pass
    assert begun == []


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_no_stage_runs_further_ahead_than_its_room(ahead: int) -> None:
    made = [0, 0]

    def counted(items: Iterator[Batch], stage: int) -> Iterator[Batch]:
        for item in items:
            made[stage] += 1
            yield item

    line = Line()
    first = line.stage("first", counted(batches(1000), 0), ahead=ahead)
    second = line.stage("second", counted(first, 1), ahead=ahead)
    most = ahead + 1  # what is waiting, and one that finds no room
    with line:
        for taken in range(1, 5):
            assert next(second) == [3 * taken - 3, 3 * taken - 2, 3 * taken - 1]
            until(lambda taken=taken: made == [taken + 2 * most, taken + most])
            assert line.meters[0].waiting == line.meters[1].waiting == ahead
        time.sleep(0.05)  # with time enough, no more
        assert made == [4 + 2 * most, 4 + most]


def failing_at(number: int, items: Iterator[Batch], error: BaseException) -> Iterator[Batch]:
    for count, item in enumerate(items):
        if count == number:
            raise error
        yield item


@pytest.mark.parametrize("error", [ValueError("why"), KeyboardInterrupt(), SystemExit(3), StopAsyncIteration()])
@pytest.mark.parametrize("where", [0, 1, 2])
def test_what_a_stage_raises_is_raised_where_results_are_taken(where: int, error: BaseException) -> None:
    line = Line()
    items: Iterator[Batch] = batches(50)
    for stage in range(3):
        items = line.stage(f"{stage}", failing_at(7, items, error) if stage == where else doubled(items))
    taken = []
    with pytest.raises(type(error)) as caught, line:
        taken.extend(items)
    assert caught.value is error
    assert len(taken) == 7  # all before it


def test_an_end_that_escapes_from_a_function_is_no_end() -> None:
    """As `next` does of an iterator that is shorter than was thought: rows would be missing without a word."""

    def once(item: Batch) -> Batch:
        return Batch([next(iter(item[:0]))])

    line = Line()
    items = line.stage("one", (once(item) for item in batches(3)))
    with pytest.raises(RuntimeError, match="StopIteration"), line:
        list(items)


class Left(BaseException):
    """Why the block is left."""


@pytest.mark.parametrize("why", [ValueError, KeyboardInterrupt, Left])
@pytest.mark.parametrize("taken", [1, 4])
def test_leaving_early_ends_every_thread_and_closes_every_generator(why: type[BaseException], taken: int) -> None:
    closed: list[str] = []
    used_by: dict[str, set[str]] = {}

    def stage(name: str, items: Iterator[Batch]) -> Iterator[Batch]:
        used_by[name] = {threading.current_thread().name}
        try:
            yield from items
        finally:
            used_by[name].add(threading.current_thread().name)
            closed.append(name)

    line = Line()
    items: Iterator[Batch] = batches(10_000)
    for name in ("read", "decode", "encode"):
        items = line.stage(name, stage(name, items), ahead=1)

    def leave() -> None:
        for count, _ in enumerate(items, 1):
            if count == taken:
                raise why

    with pytest.raises(why), line:
        leave()
    assert sorted(closed) == ["decode", "encode", "read"]
    assert used_by == {name: {name} for name in closed}  # each in the thread that used it


def test_leaving_early_ends_a_stage_that_waits_for_a_slow_one() -> None:
    waiting, let_go = threading.Event(), threading.Event()

    def slow() -> Iterator[Batch]:
        yield Batch([1])
        waiting.set()
        let_go.wait(WAIT_S)
        yield Batch([2])

    line = Line()
    items = line.stage("second", doubled(line.stage("first", slow())))
    with line:
        assert next(items) == [2]
        assert waiting.wait(WAIT_S)
        threading.Timer(0.1, let_go.set).start()
    assert let_go.is_set()  # what was under way was waited for


def test_meters_tell_working_from_waiting() -> None:
    """A quick stage before a slow one, and one behind it: only the slow one is at work all the time."""

    def slow(items: Iterator[Batch]) -> Iterator[Batch]:
        for item in items:
            time.sleep(0.1)
            yield item

    line = Line()
    first = line.stage("before", batches(6))
    items = line.stage("behind", doubled(line.stage("slow", slow(first))))
    started = time.perf_counter()
    with line:
        assert sum(map(len, items)) == 18
    took = time.perf_counter() - started
    before, at_work, behind = (meter.busy_s for meter in line.meters)
    assert [meter.rows for meter in line.meters] == [18, 18, 18]
    assert 0.6 <= at_work <= took
    assert before < at_work / 2
    assert behind < at_work / 2


def test_waiting_for_who_takes_the_results_is_no_work() -> None:
    line = Line()
    items = line.stage("one", batches(5), ahead=1)
    with line:
        for _ in items:
            time.sleep(0.1)
    assert line.meters[0].busy_s < 0.25


def test_a_stage_without_a_thread_is_measured_where_it_is_worked() -> None:
    line = Line()
    write = line.meter("write")
    assert line.meters == [write]
    for _ in range(2):
        with write.at_work(5):
            time.sleep(0.01)
    assert (write.rows, write.room) == (10, 0)
    assert write.busy_s >= 0.02


def test_work_that_failed_is_no_row() -> None:
    meter = Meter("write")
    with pytest.raises(ValueError, match="full"), meter.at_work(5):
        raise ValueError("full")
    assert meter.rows == 0
