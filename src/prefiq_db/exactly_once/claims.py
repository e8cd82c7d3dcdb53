"""One claim: insert the token as abandoned, on a connection of its own, and read who wrote it."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from prefiq_db.errors import PrefiqDbError
from prefiq_db.execution.standard import StandardRoad

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prefiq_db.bridge import Runtime

# How long the claim waits before somebody looks who is in its way: it has to be waiting by then.
_HEAD_START_SECONDS: Final = 0.05
# For an answer, besides the wait for a lock.
_ANSWER_SECONDS: Final = 1.0
_LOOKS: Final = 5


class Claimer:
    """Claims tokens of one database, outside its pool: the pool may be full of connections to a server that is gone."""

    def __init__(self, road: StandardRoad, runtime: Runtime) -> None:
        self.road = road
        self.runtime = runtime

    def claim(self, token: str, wait_seconds: float, within_seconds: float) -> str | None:
        """Return who wrote the token: ``work``, ``abandoned``, or ``None`` for a row that was removed meanwhile.

        It takes *within_seconds* at most, connecting included, of which *wait_seconds* are for an open transaction.

        Raises:
            LockTimeoutError: the transaction is still open after *wait_seconds*.
            PrefiqDbError: there was no answer. The claim may have happened; it may be repeated.
        """
        with self._connection(wait_seconds, within_seconds) as dbapi_connection:
            return self.road.border.cross(lambda: self.road.dialect.claim(dbapi_connection, token, wait_seconds))

    def claim_from(self, token: str, wait_seconds: float, within_seconds: float) -> str | None:
        """Claim, and meanwhile end the session that holds the token, as far as that is proven and allowed."""
        try:
            ended = self.runtime.beside(lambda: self._end_holder(token, wait_seconds, within_seconds))
        except RuntimeError:  # no thread can be started: at the end of the interpreter, or at a limit
            return self.claim(token, wait_seconds, within_seconds)
        try:
            return self.claim(token, wait_seconds, within_seconds)
        finally:
            ended()

    def _end_holder(self, token: str, wait_seconds: float, within_seconds: float) -> None:
        try:
            with self._connection(wait_seconds, within_seconds) as dbapi_connection:
                for _ in range(_LOOKS):
                    self.runtime.sleep(min(_HEAD_START_SECONDS, wait_seconds / (2 * _LOOKS)))
                    if self.road.border.cross(lambda: self.road.dialect.end_holder(dbapi_connection, token)):
                        return
        except PrefiqDbError:
            # The claim itself fares no better then, and tells.
            return

    @contextmanager
    def _connection(self, wait_seconds: float, within_seconds: float) -> Iterator[Any]:
        until = time.monotonic() + within_seconds
        road = self.road.outside()
        connection = road.checkout(within_seconds)
        try:
            state = road.state(connection)
            # Not ours to begin: the claim speaks BEGIN and COMMIT itself.
            state.checkout.one_shot = True
            dbapi_connection = connection.connection.dbapi_connection
            # The server waits for the lock, and we for the server: a silent one is asked again, on another connection.
            left = max(0.0, until - time.monotonic())
            road.dialect.bound_wait(state, dbapi_connection, min(wait_seconds + _ANSWER_SECONDS, left))
            yield dbapi_connection
        finally:
            road.border.cross(connection.close)
