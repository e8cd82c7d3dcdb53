"""A deadline is a moment that is made once; whoever waits asks it what is left."""

from __future__ import annotations

import pytest

from prefiq_db import Database
from prefiq_db.deadline import OWN_TIMEOUT, Deadline, Shares, own_deadline, sooner
from prefiq_db.errors import TransactionTimeoutError
from prefiq_db.pool.checkout_deadline import checkout_by, checkout_deadline


class Clock:
    """``time.monotonic``, moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("prefiq_db.deadline.time", clock)
    return clock


def test_what_is_left_shrinks_to_nothing(clock: Clock) -> None:
    """Never below zero, or below what the asker calls the least: 0 has a meaning of its own to a socket."""
    deadline = Deadline.after(5.0, "connect_timeout_seconds")
    assert (deadline.left(), deadline.has_passed) == (5.0, False)
    clock.now += 4.0
    assert (deadline.left(), deadline.left(at_least=2.0)) == (1.0, 2.0)
    clock.now += 4.0
    assert (deadline.left(), deadline.left(at_least=0.01), deadline.has_passed) == (0.0, 0.01, True)


def test_it_knows_the_limit_it_was_made_of(clock: Clock) -> None:
    """Messages name the limit and its length, however late it is."""
    deadline = Deadline.after(5.0, "connect_timeout_seconds")
    clock.now += 60.0
    assert (deadline.seconds, deadline.limit_name) == (5.0, "connect_timeout_seconds")
    assert repr(deadline) == "<Deadline in 0 s, of 5 s connect_timeout_seconds>"


def test_the_sooner_one_counts(clock: Clock) -> None:
    """``None`` is no limit; of two that pass together it is the first that was asked."""
    short, long = Deadline.after(1.0), Deadline.after(2.0)
    assert short.sooner_of(long) is long.sooner_of(short) is short
    assert long.sooner_of(None) is sooner(None, long) is sooner(long, None) is long
    assert short.sooner_of(Deadline.after(1.0)) is short
    assert sooner(None, None) is None


def test_without_a_timeout_there_is_no_deadline(clock: Clock) -> None:
    """A ``timeout=`` counts from the beginning of the call, not from its latest attempt."""
    assert own_deadline(None) is None
    limited = own_deadline(3.0, since=clock.now - 1.0)
    assert limited is not None
    assert (limited.left(), limited.seconds, limited.limit_name) == (2.0, 3.0, OWN_TIMEOUT)


def test_each_try_has_a_fair_share_of_what_is_left(clock: Clock) -> None:
    """What an earlier one did not need is for those that follow; one too many gets all there is."""
    shares = Shares(Deadline.after(12.0, "connect_timeout_seconds"), 3)
    assert shares.next().left() == 4.0
    clock.now += 2.0  # it was answered sooner
    second = shares.next()
    assert (second.left(), second.seconds, second.limit_name) == (5.0, 5.0, "connect_timeout_seconds")
    clock.now += 9.0
    assert (shares.next().left(), shares.next().left()) == (1.0, 1.0)
    clock.now += 2.0
    assert shares.next().has_passed


def test_a_checkout_ends_by_the_soonest_limit_around_it(clock: Clock) -> None:
    """In nested blocks too; afterwards nothing of it is left, whatever ended the block."""
    outer = Deadline.after(2.0, OWN_TIMEOUT)
    with checkout_by(outer):
        assert checkout_deadline(5.0, "pool_timeout_seconds") is outer
        assert checkout_deadline(1.0, "pool_timeout_seconds").limit_name == "pool_timeout_seconds"
        with checkout_by(Deadline.after(9.0)):
            assert checkout_deadline(5.0, "pool_timeout_seconds") is outer
        with pytest.raises(KeyboardInterrupt), checkout_by(Deadline.after(0.5)):
            raise KeyboardInterrupt
        assert checkout_deadline(5.0, "pool_timeout_seconds") is outer
    assert checkout_deadline(5.0, "pool_timeout_seconds").seconds == 5.0


def test_a_message_tells_the_limit_that_passed(clock: Clock) -> None:
    """Of two limits the sooner one ended the transaction, and it is the one that is named."""
    with Database("sqlite://") as db:
        for attempt in db.using(timeout=2).attempts(timeout=10):
            with pytest.raises(TransactionTimeoutError, match=r"longer than its 2 s"), attempt as tx:
                clock.now += 3.0
                tx.fetch_value("select 1")
            break
