"""A transaction of MongoDB: one session, and whoever may use it.

Why COMMIT is repeated and the body isn't: docs/decisions/0142-why-commit-is-repeated-on-mongodb.md.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Final

from pymongo import ReadPreference

from prefiq_db.bridge import can_await
from prefiq_db.call import Call
from prefiq_db.deadline import Deadline, own_deadline, sooner
from prefiq_db.dialects.session import SessionState
from prefiq_db.errors import (
    ErrorClass,
    ErrorKind,
    OutcomeUnknownError,
    PrefiqDbError,
    TransactionAbortedError,
    TransactionOwnershipError,
    UnsupportedError,
)
from prefiq_db.events import Line, TransactionFinished
from prefiq_db.mongo.asking import ask
from prefiq_db.mongo.mongo_instance import MongoInstance
from prefiq_db.mongo.running_calls import Note, worker_name
from prefiq_db.origin import application_line, readable
from prefiq_db.reports import Outcome
from prefiq_db.retry import attempt_failed, next_wait, note_attempt
from prefiq_db.transaction.block import Block
from prefiq_db.transaction.options import TransactionOptions
from prefiq_db.transaction.ownership import HAND_OVER, enter, leave
from prefiq_db.transaction.scope import Scope
from prefiq_db.translation.labels_mongodb import TRANSIENT_TRANSACTION

logger = logging.getLogger("prefiq_db.transaction")

# How long to wait for the server's word that a transaction is rolled back, or a session ended.
_PATIENCE_SECONDS: Final = 5.0
# UnknownReplWriteConcern, UnsatisfiableWriteConcern: COMMIT is carried out; repeating it would not confirm it either.
_NEVER_CONFIRMED: Final = frozenset({79, 100})


class SessionScope(Scope[Block]):
    """The session of a transaction, and its current user.

    Attributes:
        session: PyMongo's.
        is_doubtful: a statement was interrupted: nobody knows whether the server did it.
    """

    def __init__(self, instance: MongoInstance, session: Any, line: Line | None) -> None:
        self.instance: Any = instance
        self.worker = instance.runtime.worker
        self.session = session
        self.is_doubtful = False
        self.state = SessionState(float("inf"), None)
        self.state.checkout.line = line
        self.state.checkout.worker = worker_name()
        self.pid = os.getpid()
        self.blocks = []
        self.explicit_uses = 0
        self._users = {}

    def doubt(self) -> None:
        self.is_doubtful = True


class SessionBlock(Block):
    """A transaction. MongoDB has no savepoints, so it is always a whole one."""

    is_root: ClassVar[bool] = True
    instance: Any  # a MongoInstance

    def __init__(self, instance: MongoInstance, options: TransactionOptions, deadline: Deadline | None) -> None:
        super().__init__(instance, options, None)  # type: ignore[arg-type] # a block uses what both instances have
        self.deadline = deadline
        self.line: Line | None = None
        self._started = 0.0
        self._failed: ErrorClass | None = None
        self._commits_sent = 0

    @property
    def session_scope(self) -> SessionScope:
        scope = self.scope
        assert isinstance(scope, SessionScope)
        return scope

    # --- begin -----------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._started = time.perf_counter()
        self.line = application_line()
        self._check_server()
        instance = self.instance
        session = instance.border.cross(lambda: instance.settle(instance.client.start_session()))
        self._handle = session
        # Whatever the URL's readPreference is: a transaction reads from the primary, and MongoDB refuses another one.
        primary = ReadPreference.PRIMARY
        instance.border.cross(lambda: instance.settle(session.start_transaction(read_preference=primary)))
        self._scope = SessionScope(instance, session, self.line)
        instance.watcher.know(self._scope.state)
        self._scope.state.checkout.checked_out_at = time.perf_counter()
        enter(self._scope)

    def _check_server(self) -> None:
        """Raise if the server has no transactions; the first time, that needs one round trip."""
        if not self._server_types():
            client = self.instance.client
            note, seconds = self._note(None), self._seconds()
            ask(self.instance, note, seconds, lambda: client.admin.command("ping"), is_probe=True)
        if "Standalone" in self._server_types():
            raise UnsupportedError(
                f"database {self.instance.name}: this MongoDB server has no transactions, since it stands alone; run "
                "it as a replica set (one member is enough), or write what belongs together into one document",
                database=self.instance.name,
            )

    def _server_types(self) -> set[str]:
        """Return the types of the servers that are known by now."""
        servers = self.instance.client.topology_description.server_descriptions().values()
        return {server.server_type_name for server in servers} - {"Unknown"}

    def _note(self, call: Call | None) -> Note:
        return Note(call, self.id, self.retry_number)

    def _seconds(self) -> float:
        """Return how long the next step may take."""
        limit = sooner(self.deadline, own_deadline(self.options.step_timeout_seconds))
        usual: float = self.instance.statement_timeout_seconds
        return usual if limit is None else min(usual, limit.left())

    # --- statements ------------------------------------------------------------------------------

    def carry_out(self, call: Call, work: Callable[[Any], Any], *, explicit: bool) -> Any:
        """Return ``work(session)``, a part of *call*, in this transaction."""
        self._check_usable(call, explicit)
        scope = self.session_scope
        with scope.used():
            if scope.is_doubtful:
                raise self._lost()
            seconds, deadline = self._limits(call)
            if deadline is not None:
                seconds = min(seconds, deadline.left())
            told = self._note(call)
            try:
                return ask(self.instance, told, seconds, lambda: work(scope.session))
            except PrefiqDbError as error:
                self._judge(error, told)
                raise

    def _judge(self, error: PrefiqDbError, told: Note) -> None:
        """Note what *error* means for the whole: the server has rolled it back, and its label says what may be done."""
        # Before it looks for a server PyMongo knows of no transaction, and labels nothing.
        again = _has_label(error, TRANSIENT_TRANSACTION) or told.phase == "connect"
        found = replace(error.classification, retry_statement=False, retry_transaction=again)
        error.classification = replace(found, transient=True) if again else found
        if told.sent or again:
            self._failed = error.classification

    # --- end -------------------------------------------------------------------------------------

    def _end(self, error: BaseException | None) -> None:
        try:
            self._commit_or_roll_back(error)
        finally:
            try:
                self.abandon()
            finally:
                self._tell()

    def _tell(self) -> None:
        hooks = self.instance.hooks
        if self.outcome is Outcome.UNKNOWN and not self.options.read_only:
            self.instance.observer.statistics.note_unknown_outcome()
        if hooks.wants(TransactionFinished):
            duration = time.perf_counter() - self._started
            database, outcome = self.instance.name, self.outcome.value
            hooks.emit(TransactionFinished(database, self.id, outcome, duration, readable(self.line)))

    def _commit_or_roll_back(self, error: BaseException | None) -> None:
        scope = self.scope
        at_home = leave(scope)
        if error is None and not at_home and scope.explicit_uses == 0:
            self._roll_back()
            raise TransactionOwnershipError(
                "the block was left in another context than it was entered in (another task, a fixture, a middleware), "
                f"so statements meant for it may have run outside it; it was rolled back; {HAND_OVER}",
                database=self.instance.name,
            )
        if error is not None:
            self._roll_back()
            return
        if self._failed is not None:
            self._roll_back()
            raise self._aborted(self._failed)
        if self.session_scope.is_doubtful:
            self._roll_back()  # without the statement that was interrupted, COMMIT might store half of the work
            raise self._lost()
        budget = self.instance.commit_budget_seconds
        try:
            self.instance.runtime.shielded(self._commit, budget)
        except TimeoutError:
            if self.outcome is not Outcome.COMMITTED:
                self.outcome = Outcome.UNKNOWN
                raise self._unknown(None) from None
        except BaseException as interruption:
            if not isinstance(interruption, PrefiqDbError):
                # Raise the same instance again: a subclass would break asyncio.timeout().
                interruption.transaction_outcome = self.outcome  # type: ignore[attr-defined]  # told to who catches it
            raise

    def _aborted(self, cause: ErrorClass) -> TransactionAbortedError:
        return TransactionAbortedError(
            f"a statement of the transaction on database {self.instance.name} failed and its error was swallowed: the "
            "server has rolled the transaction back; let the error leave the block",
            database=self.instance.name,
            classification=ErrorClass(
                ErrorKind.USAGE, transient=cause.retry_transaction, retry_transaction=cause.retry_transaction
            ),
        )

    def _commit(self) -> None:
        with self.scope.used():
            self.check_deadline()
            failure = self._send_commits()
        if failure is None:
            self.scope.blocks.clear()
            self._call(self.commit_functions, "on_commit")
            return
        if self.outcome is Outcome.NOT_COMMITTED:
            self._roll_back()
        else:
            self.scope.blocks.clear()
        try:
            raise failure
        finally:
            del failure

    def _send_commits(self) -> PrefiqDbError | None:
        """Send COMMIT until the server says what became of it; return the error that says so, ``None`` for success.

        The server knows a transaction by its session and number, so a second COMMIT commits nothing twice.
        """
        policy, started, attempt = self.instance.settings.retry, time.monotonic(), 0
        lost: PrefiqDbError | None = None
        while True:
            attempt += 1
            error = self._send_commit(attempt)
            if error is None:
                return None
            if self.instance.closed and not self._commits_sent:
                return self._never_sent()  # PyMongo's client is closed, whatever its error says
            if error.kind is not ErrorKind.OUTCOME_UNKNOWN and (
                lost is None or _has_label(error, TRANSIENT_TRANSACTION)
            ):
                self.outcome = Outcome.NOT_COMMITTED
                error.classification = replace(
                    error.classification,
                    retry_statement=False,
                    retry_transaction=_has_label(error, TRANSIENT_TRANSACTION),
                )
                return error
            lost = error
            if error.code in _NEVER_CONFIRMED:
                return self._unknown(lost)
            wait = next_wait(attempt, time.monotonic() - started, policy, random.random())
            if wait is None or (self.deadline is not None and wait >= self.deadline.left()):
                return self._unknown(lost) if self._commits_sent else self._never_sent()
            event = replace(attempt_failed(lost, attempt, wait), database=self.instance.name)
            note_attempt(self.instance.name, event)
            self.instance.observer.statistics.note_retry(lost.kind)
            self.instance.hooks.emit(event)
            self.instance.runtime.sleep(wait)

    def _send_commit(self, attempt: int) -> PrefiqDbError | None:
        instance, session = self.instance, self._handle
        self.outcome = Outcome.UNKNOWN
        told = Note(None, self.id, attempt - 1)
        told.phase = "commit"
        try:
            ask(instance, told, self._seconds(), session.commit_transaction)
        except PrefiqDbError as error:
            self._commits_sent += told.sent
            return error
        # Set it right here: an interruption from now on doesn't change the outcome.
        self.outcome = Outcome.COMMITTED
        return None

    def _never_sent(self) -> PrefiqDbError:
        """Note that no COMMIT left this process, so that the server rolls back, and return the error that says so."""
        self.outcome = Outcome.NOT_COMMITTED
        return self._lost()

    def _unknown(self, lost: PrefiqDbError | None) -> OutcomeUnknownError:
        return OutcomeUnknownError(
            f"COMMIT on database {self.instance.name} was not answered, nor was it when it was repeated: it may have "
            "happened. Look before you do the work again",
            code=None if lost is None else lost.code,
            database=self.instance.name,
            classification=ErrorClass(ErrorKind.OUTCOME_UNKNOWN, connection_lost=True),
            original=None if lost is None else lost.original,
        )

    def _roll_back(self) -> None:
        scope, callbacks = self.scope, list(self.rollback_functions)
        self.outcome = Outcome.NOT_COMMITTED
        scope.blocks.clear()
        if scope.seize(self.instance.commit_budget_seconds):
            self._abort()
        self._call(callbacks, "on_rollback")

    def _abort(self) -> None:
        """Tell the server that nothing more comes; it rolls back by itself if that doesn't reach it."""
        instance, session = self.instance, self._handle
        if not session.in_transaction:
            return
        try:
            ask(instance, self._note(None), min(self._seconds(), _PATIENCE_SECONDS), session.abort_transaction)
        except PrefiqDbError as error:
            logger.info(
                "abort on database %s failed (%s); the server rolls back by itself",
                instance.name,
                error.kind.value,
                extra={"database": instance.name, "error_kind": error.kind.value},
            )

    def _let_go(self) -> None:
        scope = self._scope
        try:
            if isinstance(scope, SessionScope):
                scope.blocks.clear()
                leave(scope)
                self._came_back(scope.state)
        finally:
            session = self._handle
            if session is not None and not session.has_ended:
                self._end_session(session)

    def _came_back(self, state: SessionState) -> None:
        taken = state.checkout.checked_out_at
        state.checkout.checked_out_at = 0.0
        if taken and state.checkout.leaked:
            self.instance.watcher.checked_in(state, time.perf_counter() - taken)

    def _end_session(self, session: Any) -> None:
        if self.instance.runtime.is_async and not can_await():
            return  # the garbage collector calls; the server rolls back when the session expires
        try:
            ask(self.instance, self._note(None), _PATIENCE_SECONDS, session.end_session)
        except PrefiqDbError as error:
            logger.info(
                "the session of a transaction on database %s could not be ended (%s)",
                self.instance.name,
                error.kind.value,
                extra={"database": self.instance.name, "error_kind": error.kind.value},
            )


def _has_label(error: PrefiqDbError, label: str) -> bool:
    said = getattr(error.original, "has_error_label", None)
    return callable(said) and bool(said(label))
