"""Work of many requests done together: one batch at a time, each the work of one kind.

In: items of requests that wait, in an event loop. Out: a result for each item, in its order. A batch leaves as soon as
the one before it is done and no more may come in the next moments; who has gone meanwhile is left out of it.

What nobody foresaw fails all who wait, not the batch alone: it may be the device, or memory. The stage rests then, and
refuses, so that whoever watches sees it, and begins again.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from indexer.errors import GeoError

log = logging.getLogger(__name__)

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


REST_S = 5.0  # that a stage refuses after it died: longer than those who watch take to look twice


class StageDied(Exception):
    """A stage of the service ended for a reason that is no input's: nobody will be answered until it is back."""


@dataclass(slots=True, eq=False)
class _Waiting(Generic[ItemT, ResultT]):
    kind: Hashable
    item: ItemT
    result: "asyncio.Future[ResultT]"
    came: float  # by the loop's clock


class Batcher(Generic[ItemT, ResultT]):
    """Gathers items and hands those of one kind to a function, in a thread of its own.

    Nothing here is bounded: who admits a request says how many items may wait (`search.service.admission`).
    """

    def __init__(
        self,
        work: Callable[[Hashable, list[ItemT]], Sequence[ResultT]],
        *,
        name: str,
        most: int,
        wait_s: float,
        size: Callable[[ItemT], int] = lambda _: 1,
        observe: Callable[[str, int, float], None] = lambda *_: None,
        rest_s: float = REST_S,
    ) -> None:
        """Only inside a running event loop.

        work: a kind and items of it to as many results; a GeoError fails this batch alone, all else ends the stage.
        most: rows in a batch, of which an item has `size`; one that has more goes alone. wait_s: of the first of them,
        for others. observe: told of each batch: the stage's name, how many rows, how many seconds. rest_s: after it
        died.
        """
        self.name, self.deaths = name, 0
        self._rest_s = rest_s
        self._work, self._most, self._wait_s, self._size, self._observe = work, most, wait_s, size, observe
        self._waiting = deque[_Waiting[ItemT, ResultT]]()
        self._under_way = list[_Waiting[ItemT, ResultT]]()
        self._came = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._died: str | None = None
        self._loop = asyncio.create_task(self._run(), name=name)

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def died(self) -> str | None:
        """Why it does nothing at present; None where it works."""
        return self._died

    async def __call__(self, kind: Hashable, items: Sequence[ItemT]) -> list[ResultT]:
        """The results of items, in their order.

        Raises:
            GeoError: what the work said of a batch that one of them was in.
            StageDied: the stage has ended, before or meanwhile.
        """
        if self._died is not None:
            raise StageDied(self._died)
        loop = asyncio.get_running_loop()
        mine = [_Waiting(kind, item, loop.create_future(), loop.time()) for item in items]
        self._waiting.extend(mine)
        self._came.set()
        try:
            return await asyncio.gather(*(each.result for each in mine))
        finally:
            for each in mine:  # where the request went away, or one item failed: the others are not worth doing
                each.result.cancel()

    async def close(self) -> None:
        """End it; whoever waits is told so."""
        self._loop.cancel()
        await asyncio.gather(self._loop, return_exceptions=True)
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def _run(self) -> None:
        try:
            while True:
                try:
                    await self._do(await self._next())  # no name holds a batch, and so its version, until the next one
                except Exception as error:
                    log.error("%s has ended: %s", self.name, error, exc_info=error)
                    self.deaths += 1
                    self._fail(f"{self.name} has ended: {type(error).__name__}; it begins again in a moment")
                    await asyncio.sleep(self._rest_s)
                    self._died = None
        finally:
            self._fail(f"{self.name} has ended: the service is closing")

    def _fail(self, why: str) -> None:
        """Tell all who wait."""
        self._died = why
        for each in [*self._under_way, *self._waiting]:
            if not each.result.done():
                each.result.set_exception(StageDied(why))
        self._under_way = []
        self._waiting.clear()

    async def _next(self) -> list[_Waiting[ItemT, ResultT]]:
        """The items that are done next: of the kind that has waited longest, as many as may go together."""
        while not self._wanted():
            self._came.clear()
            await self._came.wait()
        kind = self._waiting[0].kind
        left_s = self._waiting[0].came + self._wait_s - asyncio.get_running_loop().time()
        if left_s > 0 and sum(self._size(each.item) for each in self._waiting if each.kind == kind) < self._most:
            await asyncio.sleep(left_s)
        batch, others, rows, full = list[_Waiting[ItemT, ResultT]](), deque[_Waiting[ItemT, ResultT]](), 0, False
        for each in self._wanted():
            if each.kind == kind and not full:
                full = bool(batch) and rows + self._size(each.item) > self._most
            if each.kind == kind and not full:
                batch.append(each)
                rows += self._size(each.item)
            else:
                others.append(each)
        self._waiting, self._under_way = others, batch
        return batch

    def _wanted(self) -> deque[_Waiting[ItemT, ResultT]]:
        """Those who wait, without those who have gone."""
        self._waiting = deque(each for each in self._waiting if not each.result.done())
        return self._waiting

    async def _do(self, batch: list[_Waiting[ItemT, ResultT]]) -> None:
        if not batch:  # all have gone
            return
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            results = await loop.run_in_executor(self._thread, self._work, batch[0].kind, [each.item for each in batch])
        except GeoError as error:
            for each in batch:
                if not each.result.done():
                    each.result.set_exception(error)
            self._under_way = []
            return
        if len(results) != len(batch):  # or answers would go to the wrong photos
            raise RuntimeError(f"{self.name}: {len(results)} results for {len(batch)} items")
        for each, result in zip(batch, results, strict=True):
            if not each.result.done():
                each.result.set_result(result)
        self._under_way = []
        self._observe(self.name, sum(self._size(each.item) for each in batch), loop.time() - started)
