"""Retry what is safe to repeat: full jitter, a limit on the total time, tenacity for the waits.

tenacity is used only after a first failure: it costs 12 µs per call even if it has nothing to do
(docs/decisions/0005-why-retries-start-after-the-first-failure.md).
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

import tenacity

from prefiq_db.config import RetryPolicy
from prefiq_db.errors import ErrorKind, PrefiqDbError, UsageError
from prefiq_db.events import AttemptFailed
from prefiq_db.retry_budget import RetryBudget
from prefiq_db.silence import hush
from prefiq_db.unrun import is_coroutine_function, refuse_awaitable, refuse_generator_function

logger = logging.getLogger("prefiq_db.retry")

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
Repeatable = Callable[[BaseException], bool]
On = ErrorKind | type[BaseException] | Repeatable
DEFAULT_POLICY = RetryPolicy()

#: Whether the waits between attempts are skipped; only tests set it.
waits_are_skipped = False


def backoff_bound_seconds(attempt: int, policy: RetryPolicy) -> float:
    """Return the longest wait after *attempt* (1-based) failed; the actual wait is drawn evenly between 0 and it."""
    # By 2**64 the maximum has long been reached; higher powers would overflow a float.
    return float(min(policy.wait_max_seconds, policy.wait_initial_seconds * 2.0 ** min(attempt - 1, 64)))


def next_wait(attempt: int, elapsed_seconds: float, policy: RetryPolicy, draw: float) -> float | None:
    """Return the seconds to wait after *attempt* failed, or ``None`` when it was the last one.

    *draw* is a random number from 0 up to 1. No attempt starts after ``policy.total_seconds``.
    """
    if attempt >= policy.attempts:
        return None
    wait = draw * backoff_bound_seconds(attempt, policy)
    return wait if elapsed_seconds + wait <= policy.total_seconds else None


def drawn_wait(attempt: int, elapsed_seconds: float, policy: RetryPolicy) -> float | None:
    """Return what :func:`next_wait` does, with a random number that needs no cryptography."""
    return next_wait(attempt, elapsed_seconds, policy, 0.0 if waits_are_skipped else random.random())


def worth_repeating(error: BaseException) -> bool:
    """Return whether the work that raised *error* may run again: it had no effect, or was rolled back."""
    if not isinstance(error, PrefiqDbError):
        return False
    return error.classification.retry_statement or error.classification.retry_transaction


class Retrier:
    """Runs attempts under one policy, with a sync or async sleep."""

    def __init__(
        self,
        policy: RetryPolicy,
        sleep: Callable[[float], None],
        repeatable: Repeatable = worth_repeating,
        *,
        database: str | None = None,
        on_retry: Callable[[AttemptFailed], None] | None = None,
        budget: RetryBudget | None = None,
    ) -> None:
        self.policy = policy
        self.budget = budget
        self.sleep = sleep
        self.repeatable = repeatable
        self.database = database
        self.on_retry = on_retry

    def run(self, attempt: Callable[[], T]) -> T:
        """Return the result of *attempt*; call it again while that is safe, allowed and in time."""
        started = time.monotonic()
        try:
            return attempt()
        except Exception as error:
            if not self.may_repeat(error):
                raise
            first = error
        return self._again(attempt, first, started)

    def may_repeat(self, error: BaseException) -> bool:
        """Return whether there may be another attempt after *error*."""
        return self.policy.attempts != 1 and self.repeatable(error)

    def resume(self, attempt: Callable[[], T], first: Exception, started: float) -> T:
        """Retry after *first*, the error of the caller's own attempt; *started* is on the monotonic clock."""
        if not self.may_repeat(first):
            raise first
        return self._again(attempt, first, started)

    def _again(self, attempt: Callable[[], T], first: Exception, started: float) -> T:
        plan = Plan(self.policy, self.repeatable, started, self.note, self.budget)
        retrying = tenacity.Retrying(sleep=self.sleep, **plan.options())
        result: T = retrying(_resume_attempts(attempt, first))
        return result

    def note(self, event: AttemptFailed) -> None:
        note_attempt(self.database, event)
        if self.on_retry is not None:
            self.on_retry(event)


class Plan:
    """The options for tenacity: when to stop, how long to wait, what to repeat; decided once per failure."""

    def __init__(
        self,
        policy: RetryPolicy,
        repeatable: Repeatable,
        started: float,
        note: Callable[[AttemptFailed], None],
        budget: RetryBudget | None = None,
    ) -> None:
        self.budget = budget
        self.policy = policy
        self.repeatable = repeatable
        self.started = started
        self.note = note
        self._drawn: tuple[int, float | None] = (0, None)

    def options(self) -> dict[str, Any]:
        return {
            "stop": lambda state: self._wait(state) is None,
            "wait": lambda state: self._wait(state) or 0.0,
            "retry": tenacity.retry_if_exception(self.repeatable),
            "before_sleep": self._before_sleep,
            "reraise": True,
        }

    def _wait(self, state: tenacity.RetryCallState) -> float | None:
        attempt = state.attempt_number
        if self._drawn[0] != attempt:
            elapsed = time.monotonic() - self.started
            wait = drawn_wait(attempt, elapsed, self.policy)
            if wait is not None and not affordable(self.budget, _error_of(state)):
                wait = None
            self._drawn = (attempt, wait)
        return self._drawn[1]

    def _before_sleep(self, state: tenacity.RetryCallState) -> None:
        self.note(attempt_failed(_error_of(state), state.attempt_number, self._wait(state) or 0.0))


def _error_of(state: tenacity.RetryCallState) -> BaseException:
    assert state.outcome is not None
    error = state.outcome.exception()
    assert error is not None
    return error


def affordable(budget: RetryBudget | None, error: BaseException) -> bool:
    """Return whether *budget* allows a retry after *error*; if not, add a note to the error."""
    if budget is None or budget.spend():
        return True
    error.add_note(budget.note)
    return False


def attempt_failed(error: BaseException, attempt: int, wait_seconds: float) -> AttemptFailed:
    """Return the event for a failed attempt that will be followed by another one."""
    known = error if isinstance(error, PrefiqDbError) else None
    return AttemptFailed(
        database=known.database if known else None,
        attempt=attempt,
        wait_seconds=wait_seconds,
        kind=known.kind if known else None,
        code=known.code if known else None,
    )


def note_attempt(database: str | None, event: AttemptFailed) -> None:
    """Log a failed attempt: its number, the reason, and the wait until the next."""
    name = database or event.database
    reason = event.kind.value if event.kind is not None else "error"
    logger.warning(
        "attempt %d failed on database %s: %s (code %s); next in %.3f s",
        event.attempt,
        name,
        reason,
        event.code,
        event.wait_seconds,
        extra={
            "database": name,
            "attempt": event.attempt,
            "wait_seconds": event.wait_seconds,
            "error_kind": reason,
            "code": event.code,
        },
    )


def _resume_attempts(attempt: Callable[[], T], first: Exception) -> Callable[[], T]:
    """Return a function whose first call raises *first*; later calls run *attempt*."""
    pending = [first]

    def resume() -> T:
        if pending:
            raise pending.pop()
        return attempt()

    return resume


# --- for any function ----------------------------------------------------------------------------


def _repeatable_on(on: On | tuple[On, ...] | None) -> Repeatable:
    if on is None:
        return worth_repeating
    choices = tuple(map(_check_choice, on if isinstance(on, tuple) else (on,)))

    def repeatable(error: BaseException) -> bool:
        return any(_matches(choice, error) for choice in choices)

    return repeatable


def _check_choice(choice: On) -> On:
    if isinstance(choice, str) and choice in set(ErrorKind):
        return ErrorKind(choice)
    if callable(choice):
        if is_coroutine_function(choice):
            raise UsageError("on: expected a plain function of an error; a coroutine would count as yes")
        return choice
    raise UsageError("on: expected ErrorKinds, exception types or functions of an error, or a tuple of these")


def _matches(choice: On, error: BaseException) -> bool:
    if isinstance(choice, ErrorKind):
        return isinstance(error, PrefiqDbError) and error.kind is choice
    if isinstance(choice, type):
        return isinstance(error, choice)
    answer = choice(error)
    refuse_awaitable(answer, "on")
    return bool(answer)


@overload
def with_retry(fn: F, *, policy: RetryPolicy | None = None, on: On | tuple[On, ...] | None = None) -> F: ...
@overload
def with_retry(
    fn: None = None, *, policy: RetryPolicy | None = None, on: On | tuple[On, ...] | None = None
) -> Callable[[F], F]: ...
def with_retry(
    fn: Callable[..., Any] | None = None,
    *,
    policy: RetryPolicy | None = None,
    on: On | tuple[On, ...] | None = None,
) -> Any:
    """Return *fn* wrapped to retry on errors that are safe to repeat. A decorator, with or without arguments.

    *on* selects other errors instead: an :class:`ErrorKind`, an exception type, a function of the error, or a tuple of
    these. An unknown outcome is never repeated unless *on* names it.

    Raises:
        UsageError: if *fn* is a coroutine function; use :func:`with_retry_async`.
    """
    if fn is None:
        return functools.partial(with_retry, policy=policy, on=on)
    if is_coroutine_function(fn):
        raise UsageError("with_retry: expected a plain function; for a coroutine function use with_retry_async")
    refuse_generator_function(fn, "with_retry")
    retrier = Retrier(policy or DEFAULT_POLICY, time.sleep, _repeatable_on(on))

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            result = retrier.run(lambda: fn(*args, **kwargs))
        except BaseException as error:
            del args, kwargs
            hush(error)
            raise
        refuse_awaitable(result, "with_retry (with_retry_async takes coroutine functions)")
        return result

    return wrapper


@overload
def with_retry_async(fn: F, *, policy: RetryPolicy | None = None, on: On | tuple[On, ...] | None = None) -> F: ...
@overload
def with_retry_async(
    fn: None = None, *, policy: RetryPolicy | None = None, on: On | tuple[On, ...] | None = None
) -> Callable[[F], F]: ...
def with_retry_async(
    fn: Callable[..., Awaitable[Any]] | None = None,
    *,
    policy: RetryPolicy | None = None,
    on: On | tuple[On, ...] | None = None,
) -> Any:
    """Return the coroutine function *fn* wrapped to retry, like :func:`with_retry`; its waits never block the loop.

    Raises:
        UsageError: if *fn* is not a coroutine function; use :func:`with_retry`.
    """
    if fn is None:
        return functools.partial(with_retry_async, policy=policy, on=on)
    if not is_coroutine_function(fn):
        raise UsageError("with_retry_async: expected a coroutine function; for a plain function use with_retry")
    chosen, repeatable = policy or DEFAULT_POLICY, _repeatable_on(on)

    @functools.wraps(fn)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            result = await attempts(args, kwargs)
        except BaseException as error:
            del args, kwargs
            hush(error)
            raise
        refuse_awaitable(result, "with_retry_async")
        return result

    async def attempts(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        started = time.monotonic()
        try:
            return await fn(*args, **kwargs)
        except Exception as error:
            if chosen.attempts == 1 or not repeatable(error):
                raise
            first = error
        plan = Plan(chosen, repeatable, started, functools.partial(note_attempt, None))
        pending = [first]

        async def resume() -> Any:
            if pending:
                raise pending.pop()
            return await fn(*args, **kwargs)

        return await tenacity.AsyncRetrying(sleep=asyncio.sleep, **plan.options())(resume)

    return wrapper
