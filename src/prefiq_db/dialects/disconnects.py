"""What an error on a connection of ours means: it is judged once, and says whether the connection is lost."""

from __future__ import annotations

from typing import Any, ClassVar

from prefiq_db.dialects.clocks import ClockDialect
from prefiq_db.drivers.deadlines import DeadlinePassed
from prefiq_db.errors import ErrorClass, ErrorKind
from prefiq_db.translation.judging import Judgement, judge


class JudgingDialect(ClockDialect):
    """Mixed into our dialects: errors."""

    #: how classify_error and people call this database
    label: ClassVar[str]

    def judge(self, error: BaseException, proxied: Any) -> Judgement:
        """Judge *error*, which came up on SQLAlchemy's *proxied* connection, unless that is done already."""
        raw = getattr(proxied, "dbapi_connection", proxied)
        return judge(
            error,
            self.label,
            by_timeout=self.timed_out(raw),
            swallowed=self.interruption_of(raw),
            is_lost=lambda by_code: self._is_lost(error, by_code, proxied, raw),
        )

    def is_disconnect(self, e: Any, connection: Any, cursor: Any) -> bool:
        return bool(self.judge(e, connection).lost)

    def _is_lost(self, error: Any, by_code: ErrorClass | None, proxied: Any, raw: Any) -> bool | None:
        """Return whether *error* tells that its connection is lost; ``None`` for what is no error of the driver."""
        if not isinstance(error, self.loaded_dbapi.Error):  # type: ignore[attr-defined]
            return None
        if isinstance(error, DeadlinePassed) or super().is_disconnect(error, proxied, None):  # type: ignore[misc]
            return True
        if by_code is None:  # not the server's word, so the connection is asked
            return raw is not None and self.socket_of(raw) == -1
        if by_code.kind is ErrorKind.READ_ONLY:
            # Where another connection may find a writer, this one and those made before it are no good. But what our
            # own READ ONLY refused, every server refuses.
            return by_code.transient and not self.began_read_only(proxied)
        return by_code.connection_lost

    def began_read_only(self, proxied: Any) -> bool:
        """Return whether a write on SQLAlchemy's *proxied* connection is refused by us, and no other server is better.

        The settings say ``read_only``, or the transaction that is open on it is a READ ONLY of ours.
        """
        if self.limits.read_only:
            return True
        if proxied is None:
            return False
        transaction = self.session_of(proxied).transaction
        return transaction.began and transaction.read_only

    def socket_of(self, dbapi_connection: Any) -> int | None:
        """Return the file descriptor of an idle connection, ``-1`` when it is known to be closed, ``None`` if n/a."""
        return None
