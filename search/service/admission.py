"""How many rows, and bytes, may be in the service at once. Who comes when it is full is told so before it is read."""

from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

_LATEST = 256  # rows whose pace says how long others will wait


class Full(Exception):
    """There is no room; `retry_s` says when to try again, in whole seconds."""

    def __init__(self, retry_s: int) -> None:
        super().__init__(f"as much as may wait is waiting; try again in {retry_s} s")
        self.retry_s = retry_s


class Admission:
    """Room for rows: photos, or vectors; and for the bytes of requests. Only for one event loop, which is its lock."""

    def __init__(self, most: int, *, most_bytes: int, now: Callable[[], float]) -> None:
        self.most, self.inside, self.refused = most, 0, 0
        self.most_bytes, self.bytes_inside = most_bytes, 0
        self._now = now
        self._left = deque[tuple[float, int]](maxlen=_LATEST)  # when rows left, and how many

    def visit(self) -> "Visit":
        """What a request holds its rows by: a context manager."""
        return Visit(self)

    def enter(self, rows: int) -> None:
        """Raises Full where there is no room for so many."""
        if self.inside + rows > self.most:
            self.refused += 1
            raise Full(self._retry_s(rows))
        self.inside += rows

    def hold(self, size_bytes: int) -> None:
        """Raises Full where there is no room for so many bytes."""
        if self.bytes_inside + size_bytes > self.most_bytes:
            self.refused += 1
            raise Full(self._retry_s(0))
        self.bytes_inside += size_bytes

    def leave(self, rows: int, size_bytes: int = 0) -> None:
        """Rows that are done, and bytes."""
        self.inside -= rows
        self.bytes_inside -= size_bytes
        if rows:
            self._left.append((self._now(), rows))

    def _retry_s(self, rows: int) -> int:
        """Until there is room, at the pace of the latest rows."""
        if len(self._left) < 2 or self._left[-1][0] <= self._left[0][0]:
            return 1
        took_s = self._left[-1][0] - self._left[0][0]
        pace = sum(number for _, number in self._left) / took_s
        return min(60, max(1, round((self.inside + rows - self.most) / pace)))


class Visit:
    """The rows and bytes of one request, which leave together."""

    def __init__(self, admission: Admission) -> None:
        self._admission, self.rows, self.size_bytes = admission, 0, 0

    def enter(self, rows: int = 1) -> None:
        """Admit more rows of this request. Raises Full."""
        self._admission.enter(rows)
        self.rows += rows

    def hold(self, size_bytes: int) -> None:
        """Admit more bytes of this request. Raises Full."""
        self._admission.hold(size_bytes)
        self.size_bytes += size_bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._admission.leave(self.rows, self.size_bytes)
