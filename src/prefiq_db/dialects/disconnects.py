"""Judge an error on one of our connections once, and decide whether the connection is lost."""

from __future__ import annotations

from typing import Any, ClassVar

from prefiq_db.dialects.clocks import ClockDialect
from prefiq_db.drivers.deadlines import DeadlinePassed
from prefiq_db.drivers.readable import UNSENT, is_readable
from prefiq_db.errors import ErrorClass, ErrorKind
from prefiq_db.translation.judging import Judgement, find_judgement, judge


class JudgingDialect(ClockDialect):
    """Mixed into our dialects: judging errors."""

    #: the database's name, for classify_error and in messages
    label: ClassVar[str]

    #: whether its connections have sockets, which are polled before a connection is used
    has_sockets: ClassVar[bool] = True

    def judge(self, error: BaseException, proxied: Any) -> Judgement:
        """Judge *error*, raised on SQLAlchemy's *proxied* connection, unless it was judged before."""
        judgement = find_judgement(error)
        if judgement is not None:
            return judgement
        raw = getattr(proxied, "dbapi_connection", proxied)
        by_timeout = self.timed_out(raw)
        return judge(
            error,
            self.label,
            by_timeout=by_timeout,
            # Like the clock's, it belongs to an earlier statement unless the clock runs.
            swallowed=None if by_timeout is None else self.interruption_of(raw),
            is_lost=lambda by_code: self._is_lost(error, by_code, proxied, raw),
        )

    def is_disconnect(self, e: Any, connection: Any, cursor: Any) -> bool:
        return bool(self.judge(e, connection).lost)

    def _is_lost(self, error: Any, by_code: ErrorClass | None, proxied: Any, raw: Any) -> bool | None:
        """Return whether *error* means that its connection is lost; ``None`` if it isn't one of the driver's errors."""
        if not isinstance(error, self.loaded_dbapi.Error):  # type: ignore[attr-defined]
            return None
        if isinstance(error, DeadlinePassed) or super().is_disconnect(error, proxied, None):  # type: ignore[misc]
            return True
        if by_code is None:  # the server sent no code, so check the connection itself
            return raw is not None and self.socket_of(raw) == -1
        if by_code.kind is ErrorKind.READ_ONLY:
            # Where another connection may reach a writer, drop this one and those opened before it. But every server
            # refuses a write that our own READ ONLY refuses.
            return by_code.transient and not self.began_read_only(proxied)
        return by_code.connection_lost

    def began_read_only(self, proxied: Any) -> bool:
        """Return whether we refuse writes on SQLAlchemy's *proxied* connection, so that another server wouldn't help.

        Either the settings say ``read_only``, or we began its open transaction as READ ONLY.
        """
        if self.limits.read_only:
            return True
        if proxied is None:
            return False
        transaction = self.session_of(proxied).transaction
        return transaction.began and transaction.read_only

    def socket_of(self, dbapi_connection: Any) -> int | None:
        """Return the file descriptor of an idle connection, ``-1`` if known to be closed, ``None`` if there is none."""
        return None

    def check_not_ended(self, dbapi_connection: Any) -> None:
        """Raise the driver's error if the other end has ended the connection since its last reply, as far as is known.

        Nothing is sent, and nobody waits. A COMMIT that is sent into such a connection would be in doubt.
        """
        descriptor = None if self.is_unheard(dbapi_connection) else self.socket_of(dbapi_connection)
        if descriptor is not None and is_readable(descriptor):
            failure = self.end_of(dbapi_connection)
            if failure is not None:
                setattr(failure, UNSENT, True)
                raise failure

    def end_of(self, dbapi_connection: Any) -> Exception | None:
        """Read what a server sends that wasn't asked; return an error, and close the connection, if it is the end."""
        return None

    def is_unheard(self, dbapi_connection: Any) -> bool:
        """Return whether a reply is still to be read; the next use of the connection reads it first."""
        return False

    def hears_all(self, dbapi_connection: Any) -> bool:
        """Read what has come of that reply, without waiting; return whether the connection is fit for use."""
        return False

    def hear_out(self, dbapi_connection: Any) -> bool:
        """Wait for the rest of that reply; return whether the connection is fit for use."""
        return False
