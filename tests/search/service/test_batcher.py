"""Batches: each item gets its own result, whoever goes away, whatever dies."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Hashable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.errors import InputError
from search.service.batcher import Batcher, StageDied

Batch = tuple[Hashable, list[int]]


class Stage:
    """Doubles numbers of a kind, as `7` -> `a: 14`, and keeps the batches that it was given."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, kind: Hashable, items: list[int]) -> Sequence[str]:
        self.go.wait()
        self.batches.append((kind, list(items)))
        if kind == "wrong":
            raise InputError("no such kind")
        if -1 in items:
            raise MemoryError("all of it")
        return [f"{kind}: {2 * item}" for item in items if item != -2]  # -2 is forgotten


def run(test: Callable[[Batcher[int, str], Stage], Awaitable[None]], **options: float) -> Stage:
    stage = Stage()

    async def with_batcher() -> None:
        batcher = Batcher(stage, name="double", **{"most": 4, "wait_s": 0, "rest_s": 0.02} | options)  # type: ignore
        try:
            await asyncio.wait_for(test(batcher, stage), 20)
        finally:
            stage.go.set()
            await batcher.close()

    asyncio.run(with_batcher())
    return stage


@given(
    requests=st.lists(st.tuples(st.sampled_from("abc"), st.lists(st.integers(0, 99), max_size=6)), max_size=12),
    most=st.integers(1, 7),
)
def test_each_item_has_its_own_result_and_kinds_are_never_mixed(requests: list[Batch], most: int) -> None:
    async def test(batcher: Batcher[int, str], stage: Stage) -> None:
        results = await asyncio.gather(*(batcher(kind, items) for kind, items in requests))
        assert results == [[f"{kind}: {2 * item}" for item in items] for kind, items in requests]
        assert len(batcher) == 0

    stage = run(test, most=most)
    assert sum(len(items) for _, items in stage.batches) == sum(len(items) for _, items in requests)
    assert all(1 <= len(items) <= most for _, items in stage.batches)
    for kind in "abc":  # in the order in which they came
        done = [item for each, items in stage.batches for item in items if each == kind]
        assert done == [item for each, items in requests for item in items if each == kind]


def test_what_waits_while_a_batch_is_done_goes_together() -> None:
    async def test(batcher: Batcher[int, str], stage: Stage) -> None:
        stage.go.clear()
        first = asyncio.create_task(batcher("a", [0]))
        await asyncio.sleep(0.05)
        others = [asyncio.create_task(batcher("a", [number])) for number in (1, 2, 3)]
        await asyncio.sleep(0.05)
        assert len(batcher) == 3
        stage.go.set()
        assert await asyncio.gather(first, *others) == [[f"a: {2 * number}"] for number in range(4)]

    assert run(test).batches == [("a", [0]), ("a", [1, 2, 3])]


def test_the_first_waits_for_others_but_no_longer_than_it_may() -> None:
    async def test(batcher: Batcher[int, str], stage: Stage) -> None:
        late = asyncio.create_task(batcher("a", [1]))
        await asyncio.sleep(0.05)
        early = asyncio.create_task(batcher("a", [2]))
        await asyncio.gather(late, early)
        await asyncio.gather(*(batcher("b", [number]) for number in range(4)))  # as many as go together: at once

    stage = run(test, wait_s=0.5)
    assert stage.batches == [("a", [1, 2]), ("b", [0, 1, 2, 3])]


def test_an_item_of_many_rows_goes_alone_and_sizes_add_up() -> None:
    seen: list[tuple[str, int]] = []

    async def test(batcher: Batcher[int, str], stage: Stage) -> None:
        await batcher("a", [1, 3, 2, 9, 1])

    stage = run(test, most=4, size=lambda item: item, observe=lambda name, rows, _: seen.append((name, rows)))  # type: ignore
    assert [items for _, items in stage.batches] == [[1, 3], [2], [9], [1]]
    assert seen == [("double", 4), ("double", 2), ("double", 9), ("double", 1)]


def test_a_request_that_goes_away_costs_nothing_further() -> None:
    async def test(batcher: Batcher[int, str], stage: Stage) -> None:
        stage.go.clear()
        under_way = asyncio.create_task(batcher("a", [0, 1]))
        await asyncio.sleep(0.05)
        waits = asyncio.create_task(batcher("a", [2, 3]))
        stays = asyncio.create_task(batcher("a", [4]))
        await asyncio.sleep(0.05)
        under_way.cancel()
        waits.cancel()
        await asyncio.gather(under_way, waits, return_exceptions=True)
        stage.go.set()
        assert await stays == ["a: 8"]

    assert run(test).batches == [("a", [0, 1]), ("a", [4])]


def test_an_error_of_the_input_fails_one_batch_alone() -> None:
    async def test(batcher: Batcher[int, str], stage: Stage) -> None:
        results = await asyncio.gather(batcher("wrong", [1, 2]), batcher("a", [3]), return_exceptions=True)
        assert isinstance(results[0], InputError)
        assert results[1] == ["a: 6"]
        assert (batcher.died, batcher.deaths) == (None, 0)

    run(test)


@pytest.mark.parametrize("poison", [-1, -2])
def test_a_death_fails_all_who_wait_is_seen_and_passes(poison: int, caplog: pytest.LogCaptureFixture) -> None:
    async def test(batcher: Batcher[int, str], stage: Stage) -> None:
        stage.go.clear()
        fatal = asyncio.create_task(batcher("a", [poison]))
        await asyncio.sleep(0.05)
        waits = [asyncio.create_task(batcher(kind, [1])) for kind in ("a", "b")]
        await asyncio.sleep(0.05)
        stage.go.set()
        results = await asyncio.gather(fatal, *waits, return_exceptions=True)
        assert [type(each) for each in results] == [StageDied] * 3
        assert batcher.died is not None
        assert batcher.died.startswith(f"double has ended: {'MemoryError' if poison == -1 else 'RuntimeError'}")
        with pytest.raises(StageDied):  # at once, and nothing is kept for later
            await batcher("a", [5])
        assert len(batcher) == 0
        await asyncio.sleep(0.3)
        assert (batcher.died, batcher.deaths) == (None, 1)
        assert await batcher("a", [5]) == ["a: 10"]

    stage = run(test, rest_s=0.2)
    assert stage.batches == [("a", [poison]), ("a", [5])]
    assert "double has ended" in caplog.text


def test_who_waits_when_it_is_closed_is_told_so() -> None:
    async def test(batcher: Batcher[int, str], stage: Stage) -> None:
        stage.go.clear()
        waiting = [asyncio.create_task(batcher("a", [number])) for number in range(2)]
        await asyncio.sleep(0.05)
        threading.Timer(0.1, stage.go.set).start()
        await batcher.close()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(each) for each in results] == [StageDied] * 2
        with pytest.raises(StageDied, match="closing"):
            await batcher("a", [1])

    run(test)
