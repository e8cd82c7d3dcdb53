"""Retries are never more than twice the successes, plus what the bucket holds."""

from __future__ import annotations

import logging
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefiq_db import RetryPolicy
from prefiq_db.errors import ConnectFailedError, ErrorClass, ErrorKind
from prefiq_db.events import AttemptFailed
from prefiq_db.retry import Retrier
from prefiq_db.retry_budget import PER_SUCCESS, REFILL_SECONDS, RetryBudget

AWAY = ErrorClass(ErrorKind.CONNECT_FAILED, transient=True, retry_statement=True, retry_transaction=True)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_full_bucket_pays_for_its_capacity() -> None:
    """No more than that, while nothing succeeds and no time passes."""
    budget = RetryBudget("main", 3, Clock())
    assert [budget.spend() for _ in range(5)] == [True, True, True, False, False]
    assert budget.refused == 2


def test_a_success_pays_for_two_retries() -> None:
    """Successes before the first failure pay for nothing: the bucket is full."""
    budget = RetryBudget("main", 2, Clock())
    budget.successes += 1000
    assert [budget.spend() for _ in range(3)] == [True, True, False]
    budget.successes += 1
    assert [budget.spend() for _ in range(3)] == [True, True, False]


def test_time_fills_it_up() -> None:
    """Half of the time, half of the bucket; never more than it holds."""
    clock = Clock()
    budget = RetryBudget("main", 10, clock)
    while budget.spend():
        pass
    clock.now += REFILL_SECONDS / 2
    assert [budget.spend() for _ in range(6)] == [True] * 5 + [False]
    clock.now += REFILL_SECONDS * 100
    assert sum(budget.spend() for _ in range(20)) == 10


@given(
    st.integers(1, 200),
    st.lists(st.one_of(st.just("retry"), st.integers(1, 50), st.floats(0, 30, allow_nan=False)), max_size=200),
)
def test_the_bound_holds_in_any_order(capacity: int, steps: list[str | int | float]) -> None:
    """Whatever happens when: retries <= capacity + 2 x successes + what time brought."""
    clock = Clock()
    budget = RetryBudget("main", capacity, clock)
    made = successes = 0
    begun = clock.now
    for step in steps:
        if step == "retry":
            made += budget.spend()
        elif isinstance(step, int):
            successes += step
            budget.successes += step
        else:
            assert isinstance(step, float)
            clock.now += step
        assert made <= capacity + PER_SUCCESS * successes + (clock.now - begun) * capacity / REFILL_SECONDS + 1e-6


def test_threads_share_one_budget() -> None:
    """Many at once take no more than there is."""
    budget = RetryBudget("main", 100, Clock())
    made: list[bool] = []
    threads = [threading.Thread(target=lambda: made.extend(budget.spend() for _ in range(50))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(made) == 100
    assert budget.refused == 300


def test_it_warns_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    """One warning per ten seconds, however many retries are refused."""
    clock = Clock()
    budget = RetryBudget("main", 1, clock)
    with caplog.at_level(logging.WARNING, "prefiq_db.retry"):
        for _ in range(10):
            budget.spend()
        assert [record.getMessage() for record in caplog.records] == [
            "the retry budget of database main is used up: errors are raised at once until calls succeed again"
        ]
        clock.now += 0.5 * REFILL_SECONDS
        budget.spend()
        assert len(caplog.records) == 1
        clock.now += 20
        budget.spend()
        budget.spend()
        assert len(caplog.records) == 2


def test_an_error_says_why_it_was_not_tried_again() -> None:
    """It is raised at once, with a note; errors that nobody would repeat cost nothing and have no note."""
    waits: list[float] = []
    events: list[AttemptFailed] = []
    budget = RetryBudget("main", 2, Clock())
    retrier = Retrier(RetryPolicy(attempts=10), waits.append, on_retry=events.append, budget=budget, database="main")

    def away() -> None:
        raise ConnectFailedError("away", classification=AWAY)

    with pytest.raises(ConnectFailedError) as error:
        retrier.run(away)
    assert len(events) == len(waits) == 2
    assert error.value.__notes__ == ["not tried again: the retry budget of database main is used up (retry_budget=2)"]
    with pytest.raises(ValueError, match="mine") as other:
        retrier.run(lambda: (_ for _ in ()).throw(ValueError("mine")))
    assert not hasattr(other.value, "__notes__")
    assert budget.refused == 1


def test_the_last_attempt_costs_nothing() -> None:
    """A call that gives up by its own policy takes nothing out for the attempt it doesn't make."""
    budget = RetryBudget("main", 5, Clock())

    def away() -> None:
        raise ConnectFailedError("away", classification=AWAY)

    with pytest.raises(ConnectFailedError) as error:
        Retrier(RetryPolicy(attempts=3), lambda seconds: None, budget=budget).run(away)
    assert not hasattr(error.value, "__notes__")
    assert [budget.spend() for _ in range(4)] == [True, True, True, False]
