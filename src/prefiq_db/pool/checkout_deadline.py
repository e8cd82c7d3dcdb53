"""The deadline of the current checkout, for the code that SQLAlchemy calls during it.

``Pool.connect()`` takes no argument, and SQLAlchemy passes none on to the pool's ``_do_get()`` and to the function that
connects. The pool serves many threads and tasks at once, so it can't hold the deadline itself. A context variable is
visible only in the thread or task that set it, and in the greenlets that SQLAlchemy runs for it. Only this module sets
and reads it: docs/decisions/0102-why-a-checkouts-deadline-is-a-context-variable.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from prefiq_db.deadline import Deadline

_under_way: ContextVar[Deadline | None] = ContextVar("prefiq_db_checkout_deadline", default=None)


@contextlib.contextmanager
def checkout_by(deadline: Deadline) -> Iterator[None]:
    """Check out connections in this block by *deadline*, if it is sooner than the limits of pool and settings."""
    before = _under_way.get()
    try:
        _under_way.set(deadline.sooner_of(before))
        yield
    finally:
        # set, not reset(token): a generator may be finished in another context, and reset() raises there
        try:
            _under_way.set(before)
        finally:
            _under_way.set(before)  # twice: after an interruption before the first, the deadline would hold for ever


def checkout_deadline(seconds: float, limit_name: str) -> Deadline:
    """Return the deadline *seconds* from now, or that of the current checkout if it is sooner."""
    return Deadline.after(seconds, limit_name).sooner_of(_under_way.get())
