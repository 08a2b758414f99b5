"""Room for rows and bytes: never more than there may be, and all of it comes back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.service.admission import Admission, Full


class Clock:
    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 60)), max_size=20))
def test_no_more_is_inside_than_may_be_and_all_of_it_leaves(requests: list[tuple[int, int]]) -> None:
    room = Admission(10, most_bytes=100, now=Clock())
    rows = size = refused = 0
    visits = []
    for wanted, wanted_bytes in requests:
        visit = room.visit()
        visit.__enter__()
        visits.append(visit)
        try:
            visit.hold(wanted_bytes)
            size += wanted_bytes
            visit.enter(wanted)
            rows += wanted
        except Full:
            refused += 1
        assert (room.inside, room.bytes_inside) == (rows, size)
        assert room.inside <= 10
        assert room.bytes_inside <= 100
    assert room.refused == refused
    for visit in visits:
        visit.__exit__(None, None, None)
    assert (room.inside, room.bytes_inside) == (0, 0)


def test_a_request_that_fails_gives_its_room_back() -> None:
    room = Admission(4, most_bytes=10, now=Clock())
    with room.visit() as visit:
        visit.enter(3)
        visit.hold(10)
        with pytest.raises(Full):
            visit.enter(2)
        assert (room.inside, room.bytes_inside) == (3, 10)
    assert (room.inside, room.bytes_inside) == (0, 0)


def test_who_is_refused_is_told_how_long_at_the_pace_of_the_latest() -> None:
    clock = Clock()
    room = Admission(10, most_bytes=10, now=clock)
    with pytest.raises(Full) as early:
        room.enter(11)
    assert early.value.retry_s == 1  # nothing is known yet
    for clock.at in (0.0, 10.0, 20.0):  # five rows in ten seconds
        room.enter(5)
        room.leave(5)
    room.enter(10)
    with pytest.raises(Full) as full:
        room.enter(6)
    assert full.value.retry_s == 8  # six rows, of which 15 took 20 s
    with pytest.raises(Full) as far:
        room.enter(600)
    assert far.value.retry_s == 60
