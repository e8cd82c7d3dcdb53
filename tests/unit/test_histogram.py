"""Durations are noted without a lock and counted many at once; none is lost, and none lands in another bucket."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from prefiq_db.insight.histogram import FINE_BOUNDS, OPERATION_BOUNDS, Histogram, drained

# On a bound, beside it, far from it: what a bucket can get wrong.
SECONDS = st.one_of(
    st.floats(0, 100, allow_nan=False), st.sampled_from(OPERATION_BOUNDS + FINE_BOUNDS), st.floats(0, 0.001)
)


@given(batches=st.lists(st.lists(SECONDS)), bounds=st.sampled_from([OPERATION_BOUNDS, FINE_BOUNDS]))
def test_many_at_once_are_counted_like_one_by_one(batches: list[list[float]], bounds: tuple[float, ...]) -> None:
    """In every bucket, also where all are so short that nothing is sorted."""
    at_once, one_by_one = Histogram(bounds), Histogram(bounds)
    for batch in batches:
        at_once.add_all(batch)
        for seconds in batch:
            one_by_one.add(seconds)
    assert at_once.counts == one_by_one.counts
    assert at_once.max_seconds == one_by_one.max_seconds
    assert abs(at_once.total_seconds - one_by_one.total_seconds) <= 1e-9 * max(1.0, one_by_one.total_seconds)


def test_what_is_noted_while_others_count_is_not_lost() -> None:
    """Threads append while one drains: each note comes out once."""
    noted: list[int] = []
    each, threads = 20_000, 4

    def note(first: int) -> None:
        for number in range(first, first + each):
            noted.append(number)

    writers = [threading.Thread(target=note, args=(index * each,)) for index in range(threads)]
    for writer in writers:
        writer.start()
    taken: list[int] = []
    while any(writer.is_alive() for writer in writers):
        taken += drained(noted)
    taken += drained(noted)
    assert noted == []
    assert sorted(taken) == list(range(threads * each))
