"""psycopg's requests to cancel what runs on a connection. Behind a pooler none is broken off.

pgbouncer passes a client's request on. If that client hangs up meanwhile, because the server is slow or silent, the
request may be lost, and pgbouncer 1.18 ends itself: so a thread waits for the answer when we don't any longer.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from functools import partial
from typing import Any, Final

from psycopg import capabilities, generators, waiting
from psycopg.pq import PGconn

from prefiq_db.deadline import Deadline
from prefiq_db.drivers.stopping import STOP_SECONDS, beside

# How often psycopg interrupts a wait to check for Ctrl-C; psycopg's own number.
_INTERVAL_SECONDS: Final = 0.1
# Longer than a server is silent and comes back; pgbouncer gives up after 10 s itself, since 1.19.
_POOLER_SECONDS: Final = 300.0
# When the server is silent, no more requests than that wait for the pooler, each with a thread; others aren't sent.
_MOST_WAITING: Final = 32
_waiting: Final[set[Any]] = set()


def cancel_beside(connection: Any) -> None:
    """Let a thread cancel what runs on *connection*, which is given up; it may be closed before that has been done.

    Not so behind a pooler, which forgets a client that hangs up, and what it would have to cancel for it.
    """
    if not connection.is_lent:
        beside(partial(_cancel, connection.pgconn.cancel_conn(), STOP_SECONDS))
        return
    ended = _cancel_through_pooler(connection.pgconn)
    if ended is not None:
        _hang_up_after(ended, connection)


def cancel(connection: Any) -> None:
    """Cancel what runs on *connection*.

    Raises:
        Exception: it takes too long, or fails.
    """
    ended = _ended(connection)
    if ended is None:
        connection.cancel_safe(timeout=STOP_SECONDS)
        return
    try:
        ended.result(STOP_SECONDS)
    except BaseException:
        _hang_up_after(ended, connection)
        raise


async def cancel_async(connection: Any) -> None:
    """Do the same as :func:`cancel`, on an asynchronous connection."""
    ended, deadline = _ended(connection), Deadline.after(STOP_SECONDS)
    if ended is None:
        await connection.cancel_safe(timeout=STOP_SECONDS)
        return
    try:
        while not ended.done():
            if deadline.has_passed:
                raise TimeoutError
            await asyncio.sleep(0.005)  # the thread may end after this loop, so it can't wake it
    except BaseException:
        _hang_up_after(ended, connection)
        raise


def _ended(connection: Any) -> Future[None] | None:
    """Begin to cancel through a pooler, and return what tells the end; ``None`` if there is none before the server."""
    if not connection.is_lent or not capabilities.has_cancel_safe():
        return None
    ended = _cancel_through_pooler(connection.pgconn)
    if ended is None:
        raise TimeoutError("too many requests to cancel wait for the pooler")
    return ended


def _hang_up_after(ended: Future[None], connection: Any) -> None:
    """Close *connection* for its user; the pooler sees that when it has answered."""
    given_up, connection.pgconn = connection.pgconn, _closed_pgconn()
    ended.add_done_callback(lambda _: given_up.finish())


def _cancel_through_pooler(pgconn: Any) -> Future[None] | None:
    if len(_waiting) >= _MOST_WAITING:
        return None
    request = pgconn.cancel_conn()
    _waiting.add(request)

    def wait() -> None:
        try:
            _cancel(request, _POOLER_SECONDS)
        finally:
            _waiting.discard(request)

    return beside(wait)


def _cancel(request: Any, seconds: float) -> None:
    """Send a cancel request; its connection may be closed by now."""
    try:
        request.start()
        waiting.wait_conn(generators.cancel(request), interval=_INTERVAL_SECONDS, timeout=seconds)
    finally:
        request.finish()


def _closed_pgconn() -> Any:
    """Return a connection of libpq's that was never open; nothing is sent for it."""
    closed = PGconn.connect_start(b"none")  # not a connection string
    closed.finish()
    return closed
