"""Ask the primary how far it is when something was written, and let a replica wait for that before it reads.

Neither costs a round trip on the primary: the question travels with what writes, and MariaDB tells without a question.
Why and how: docs/decisions/0154-how-a-read-waits-for-its-write.md.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Final, Protocol

from prefiq_db.deadline import Deadline
from prefiq_db.dialects.session import SessionState
from prefiq_db.dialects.travelling import TravellingDialect
from prefiq_db.errors import ErrorClass, ErrorKind, NotReadyError, StatementRefusedError
from prefiq_db.marks import Doubt, Mark, Standing

#: the verb of the question how a replica stands; it waits for nothing
LOOK: Final = "look"
#: the verb of the question how far the primary is; it writes nothing
MARK: Final = "mark"
#: why a statement is not sent to a replica
WRITES: Final = (
    "this statement may write or lock, so it is not sent to a replica; run it on the primary, with replica=False"
)
_FIRST_PAUSE_SECONDS: Final = 0.002
_LONGEST_PAUSE_SECONDS: Final = 0.05


class ReplicaBehindError(NotReadyError):
    """A replica that has not got in time what its reader has to see; the primary answers instead."""


class Marker(Protocol):
    """Of a primary: who has to know how far it is."""

    def note(self, mark: Mark | None, doubt: Doubt | None = None) -> None:
        """Note how far the primary is after a write; ``None``: it isn't known, for which *doubt* stands."""

    def may_commit(self, statement: str, context: Any) -> bool:
        """Return whether *statement*, inside a transaction, may commit by itself."""

    def may_write(self, statement: str, context: Any) -> bool:
        """Return whether *statement*, outside a transaction, may write."""

    def may_travel(self, statement: str, context: Any) -> bool:
        """Return whether *statement* may be sent in company."""


class Gate(Protocol):
    """Of a replica: what its readers have to see."""

    wait_seconds: float

    def writes(self, statement: str, context: Any) -> bool:
        """Return whether *statement* may write by its own words; what a function does, the server judges."""

    def wanted(self) -> Mark | None:
        """Return the mark that the reader here has to see; ``None``: anything will do."""

    def may_travel(self, statement: str, context: Any) -> bool:
        """Return whether *statement* may be sent in company."""

    def pause(self, seconds: float) -> None:
        """Wait."""

    def now(self) -> float:
        """Return the time on the monotonic clock."""


class FollowingDialect(TravellingDialect):
    """Mixed into our dialects of databases that have replicas."""

    # --- on the primary --------------------------------------------------------------------------

    @property
    @abstractmethod
    def mark_sql(self) -> str:
        """The question how far the primary is."""

    @abstractmethod
    def mark_from(self, row: Any) -> Mark | None:
        """Return the mark that *row*, the reply to :attr:`mark_sql`, says."""

    def ask_mark(self, dbapi_connection: Any) -> Mark | None:
        """Ask how far the primary is, in a message of its own."""
        rows = self.ask(dbapi_connection, self.mark_sql)
        return self.mark_from(rows[0]) if rows else None

    def _forget_told(self, driver: Any) -> None:
        """Forget what the server told by itself of an earlier write, and nobody has read."""

    def _told_mark(self, driver: Any, burst: Any, cursor: Any) -> None:
        """Note what the server told after a write: in reply to what travelled in *burst*, or by itself."""
        raise NotImplementedError

    def commit_travelled(self, driver: Any, burst: Any) -> None:
        """Note how far the primary is after a COMMIT that travelled."""
        marker = self.marker
        if marker is None:
            return
        if burst.tag == "COMMIT":
            self._told_mark(driver, burst, None)
        elif burst.sent:
            marker.note(None)

    def do_rollback(self, dbapi_connection: Any) -> None:
        marker = self.marker
        if marker is not None:
            # It comes back from somebody who had the driver's own; what that one has committed, nobody told us.
            checkout = self.session_of(dbapi_connection).checkout
            if checkout.driver_works or checkout.driver_begins:
                marker.note(None)
        super().do_rollback(dbapi_connection)

    def in_step(
        self, send: Callable[..., None], statement: str, state: SessionState, proxied: Any, context: Any
    ) -> Callable[..., None]:
        """Return *send* for a statement outside a transaction: with the question behind it, or behind the check."""
        if self.gate is not None:
            return self._checked(send, statement, state, proxied, context)
        marker = self.marker
        if marker is None or _asks(state, MARK) or not marker.may_write(statement, context):
            return send
        driver = self._driver(proxied.dbapi_connection)
        travels = self._question_travels and self.begin_travels and marker.may_travel(statement, context)
        burst = self.new_burst() if travels and not self.goes_alone(context, driver) else None

        def send_marked(cursor: Any, statement: str, parameters: Any, context: Any) -> None:
            self._forget_told(driver)
            if burst is not None:
                burst.after = self.mark_sql
                driver.ride(burst)
            try:
                send(cursor, statement, parameters, context)
            except BaseException:
                marker.note(None)  # whatever it says: a part of it may be there
                raise
            finally:
                if burst is not None:
                    driver.ride(None)
            self._told_mark(driver, burst, cursor)

        return send_marked

    #: the question how far the primary is travels with a statement; else the server tells it by itself
    _question_travels = False

    def note_hidden_commit(self, statement: str, proxied: Any, context: Any) -> None:
        transaction, marker = self.session_of(proxied).transaction, self.marker
        raw = proxied.dbapi_connection
        if not self.in_transaction(raw) or transaction.aborted is not None:
            self.told_unasked(raw)
        elif marker.may_commit(statement, context):
            marker.note(None)

    def told_unasked(self, dbapi_connection: Any) -> None:
        """Note how far the primary is after a statement that committed by itself, as far as the server told."""
        self.marker.note(None)

    def let_driver_begin(self, proxied: Any) -> None:
        super().let_driver_begin(proxied)
        if self.marker is not None:
            # What it writes and commits, we don't see: until it comes back each reader asks.
            self.marker.note(None, Doubt(proxied))

    def _take_back(self, dbapi_connection: Any) -> None:
        try:
            super()._take_back(dbapi_connection)
        finally:
            if self.marker is not None:
                self.marker.note(None)

    # --- on a replica ----------------------------------------------------------------------------

    @property
    def peer_sql(self) -> str:
        """The question for a peer of the primary, which gets its data without following it; ``""``: it is none."""
        return ""

    def peer_standing(self, standing: Standing, row: Any) -> Standing:
        """Return *standing* with what *row*, the reply to :attr:`peer_sql`, says of a peer."""
        raise NotImplementedError

    def check_sql(self, mark: Mark, seconds: float) -> str:
        """Return a statement that fails unless the server has *mark*; it may wait for it at most *seconds*."""
        raise NotImplementedError

    def followed_sql(self, mark: Mark, seconds: float) -> str:
        """Return the question whether the server has *mark*; it may wait for it at most *seconds*.

        ``NULL`` answers that it won't get there by waiting.
        """
        raise NotImplementedError

    def refuse_write(self, statement: str, state: SessionState, context: Any) -> None:
        """Raise if *statement* may write: the replica would refuse it in other words, or do what nobody meant."""
        if not _asks(state, LOOK) and self.gate.writes(statement, context):
            raise StatementRefusedError(WRITES)

    def _checked(
        self, send: Callable[..., None], statement: str, state: SessionState, proxied: Any, context: Any
    ) -> Callable[..., None]:
        gate = self.gate
        mark = gate.wanted()
        if mark is None or _has(state, mark) or _asks(state, LOOK):
            return send
        driver = self._driver(proxied.dbapi_connection)
        call = state.statement.call
        deadline = None if call is None else call.deadline
        patience = self._patience(None if deadline is None else deadline.left())
        if not (self.begin_travels and gate.may_travel(statement, context)) or self.goes_alone(context, driver):
            self.wait_for_mark(proxied, patience)
            return send

        def send_after_check(cursor: Any, statement: str, parameters: Any, context: Any) -> None:
            burst = self.new_burst([self.check_sql(mark, _at_once(state, patience))])
            driver.ride(burst)
            started = gate.now()
            try:
                send(cursor, statement, parameters, context)
            except Exception:
                if not burst.refused_ahead:
                    raise
            else:
                state.followed = mark
                return
            finally:
                driver.ride(None)
            self.wait_for_mark(proxied, patience - (gate.now() - started))
            send(cursor, statement, parameters, context)

        return send_after_check

    def do_begin(self, dbapi_connection: Any) -> None:
        state = self.session_of(dbapi_connection)
        if self.gate is not None and not state.checkout.one_shot:
            # As of BEGIN itself: the driver still has the limit of whoever used the connection before.
            self._bound_control(state, dbapi_connection.dbapi_connection)
            self.wait_for_mark(dbapi_connection, self._patience(state.transaction.control_timeout))
        super().do_begin(dbapi_connection)

    def wait_for_batch(self, proxied: Any, deadline: Deadline | None) -> None:
        """Wait as :meth:`wait_for_mark` does, in front of a batch that must be done by *deadline*."""
        if self.gate is not None:
            self.wait_for_mark(proxied, self._patience(None if deadline is None else deadline.left()))

    def _patience(self, left: float | None) -> float:
        """Return how long a reader waits who has *left* seconds; ``None``: those of a statement.

        No more than half of it: if it waits in vain, the primary has to answer in the rest.
        """
        longest: float = self.gate.wait_seconds
        return min(longest, (self.limits.statement_timeout_seconds if left is None else left) / 2)

    def wait_for_mark(self, proxied: Any, seconds: float) -> None:
        """Wait until the server behind *proxied* has what the reader here has to see.

        Raises:
            ReplicaBehindError: it did not get it within *seconds*.
        """
        gate, state, raw = self.gate, self.session_of(proxied), proxied.dbapi_connection
        mark = gate.wanted()
        if mark is None or _has(state, mark):
            return
        ends_at, pause = gate.now() + seconds, _FIRST_PAUSE_SECONDS
        while True:
            left = max(0.0, ends_at - gate.now())
            is_followed = self._is_followed(proxied, raw, self.followed_sql(mark, _at_once(state, left)))
            if is_followed:
                state.followed = mark
                return
            left = ends_at - gate.now() if is_followed is False else 0.0
            if left <= 0:
                raise behind(
                    f"the replica did not get within {seconds:.3g} s what was written before, or follows another "
                    "branch; see replica_wait_seconds"
                )
            gate.pause(min(pause, left))
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def _is_followed(self, proxied: Any, raw: Any, sql: str) -> bool | None:
        """Return whether the server has what *sql* asks for; ``None``: not by waiting."""
        try:
            rows = self.ask(raw, sql)
        except Exception as error:
            judgement = self.judge(error, proxied)
            if judgement.by_code is None or judgement.lost:
                raise
            return False  # the server says why it can't tell; then it isn't known
        answer = rows[0][0] if rows else False
        return None if answer is None else bool(answer)


def _asks(state: SessionState, verb: str) -> bool:
    """Return whether the statement is our own question *verb*."""
    call = state.statement.call
    return call is not None and call.verb == verb


def _at_once(state: SessionState, seconds: float) -> float:
    """Return how much of *seconds* one question may wait at the server, whose time limit must not end it."""
    limit = state.session_timeout
    return max(0.0, seconds if limit is None else min(seconds, limit / 2))


def _has(state: SessionState, mark: Mark) -> bool:
    known: Mark | None = state.followed
    return known is not None and known.holds(mark)


def behind(why: str) -> ReplicaBehindError:
    """Return the error for a reader who has to see more than a replica is known to have."""
    return ReplicaBehindError(
        why,
        classification=ErrorClass(ErrorKind.NOT_READY, transient=True, retry_statement=True, retry_transaction=True),
    )
