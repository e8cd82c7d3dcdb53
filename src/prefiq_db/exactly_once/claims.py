"""One claim: insert the token as abandoned, on a connection of its own, and read who wrote it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from prefiq_db.errors import PrefiqDbError
from prefiq_db.execution.standard import StandardRoad

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prefiq_db.bridge import Runtime
    from prefiq_db.deadline import Deadline

# How long to wait before looking which session blocks the claim: the claim has to be waiting by then.
_HEAD_START_SECONDS: Final = 0.05
# The time for a reply, in addition to the wait for a lock.
_ANSWER_SECONDS: Final = 1.0
_LOOKS: Final = 5


class Claimer:
    """Claims tokens of one database, outside its pool: the pool may be full of connections to a dead server."""

    def __init__(self, road: StandardRoad, runtime: Runtime) -> None:
        self.road = road
        self.runtime = runtime

    def claim(self, token: str, wait_seconds: float, deadline: Deadline) -> str | None:
        """Return who wrote the token: ``work``, ``abandoned``, or ``None`` if the row was removed meanwhile.

        It ends by *deadline*, connecting included; up to *wait_seconds* of that is the wait for an open transaction.

        Raises:
            LockTimeoutError: the transaction is still open after *wait_seconds*.
            PrefiqDbError: there was no reply. The claim may have happened; it may be repeated.
        """
        with self._connection(wait_seconds, deadline) as dbapi_connection:
            return self.road.border.cross(lambda: self.road.dialect.claim(dbapi_connection, token, wait_seconds))

    def claim_from(self, token: str, wait_seconds: float, deadline: Deadline) -> str | None:
        """Claim, and meanwhile end the server session that holds the token, if that is proven and permitted."""
        try:
            ended = self.runtime.beside(lambda: self._end_holder(token, wait_seconds, deadline))
        except RuntimeError:  # no thread can be started: at interpreter shutdown, or at a limit
            return self.claim(token, wait_seconds, deadline)
        try:
            return self.claim(token, wait_seconds, deadline)
        finally:
            ended()

    def _end_holder(self, token: str, wait_seconds: float, deadline: Deadline) -> None:
        try:
            with self._connection(wait_seconds, deadline) as dbapi_connection:
                for _ in range(_LOOKS):
                    self.runtime.sleep(min(_HEAD_START_SECONDS, wait_seconds / (2 * _LOOKS)))
                    if self.road.border.cross(lambda: self.road.dialect.end_holder(dbapi_connection, token)):
                        return
        except PrefiqDbError:
            # Then the claim itself fails too, and raises.
            return

    @contextmanager
    def _connection(self, wait_seconds: float, deadline: Deadline) -> Iterator[Any]:
        road = self.road.outside()
        connection = road.checkout(deadline)
        try:
            state = road.state(connection)
            # No transaction of ours: the claim sends BEGIN and COMMIT itself.
            state.checkout.one_shot = True
            dbapi_connection = connection.connection.dbapi_connection
            # The server waits for the lock, and we for the server; if it is silent, we retry on another connection.
            road.dialect.bound_wait(state, dbapi_connection, min(wait_seconds + _ANSWER_SECONDS, deadline.left()))
            yield dbapi_connection
        except PrefiqDbError as error:
            if error.classification.connection_lost:
                connection.invalidate()  # else SQLAlchemy's pool would try to reset it, and log that it can't
            raise
        finally:
            road.border.cross(connection.close)
