"""When to try again, how long to wait, and what with_retry promises; no database needed."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefiq_db import ErrorKind, RetryPolicy, classify_error, with_retry, with_retry_async
from prefiq_db.errors import (
    ConnectionLostError,
    OutcomeUnknownError,
    PrefiqDbError,
    SerializationError,
    UniqueViolationError,
    UsageError,
)
from prefiq_db.retry import Retrier, backoff_bound_seconds, next_wait, worth_repeating

policies = st.builds(
    RetryPolicy,
    attempts=st.integers(1, 100),
    wait_initial_seconds=st.floats(0, 10),
    wait_max_seconds=st.floats(0, 100),
    total_seconds=st.floats(0, 1000),
)
draws = st.floats(0, 1, exclude_max=True)
QUICK = RetryPolicy(wait_initial_seconds=0)


def conflict() -> SerializationError:
    return SerializationError("in the way", code="40001", classification=classify_error("postgresql", "40001"))


class Flaky:
    """Fails some times, then returns its arguments."""

    def __init__(self, failures: int, error: Any = conflict) -> None:
        self.failures = failures
        self.error = error
        self.calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error()
        return args, kwargs


# --- how long ------------------------------------------------------------------------------------


@given(attempt=st.integers(1, 10_000), policy=policies)
def test_a_bound_is_within_the_policy_and_never_falls(attempt: int, policy: RetryPolicy) -> None:
    """It begins at wait_initial_seconds, doubles, and stays at wait_max_seconds; also after thousands of attempts."""
    bound = backoff_bound_seconds(attempt, policy)
    assert 0 <= bound <= policy.wait_max_seconds
    assert bound <= backoff_bound_seconds(attempt + 1, policy)
    assert backoff_bound_seconds(1, policy) == min(policy.wait_initial_seconds, policy.wait_max_seconds)
    if bound < policy.wait_max_seconds and attempt < 60:
        assert bound == policy.wait_initial_seconds * 2 ** (attempt - 1)


@given(attempt=st.integers(1, 200), elapsed=st.floats(0, 2000), policy=policies, draw=draws)
def test_a_wait_is_below_its_bound_and_within_the_budget(
    attempt: int, elapsed: float, policy: RetryPolicy, draw: float
) -> None:
    """No attempt beyond the number, none that starts after the total; no wait above the bound, none below zero."""
    wait = next_wait(attempt, elapsed, policy, draw)
    if wait is None:
        assert (
            attempt >= policy.attempts or elapsed + draw * backoff_bound_seconds(attempt, policy) > policy.total_seconds
        )
        return
    assert attempt < policy.attempts
    assert 0 <= wait <= backoff_bound_seconds(attempt, policy)
    assert elapsed + wait <= policy.total_seconds


@given(attempt=st.integers(1, 50), policy=policies)
def test_jitter_reaches_from_nothing_to_the_bound(attempt: int, policy: RetryPolicy) -> None:
    """Full jitter: the lowest draw waits not at all, half of it half the bound."""
    generous = replace(policy, attempts=100, total_seconds=1e6)
    assert next_wait(attempt, 0, generous, 0.0) == 0
    assert next_wait(attempt, 0, generous, 0.5) == 0.5 * backoff_bound_seconds(attempt, generous)


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"attempts": 1.5},
        {"attempts": True},
        {"wait_initial_seconds": -1},
        {"wait_max_seconds": float("inf")},
        {"total_seconds": float("nan")},
        {"total_seconds": "15"},
    ],
)
def test_a_wrong_policy_is_refused_when_it_is_made(wrong: dict[str, Any]) -> None:
    """The error names the field."""
    with pytest.raises(UsageError, match=f"RetryPolicy.{next(iter(wrong))}"):
        RetryPolicy(**wrong)


# --- what ----------------------------------------------------------------------------------------


def test_what_is_worth_repeating() -> None:
    """What was rolled back or never sent; never an unknown outcome, a constraint or somebody else's error."""
    assert worth_repeating(conflict())
    assert not worth_repeating(ConnectionLostError("x"))
    assert not worth_repeating(
        OutcomeUnknownError("x", classification=classify_error("postgresql", "08006", phase="commit"))
    )
    assert not worth_repeating(UniqueViolationError("x", classification=classify_error("postgresql", "23505")))
    assert not worth_repeating(OSError())
    assert not worth_repeating(KeyboardInterrupt())


def test_a_retrier_waits_between_attempts_and_not_before() -> None:
    """With the sleep it was given, within the bounds, and not at all when the first attempt succeeds."""
    waits: list[float] = []
    retrier = Retrier(RetryPolicy(attempts=5), waits.append, database="main")
    assert retrier.run(lambda: 1) == 1
    assert waits == []
    flaky = Flaky(3)
    assert retrier.run(flaky) == ((), {})
    assert flaky.calls == 4
    assert len(waits) == 3
    assert all(0 <= wait <= 0.05 * 2**number for number, wait in enumerate(waits))


def test_a_retrier_raises_the_last_error_as_it_is() -> None:
    """When the attempts are used up, the last error leaves without a wrapper around it, cause or context."""
    retrier = Retrier(replace(QUICK, attempts=3), lambda seconds: None)
    raised: list[PrefiqDbError] = []

    def attempt() -> None:
        raised.append(conflict())
        raise raised[-1]

    with pytest.raises(SerializationError) as last:
        retrier.run(attempt)
    assert len(raised) == 3
    assert last.value is raised[-1]
    assert last.value.__context__ is None
    assert last.value.__cause__ is None


def test_an_error_that_changes_its_nature_ends_it() -> None:
    """The second failure is judged by itself."""
    failures: list[Exception] = [conflict(), ValueError("x"), conflict()]
    retrier = Retrier(QUICK, lambda seconds: None)

    def attempt() -> None:
        raise failures.pop(0)

    with pytest.raises(ValueError, match="x"):
        retrier.run(attempt)
    assert len(failures) == 1


# --- with_retry ----------------------------------------------------------------------------------


def test_with_retry_in_all_its_forms() -> None:
    """Bare, with arguments, and as a call: the function is called until it succeeds, with the same arguments."""
    bare, configured, called = Flaky(2), Flaky(2), Flaky(2)

    @with_retry
    def one(*args: Any, **kwargs: Any) -> Any:
        """What one says."""
        return bare(*args, **kwargs)

    @with_retry(policy=QUICK)
    def two(*args: Any, **kwargs: Any) -> Any:
        return configured(*args, **kwargs)

    assert one(1, b=2) == ((1,), {"b": 2})
    assert two(1, b=2) == ((1,), {"b": 2})
    assert with_retry(called, policy=QUICK)(3) == ((3,), {})
    assert (bare.calls, configured.calls, called.calls) == (3, 3, 3)
    assert one.__name__ == "one"
    assert one.__doc__ == "What one says."


def test_with_retry_async_in_all_its_forms() -> None:
    """The same for coroutine functions."""
    bare, configured, called = Flaky(2), Flaky(2), Flaky(2)

    @with_retry_async
    async def one(*args: Any, **kwargs: Any) -> Any:
        return bare(*args, **kwargs)

    @with_retry_async(policy=QUICK)
    async def two(*args: Any, **kwargs: Any) -> Any:
        return configured(*args, **kwargs)

    async def three(*args: Any) -> Any:
        return called(*args)

    async def body() -> None:
        assert await one(1, b=2) == ((1,), {"b": 2})
        assert await two(1, b=2) == ((1,), {"b": 2})
        assert await with_retry_async(three, policy=QUICK)(3) == ((3,), {})

    asyncio.run(body())
    assert (bare.calls, configured.calls, called.calls) == (3, 3, 3)


def test_the_wrong_world_is_refused() -> None:
    """with_retry of a coroutine function would repeat nothing; each names the other."""

    async def coroutine() -> None: ...

    with pytest.raises(UsageError, match="with_retry_async"):
        with_retry(coroutine)
    with pytest.raises(UsageError, match=r"use with_retry$"):
        with_retry_async(lambda: None)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("on", "error", "calls"),
    [
        (None, conflict, 3),
        (None, lambda: ValueError("x"), 1),
        (None, lambda: OutcomeUnknownError("x"), 1),
        (ValueError, lambda: ValueError("x"), 3),
        (ValueError, conflict, 1),
        (ErrorKind.SERIALIZATION, conflict, 3),
        (ErrorKind.DEADLOCK, conflict, 1),
        ((ErrorKind.DEADLOCK, OSError), OSError, 3),
        (lambda error: "again" in str(error), lambda: RuntimeError("again"), 3),
        (ErrorKind.OUTCOME_UNKNOWN, lambda: OutcomeUnknownError("x"), 3),
    ],
)
def test_on_says_what_is_repeated(on: Any, error: Any, calls: int) -> None:
    """An ErrorKind, a type, a function or several; an unknown outcome only when it is named."""
    flaky, policy = Flaky(99, error), replace(QUICK, attempts=3)
    with pytest.raises(Exception):  # noqa: B017, PT011 - whichever it is, the count tells
        with_retry(flaky, policy=policy, on=on)()
    assert flaky.calls == calls
    again = Flaky(99, error)

    async def coroutine() -> Any:
        return again()

    with pytest.raises(Exception):  # noqa: B017, PT011 - likewise
        asyncio.run(with_retry_async(coroutine, policy=policy, on=on)())
    assert again.calls == calls


def test_interruptions_are_never_repeated() -> None:
    """KeyboardInterrupt, SystemExit and a cancellation pass at once, even when everything is to be repeated."""
    for error in (KeyboardInterrupt, SystemExit):
        flaky = Flaky(99, error)
        with pytest.raises(error):
            with_retry(flaky, policy=QUICK, on=BaseException)()
        assert flaky.calls == 1

    calls = 0

    @with_retry_async(policy=QUICK, on=BaseException)
    async def cancelled() -> None:
        nonlocal calls
        calls += 1
        raise asyncio.CancelledError

    async def body() -> None:
        with pytest.raises(asyncio.CancelledError):
            await cancelled()

    asyncio.run(body())
    assert calls == 1


def test_calls_do_not_share_their_attempts() -> None:
    """A decorated function begins anew with every call, also with two calls at once."""
    calls: list[int] = []

    @with_retry_async(policy=replace(QUICK, attempts=3))
    async def flaky(number: int) -> int:
        calls.append(number)
        await asyncio.sleep(0)
        if calls.count(number) < 3:
            raise conflict()
        return number

    async def body() -> list[int]:
        return list(await asyncio.gather(*(flaky(number) for number in range(5))))

    assert asyncio.run(body()) == [0, 1, 2, 3, 4]
    assert len(calls) == 15


def test_waits_of_with_retry_async_do_not_block_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tasks go on while it waits."""
    monkeypatch.setattr("prefiq_db.retry.random.random", lambda: 1.0)
    ticks: list[int] = []

    @with_retry_async(policy=RetryPolicy(attempts=2, wait_initial_seconds=0.05))
    async def flaky() -> int:
        ticks.append(ticked)
        if len(ticks) == 1:
            raise conflict()
        return 1

    ticked = 0

    async def body() -> None:
        nonlocal ticked
        task = asyncio.create_task(flaky())
        while not task.done():
            ticked += 1
            await asyncio.sleep(0)
        assert await task == 1

    asyncio.run(body())
    assert ticks[1] - ticks[0] > 100


def test_attempts_are_logged_without_values(caplog: pytest.LogCaptureFixture) -> None:
    """One record a failed attempt, with fields; the error's own text stays out."""
    flaky = Flaky(2, lambda: ValueError("planted"))
    with caplog.at_level(logging.WARNING, logger="prefiq_db.retry"):
        with_retry(flaky, policy=QUICK, on=ValueError)()
    assert [record.attempt for record in caplog.records] == [1, 2]
    assert {record.error_kind for record in caplog.records} == {"error"}
    assert "planted" not in caplog.text
